"""Texts that are got only when asked for, and kept in the user's cache folder.

A part is got whole or not at all: its archive goes to a scratch folder, its documents are
extracted, their sha256 is held against the one stated in the source, and only then is one file
put in place. Nothing is installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from retnet_bench import files
from retnet_bench.base import UserError
from retnet_bench.data.cache import cache_folder, replace
from retnet_bench.data.corpus import Document


@dataclass(frozen=True)
class Part:
    """Texts from one archive.

    source, licence: as in Corpus. download_bytes: about what is downloaded. checksum: sha256 of
    the kept file. fetch: downloads into an empty folder and returns the archive. extract: the
    documents of an archive.
    """

    name: str
    source: str
    licence: str
    download_bytes: int
    checksum: str
    fetch: Callable[[Path], Path] = field(repr=False)
    extract: Callable[[Path], Iterable[Document]] = field(repr=False)

    @property
    def path(self) -> Path:
        """Where it is kept; another checksum has another file."""
        return cache_folder() / "corpora" / f"{self.name}-{self.checksum[:16]}.jsonl"


def is_kept(part: Part) -> bool:
    """Whether it was got; not whether the file is whole."""
    return part.path.is_file()


def get(part: Part) -> bool:
    """Get the part unless it is here and whole; True if it was got now.

    UserError, and nothing kept, if it is not available or its documents are not those it
    should hold.
    """
    if _read(part) is not None:
        return False
    with files.scratch() as folder:
        data = encode(part.extract(part.fetch(folder)))
    if (found := hashlib.sha256(data).hexdigest()) != part.checksum:
        raise UserError(
            f"the documents of {part.source} have the sha256 {found}, not {part.checksum}: "
            f"another version, or damaged on the way; nothing was kept"
        )
    replace(part.path, data)
    return True


def documents(part: Part, corpus: str) -> list[Document]:
    """The kept documents; UserError naming the command that gets them for `corpus`."""
    command = f"retnet-bench data get {corpus}"
    if not is_kept(part):
        raise UserError(
            f'corpus "{corpus}" is not on this machine yet: {part.source} is missing; '
            f"get it with: {command}"
        )
    data = _read(part)
    if data is None:
        raise UserError(f'"{part.path}" is not what was kept there; get it again with: {command}')
    return [Document(**json.loads(line)) for line in data.decode().split("\n") if line]


def encode(found: Iterable[Document]) -> bytes:
    """The kept form: a line of JSON for each document, in their order."""
    lines = (json.dumps({"name": d.name, "text": d.text}, ensure_ascii=False) for d in found)
    return "".join(line + "\n" for line in lines).encode()


def _read(part: Part) -> bytes | None:
    """The kept file if it is there and whole."""
    try:
        data = part.path.read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == part.checksum else None
