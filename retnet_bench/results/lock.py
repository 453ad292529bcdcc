"""The locks of a results folder: one process writes to it at a time, or jobs side by side, of which
each has a lock of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retnet_bench.base import UserError, printable
from retnet_bench.files import reason

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two runs in one folder are the user's care
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
TRY_EVERY_S = 0.2
"""How often a lock that another process holds is tried again."""

_held: set[int] = set()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder`, made where it is missing, for this process alone.

    The system lets go however the process ends, and no child that outlives it keeps hold: the
    descriptor is not inherited by exec, and closed after a fork. flock, not a POSIX lock: that one
    is lost as soon as anything in the process closes the file, and keeps no second caller in this
    process out. On NFS, Linux has the server keep it, so that it holds between machines, too.

    Raises UserError when another process holds the folder, or it can't be written or locked.
    """
    with _open(folder, folder / NAME) as descriptor:
        if not _taken(descriptor, folder):
            words = "wait until it ends, or use another folder"
            raise UserError(f"another run is writing to {printable(folder)}: {words}")
        yield


@contextmanager
def among(folder: Path, own: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock file `own`, and `folder` together with others that hold it so, but with no
    process that holds it alone. What is held by another is waited for, for `wait_s` at most.

    Raises UserError as `alone` does.
    """
    last = time.monotonic() + wait_s
    with _open(folder, folder / NAME) as shared, _open(folder, own) as descriptor:
        if not _taken(shared, folder, shared=True, last=last):
            words = f"another run is writing to {printable(folder)} alone"
            raise UserError(f"{words}, and has not ended within {wait_s:g} s")
        if not _taken(descriptor, folder, last=last):
            words = f"another process holds {printable(own)}"
            raise UserError(f"{words}, and has not ended within {wait_s:g} s")
        yield


def is_held(file: Path) -> bool:
    """Whether some process holds this lock file. False where there is no flock."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


@contextmanager
def _open(folder: Path, file: Path) -> Iterator[int]:
    """A descriptor of a lock file; closing it lets go."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except (OSError, ValueError) as error:
        words = f"{reason(error, folder)}; use another folder"
        raise UserError(f"can't write to {printable(folder)}: {words}") from None
    _held.add(descriptor)
    try:
        yield descriptor
    finally:
        if descriptor in _held:  # not so in a forked child
            _held.remove(descriptor)
            os.close(descriptor)


def _taken(descriptor: int, folder: Path, *, shared: bool = False, last: float = 0.0) -> bool:
    """Take the lock, trying until the monotonic time `last`; False where another process has it."""
    if fcntl is None:
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= last:
                return False
            time.sleep(TRY_EVERY_S)
        except OSError as error:
            words = f"{reason(error)}; use --out on another file system"
            raise UserError(f"can't lock {printable(folder)}: {words}") from None


def _let_go() -> None:
    """Close a forked child's copies: with them it would hold its parent's folders."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
