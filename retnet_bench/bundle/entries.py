"""The zip of a stranger: what it says of itself is checked first, and read no further than said.

A file's own words are its end record (how many entries, where they are listed) and that list (a
name, sizes and a method each). The bytes are counted again while they are read.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.files import guarded

MOST_BYTES = 256 << 20
"""Of an archive, and of all its files unpacked. The largest of the reference results has 7 MB."""
MOST_FILES = 5_000
MOST_NAME = 200
"""Characters of a file's name."""
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
"""What zipfile raises for archives that are cut, altered or packed another way."""
GIVE = "give a file that `retnet-bench bundle` wrote"

_END = struct.Struct("<4s4H2LH")
"""End record: signature, disk, first disk, entries here, entries, bytes of the list, its place,
bytes of the comment."""
_LOCATOR, _LOCATOR_BYTES = b"PK\x06\x07", 20
"""In front of it where another record, of 64-bit numbers, holds instead: for sizes beyond ours."""
_LOCAL_BYTES = 30
"""In front of each file's name and data."""
_MOST_LIST_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others take gigabytes of memory if the file asks for it."""
_PIECE = 1 << 20


# --- names ----------------------------------------------------------------------------------------


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a packed file; None for one that every system can unpack."""
    parts = name.split("/")
    if len(name) > MOST_NAME:
        return f"is longer than {MOST_NAME} characters"
    if {"", ".", ".."} & set(parts) or {"\\", ":"} & set(name):
        return "leads out of the archive"
    if printable(name) != name or any(part != part.strip(" .") for part in parts):
        return "is no plain file name"
    return None


def check_names(path: Path, files: Sequence[str], folders: Sequence[str] = ()) -> None:
    """Refuse names that lead elsewhere, or that would overwrite each other somewhere. Raises
    UserError; `path` is what it names."""
    for name in (*files, *folders):
        if problem := name_problem(name):
            raise UserError(f'{path}: the name "{quoted(name)}" {problem}')
    for name, count in Counter(map(str.casefold, files)).items():
        if count > 1:
            raise UserError(f"{path}: {name} stands there twice")
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    for name in parents.union(folders) & set(files):
        raise UserError(f"{path}: {name} is both a file and a folder")


# --- the zip --------------------------------------------------------------------------------------


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`, its list of entries checked. Raises UserError in one line."""
    _check_end(path)
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN:
        raise _no_zip(path) from None
    with archive:
        _check_entries(path, archive.infolist())
        yield archive


def _check_end(path: Path) -> None:
    """Look at the size and the end record before zipfile takes in whatever they announce."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, no archive; pack it: retnet-bench bundle {path}")
    if not path.exists():
        raise UserError(f"no archive at {path}; {GIVE}")
    if not path.is_file():
        raise UserError(f"{path} is no regular file; {GIVE}")
    with guarded(path, "read"), path.open("rb") as stream:
        size = path.stat().st_size
        stream.seek(max(0, size - _LOCATOR_BYTES - _END.size))
        tail = stream.read()
    at_most(f"{path}", size, MOST_BYTES, "bytes")
    if len(tail) < _END.size or tail.startswith(_LOCATOR):
        raise _no_zip(path)
    signature, *_, entries, list_bytes, list_at, _ = _END.unpack(tail[-_END.size :])
    if signature != b"PK\x05\x06" or list_at + list_bytes + _END.size != size:
        raise _no_zip(path)
    at_most(f"{path}", entries, MOST_FILES, "files")
    at_most(f"{path}: its list of files", list_bytes, _MOST_LIST_BYTES, "bytes")


def _no_zip(path: Path) -> UserError:
    return UserError(
        f"{path} is no zip archive, or not a whole one, or there is something behind its end; "
        f"{GIVE}"
    )


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    at_most(f"{path}", len(entries), MOST_FILES, "files")
    for entry in entries:
        if problem := _entry_problem(entry):
            raise UserError(f"{path}: {quoted(entry.orig_filename)} {problem}; {GIVE}")
    names = [entry.orig_filename for entry in entries]
    folders = [name[:-1] for name in names if name.endswith("/")]
    check_names(path, [name for name in names if not name.endswith("/")], folders)
    at_most(f"{path}: its files", sum(entry.file_size for entry in entries), MOST_BYTES, "bytes")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise UserError(f"{path}: {entry.filename} overlaps another file; {GIVE}")
        end = entry.header_offset + _LOCAL_BYTES + len(entry.orig_filename) + entry.compress_size


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in _METHODS:
        return "is packed by a method that no bundle uses"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.orig_filename.endswith("/") and entry.file_size:
        return "is a folder with contents of its own"
    return None


def at_most(what: str, number: int, most: int, unit: str) -> None:
    """Raises UserError for more than a bundle may have."""
    if number > most:
        raise UserError(f"{what}: {number:,} {unit}, at most {most:,} are read")


# --- one file of it -------------------------------------------------------------------------------


def read_entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The bytes of one file. Raises ValueError for more than `most`, and one of BROKEN."""
    with archive.open(name) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most:,} bytes")
    _check_size(archive, name, len(data))
    return data


def _check_size(archive: zipfile.ZipFile, name: str, count: int) -> None:
    """Raises ValueError where the list says another size: zipfile reads on without a word."""
    listed = archive.getinfo(name).file_size
    if count != listed:
        raise ValueError(f"it has {count} bytes, the archive's list says {listed}")


def unpack(archive: zipfile.ZipFile, name: str, target: Path) -> tuple[str, int]:
    """Write one file to `target`; returns its sha256 and bytes as counted. Raises one of BROKEN
    for what can't be unpacked, and UserError for a target that can't be written."""
    digest, count = hashlib.sha256(), 0
    with guarded(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        out = target.open("xb")
    with out, archive.open(name) as source:
        while piece := source.read(_PIECE):
            digest.update(piece)
            count += len(piece)
            with guarded(target):
                out.write(piece)
                out.flush()
    _check_size(archive, name, count)
    return digest.hexdigest(), count
