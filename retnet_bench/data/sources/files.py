"""A user's own text: a file, or every .txt and .md of a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from retnet_bench.base import UserError
from retnet_bench.data.corpus import Document

TEXT_SUFFIXES = (".txt", ".md")


def read_documents(root: Path, files: list[Path]) -> list[Document]:
    """One document a file, named by its path under `root`; UserError as `read_text`."""
    return [Document(name_of(file.relative_to(root)), read_text(file)) for file in files]


def read_bytes(path: Path) -> bytes:
    """What the file holds; UserError if it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'cannot read text file "{path}": {error.strerror}') from error


def read_text(path: Path) -> str:
    """The file's text, byte for byte (no newline translation); UserError unless it is UTF-8."""
    data = read_bytes(path)
    if (at := data.find(b"\0")) >= 0:
        raise UserError(f'"{path}" is not text: NUL at byte {at}; a corpus wants UTF-8 text')
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f'"{path}" is not UTF-8: invalid byte 0x{data[error.start]:02x} at byte {error.start}; '
            f"convert it to UTF-8"
        ) from error
    if not text.strip():
        raise UserError(f'"{path}" is empty; a corpus wants text in every file')
    return text


def text_files(folder: Path) -> list[Path]:
    """Every *.txt and *.md under the folder, sorted; hidden files and folders are left out."""
    return find_files(folder, TEXT_SUFFIXES)


def find_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Every file under the folder whose name ends so, sorted; nothing hidden."""

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f'cannot read folder "{error.filename}": {error.strerror}') from error

    found: list[Path] = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in suffixes)


def name_of(path: Path) -> str:
    """The path as a document's name."""
    # A file name need not be UTF-8, but results are stored as UTF-8.
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
