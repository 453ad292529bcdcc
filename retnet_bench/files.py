"""The one way to write a file: whole or not at all, and a failure is one line that names it."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from retnet_bench.base import UserError, printable

SHORT_PLACE = Path("/tmp")
"""Where temporary folders with sockets are made if the system's own place has too long a name."""
_OWNED = re.compile(r"(?:\.|retnet-bench-)(\d+)-([0-9a-f]{8})-\w+(?:\.tmp)?")
"""Names of what `temporary` and `scratch` make: whose process, on which machine."""


class NotWritten(UserError):
    """The disk did not take a file. No fault of what was to be written, so that a run ends with it
    and does not keep it as a cell's outcome."""


@contextmanager
def guarded(path: Path, verb: str = "written", kind: type[UserError] = UserError) -> Iterator[None]:
    """Turn a failure of the system (no space, no permission, read-only, name too long, path that is
    no text) into one line that names `path`. Raises `kind`."""
    try:
        yield
    except (OSError, UnicodeError, ValueError) as error:
        raise kind(f"{printable(path)}: can't be {verb}: {reason(error, path)}") from error


def reason(error: Exception, path: Path | None = None) -> str:
    """What the system says of a failure, in a few words; of something on the way to `path` that is
    no folder, which it is."""
    if isinstance(error, FileExistsError | NotADirectoryError) and path is not None:
        way = (p for p in (path, *path.parents) if os.path.exists(p) and not os.path.isdir(p))
        if place := next(way, None):
            return f"{printable(place)} is a file, where a folder is needed"
    if isinstance(error, UnicodeDecodeError):
        line = 1 + error.object.count(b"\n", 0, error.start)
        return f"not UTF-8: byte 0x{error.object[error.start]:02x} in line {line}; save it as UTF-8"
    return printable(getattr(error, "strerror", None) or error, most=200)


def write(path: Path, fill: Callable[[Path], object], *, durable: bool = False) -> None:
    """Have `fill` write a temporary file beside `path`, then rename it to `path`; its folder is
    made where it is missing. `durable` waits until the data is on the disk.

    A file that stood there before is either replaced whole or left as it was. Raises NotWritten.
    """
    with guarded(path, kind=NotWritten):
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
    return path.with_name(f".{_owner()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def scratch(place: Path | None = None) -> Iterator[Path]:
    """A temporary folder for as long as the context lasts, in `place` or where the system has them.

    What killed processes left there is removed first. Raises NotWritten.
    """
    with guarded(place or Path("TMPDIR"), "used for temporary files", NotWritten):
        place = place or Path(tempfile.gettempdir())
        _swept(place)
        folder = tempfile.mkdtemp(prefix=f"retnet-bench-{_owner()}-", dir=place)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete a folder and what is in it, if it is there. Raises NotWritten, with what is left."""
    with guarded(folder, "removed", NotWritten), suppress(FileNotFoundError):
        shutil.rmtree(folder)


def sweep(folder: Path) -> None:
    """Delete what processes of this machine that no longer exist left half-made in `folder`; what
    can't be deleted stays."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _is_left(path.name):
                _delete(path)


def sweep_scratch() -> None:
    """Delete the folders of `scratch` that killed processes left, wherever those may be."""
    with suppress(OSError):
        _swept(Path(tempfile.gettempdir()))
    _swept(SHORT_PLACE)


@cache
def _swept(folder: Path) -> None:
    """`sweep`, once in this process."""
    sweep(folder)


def _is_left(name: str) -> bool:
    import psutil  # here: its 20 ms are no cost of commands that leave nothing behind

    owned = _OWNED.fullmatch(name)
    return owned is not None and owned[2] == _machine() and not psutil.pid_exists(int(owned[1]))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _owner() -> str:
    """This process, among all that may write to a shared folder."""
    return f"{os.getpid()}-{_machine()}"


@cache
def _machine() -> str:
    """Eight hex digits for what gives out process ids: the machine, or a container on it."""
    space = 0
    with suppress(OSError):  # Linux only
        space = os.stat("/proc/self/ns/pid").st_ino
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


def sync(path: Path) -> None:
    """Wait until a file's data, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
