"""A user's own text: a file, or every .txt and .md of a folder."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from retnet_bench.base import UserError, printable
from retnet_bench.data.corpus import Document
from retnet_bench.files import reason

TEXT_SUFFIXES = (".txt", ".md")
LARGEST = 2**28
"""Bytes of all files of a corpus, which is held in memory."""
LONGEST_LINE = 2**23
"""Bytes of a line of JSON, which may take 35 times as many when it is read."""
DEEPEST = 64
"""Folders within folders."""
ENTRIES = 200_000
"""Files and folders that are looked at in search of texts."""
_UNPACK = "unpack it"
_TABLE = "write its texts as a column of a .jsonl (an object a line) or .parquet"
_PLAIN = "write its text, without what lays it out, as .txt"
NOT_PROSE = {
    **dict.fromkeys((".json", ".csv", ".tsv", ".xlsx", ".ipynb"), _TABLE),
    **dict.fromkeys((".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".sql"), _PLAIN),
    **dict.fromkeys((".htm", ".html", ".xhtml", ".xml"), _PLAIN),
    **dict.fromkeys((".pdf", ".epub", ".doc", ".docx", ".odt", ".rtf"), _PLAIN),
    **dict.fromkeys((".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z"), _UNPACK),
}
"""Kinds of file whose syntax a model would learn with the text, and what would be right."""
POINTERS = {
    b"version https://git-lfs.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}
"""How the file begins that stands for one that was not downloaded, and what downloads it."""
BOM = "\ufeff"


def read_documents(root: Path, files: list[Path]) -> list[Document]:
    """One document a file, named by its path under `root`; UserError as `read_text`."""
    return [Document(name_of(file.relative_to(root)), read_text(file)) for file in files]


def check_file(path: Path, most: int = LARGEST) -> int:
    """Its size in bytes. UserError unless it is a regular file (or a link to one) of at most `most`
    bytes that can be read and stands for nothing else: a pipe or device may never end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f'"{printable(path)}" is {_kind(status.st_mode)}, not a regular file')
        with path.open("rb") as file:
            # What the kernel makes up has no size, and may wait or go on for ever.
            start = file.read(64) if status.st_size else b""
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read text file "{printable(path)}": {reason(error)}') from error
    if status.st_size > most:
        raise UserError(
            f'"{printable(path)}" has {status.st_size:,} bytes; at most {most:,} are read'
        )
    for begin, (what, remedy) in POINTERS.items():
        if start.startswith(begin):
            raise UserError(
                f'"{printable(path)}" is a {what} pointer, not the file itself; get it: {remedy}'
            )
    return status.st_size


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """What the file holds; UserError as `check_file`."""
    if not check_file(path, most):
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'cannot read text file "{printable(path)}": {reason(error)}') from error


def check_sizes(files: list[Path]) -> None:
    """UserError if one of them is not to be read (`check_file`), or all are too much at once."""
    total = sum(map(check_file, files))
    if total > LARGEST:
        raise UserError(
            f"{len(files):,} files of text have {total:,} bytes; at most {LARGEST:,} are read as "
            f"one corpus"
        )


def read_text(path: Path) -> str:
    """The file's text without a byte order mark, else byte for byte (no newline translation);
    UserError unless it is prose in UTF-8."""
    if remedy := NOT_PROSE.get(path.suffix.lower()):
        raise UserError(f'"{printable(path)}" is no plain text ({path.suffix}); {remedy}')
    data = read_bytes(path)
    if (at := data.find(b"\0")) >= 0:
        raise UserError(
            f'"{printable(path)}" is not text: NUL at byte {at}; a corpus wants UTF-8 text'
        )
    try:
        text = data.decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError as error:
        raise UserError(
            f'"{printable(path)}" is not UTF-8: invalid byte 0x{data[error.start]:02x} at byte '
            f"{error.start}; convert it to UTF-8"
        ) from error
    if not text.strip():
        raise UserError(f'"{printable(path)}" is empty; a corpus wants text in every file')
    _refuse_markup(path, text)
    return text


def text_files(folder: Path) -> list[Path]:
    """Every *.txt and *.md under the folder, sorted; hidden files and folders are left out."""
    return find_files(folder, TEXT_SUFFIXES)


def find_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Every file under the folder whose name ends so, sorted; nothing hidden, and no folder that is
    a link. UserError: not readable, more than ENTRIES, or nested deeper than DEEPEST."""
    found: list[Path] = []
    for seen, entry in enumerate(_entries(folder), 1):
        if seen > ENTRIES:
            raise UserError(
                f'folder "{printable(folder)}" holds more than {ENTRIES:,} files; '
                f"keep the texts as rows of a .jsonl or .parquet"
            )
        if Path(entry.name).suffix.lower() in suffixes and not os.path.isdir(entry.path):
            found.append(Path(entry.path))
    return sorted(found)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All under the folder that is not hidden."""
    waiting = [(os.fspath(folder), 0)]
    while waiting:
        place, depth = waiting.pop()
        if depth > DEEPEST:
            raise UserError(
                f'folder "{printable(folder)}" holds folders nested more than {DEEPEST} deep'
            )
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
        except OSError as error:
            raise UserError(f'cannot read folder "{printable(place)}": {reason(error)}') from error


def name_of(path: Path) -> str:
    """The path as a document's name: in one printable line, for results and tables."""
    # A file name need not be UTF-8, but results are stored as UTF-8.
    return printable(os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace"))


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _refuse_markup(path: Path, text: str) -> None:
    """Refuse what is known by how it begins, whatever its name."""
    first = text.lstrip().partition("\n")[0].rstrip()
    if first[:15].lower().startswith(("<!doctype html", "<html", "<?xml")):
        raise UserError(f'"{printable(path)}" is HTML or XML, not plain text; {_PLAIN}')
    if first.startswith("{") and len(first) <= LONGEST_LINE and _is_json(first):
        raise UserError(
            f'"{printable(path)}" holds JSON lines, not plain text; name it .jsonl, and its column '
            f"of text as PATH#column"
        )


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
