"""The lock of a results folder: one process writes to it at a time, whichever verb that is."""

from __future__ import annotations

import os
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

_held: set[int] = set()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder`, made where it is missing, for this process.

    The system lets go however the process ends, and no child that outlives it keeps hold: the
    descriptor is not inherited by exec, and closed after a fork. flock, not a POSIX lock: that one
    is lost as soon as anything in the process closes the file, and keeps no second caller in this
    process out. On NFS, Linux has the server keep it, so that it holds between machines, too.

    Raises UserError when another process holds the folder, or it can't be written or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except (OSError, ValueError) as error:
        words = f"{reason(error, folder)}; use --out"
        raise UserError(f"can't write to {printable(folder)}: {words}") from None
    _held.add(descriptor)
    try:
        _take(descriptor, folder)
        yield
    finally:
        if descriptor in _held:  # not so in a forked child
            _held.remove(descriptor)
            os.close(descriptor)


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


def _take(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        words = "wait until it ends, or use another folder"
        raise UserError(f"another run is writing to {printable(folder)}: {words}") from None
    except OSError as error:
        words = f"{reason(error)}; use --out on another file system"
        raise UserError(f"can't lock {printable(folder)}: {words}") from None


def _let_go() -> None:
    """Close a forked child's copies: with them it would hold its parent's folders."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
