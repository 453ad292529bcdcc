"""What a corpus is: whole documents in train/valid/test splits, with licence, source, checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from retnet_bench.base import UserError, printable

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Document:
    """One whole text; `name` is unique in its corpus."""

    name: str
    text: str = field(repr=False)


Splits = Mapping[Split, Sequence[Document]]


@dataclass(frozen=True)
class Corpus:
    """Documents by split. Two corpora are equal when their checksums (and labels) are.

    name: the spec it was loaded by. licence: of the text. source: one line of provenance. All three
    are printable. checksum: sha256 over every split, document name and text, in hex.
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
        """The split's documents in stable order; UserError if there are none."""
        if not self.is_text:
            raise UserError(
                f'corpus "{self.name}" has no text, only random ids for timing; '
                f'take one with text, such as "sotu"'
            )
        if not self.splits[split]:
            present = ", ".join(s for s in SPLITS if self.splits[s])
            raise UserError(
                f'corpus "{self.name}" has no {split} split, only {present}: it is there to score '
                f'models trained on another corpus, such as "sotu"'
            )
        return self.splits[split]


def build(name: str, licence: str, source: str, splits: Splits) -> Corpus:
    """The corpus of these splits, with its checksum. What they hold is not checked here."""
    frozen = {split: tuple(splits.get(split, ())) for split in SPLITS}
    name, licence, source = map(printable, (name, licence, source))
    return Corpus(name, licence, source, _checksum(frozen), frozen)


def _checksum(splits: Splits) -> str:
    # Splits count too: a tokenizer trained on one train split must not serve another.
    digest = hashlib.sha256()
    for split in SPLITS:
        for document in splits[split]:
            for part in (split, document.name, document.text):
                data = part.encode()
                digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
