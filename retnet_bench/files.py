"""The one way to write a file: whole or not at all, and a failure is one line that names it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from retnet_bench.base import UserError, printable


@contextmanager
def guarded(path: Path, verb: str = "written") -> Iterator[None]:
    """Turn a failure of the system (no space, no permission, read-only, name too long, path that is
    no text) into one line that names `path`. Raises UserError."""
    try:
        yield
    except (OSError, UnicodeError, ValueError) as error:
        raise UserError(f"{printable(path)}: can't be {verb}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What the system says of a failure, in a few words."""
    return printable(getattr(error, "strerror", None) or error, most=200)


def write(path: Path, fill: Callable[[Path], object], *, durable: bool = False) -> None:
    """Have `fill` write a temporary file beside `path`, then rename it to `path`; its folder is
    made where it is missing. `durable` waits until the data is on the disk.

    A file that stood there before is either replaced whole or left as it was. Raises UserError.
    """
    with guarded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary(path)
        try:
            fill(partial)
            if durable:
                sync(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if durable:
            sync(path.parent)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """`write` for text, in UTF-8 with "\\n" as line end on every system."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), durable=durable)


def write_bytes(path: Path, data: bytes, *, durable: bool = False) -> None:
    """`write` for bytes that are in memory."""
    write(path, lambda partial: partial.write_bytes(data), durable=durable)


def temporary(path: Path) -> Path:
    """A new name beside `path` for what is being written: hidden, and short whatever the length of
    `path`'s own. `sweep` knows it by its pattern."""
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")


def sweep(folder: Path) -> None:
    """Delete what processes that no longer exist left half-written in `folder`."""
    for path in folder.glob(".*-*.tmp"):
        pid = path.name[1:].partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's data, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
