"""Text that stands in two splits: equal, or nearly so, found by shared runs of words.

Two documents are near duplicates when at least SHARE of the shorter one's runs of RUN_WORDS words
stand in the other too. Case and white space do not count, here or for equality. A document
of fewer than RUN_WORDS words has no runs: only its equal is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retnet_bench.base import UserError
from retnet_bench.data.corpus import SPLITS, Corpus, Document, Split, Splits

RUN_WORDS = 32
"""Words; about 40 to 50 tokens of a BPE. A power of two: `runs` doubles up to it."""
SHARE = 0.25
"""Quotations stay under it: among the 249 State of the Union messages, whose authors quote each
other, two of different years share at most 9 %."""
BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Overlap:
    """Two documents and the share of the shorter one's runs that the other has too."""

    first: Document
    second: Document
    share: float


def plain(text: str) -> str:
    """The text without what does not count: case, and white space but for one blank a gap."""
    return " ".join(text.casefold().split())


def runs(text: str) -> np.ndarray:
    """Hashes of the runs of RUN_WORDS words: at most (words - RUN_WORDS + 1,), uint64, sorted, each
    once.

    Python salts the hash of a string anew in each process: never store these.
    """
    words = text.casefold().split()
    hashes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    width, base = 1, BASE
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        while width < RUN_WORDS:
            hashes = hashes[:-width] * base + hashes[width:]
            width, base = 2 * width, base * base
    return np.unique(hashes)


class Index:
    """The runs of some documents, for finding which of them another text shares."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        each = [runs(document.text) for document in documents]
        self.counts = np.array([len(hashes) for hashes in each], dtype=np.int64)
        hashes = np.concatenate([np.empty(0, np.uint64), *each])
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._owners = np.repeat(np.arange(len(each)), self.counts)[order]

    def overlap(self, document: Document) -> Overlap | None:
        """The indexed document most like this one; None if all share less than SHARE."""
        own = runs(document.text)
        if not len(own) or not len(self._hashes):
            return None
        start = np.searchsorted(self._hashes, own)
        hit = self._hashes[np.minimum(start, len(self._hashes) - 1)] == own
        start, own_hit = start[hit], own[hit]
        count = np.searchsorted(self._hashes, own_hit, "right") - start
        places = np.repeat(start, count) + _ramps(count)
        shared = np.bincount(self._owners[places], minlength=len(self.counts))
        shares = shared / np.maximum(1, np.minimum(self.counts, len(own)))
        most = int(shares.argmax())
        if shares[most] < SHARE:
            return None
        return Overlap(self.documents[most], document, float(shares[most]))


def _ramps(counts: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


# --- across splits and corpora -----------------------------------------------------------------


def refuse_leaks(name: str, splits: Splits) -> None:
    """UserError naming both documents if two splits hold the same or nearly the same text."""
    _refuse_equal(name, splits)
    train, valid, test = (tuple(splits.get(split, ())) for split in SPLITS)
    for held_out, others in (((*valid, *test), train), (test, valid)):
        found = _first_overlap(held_out, others)
        if found:
            first, second = (_with_split(d, splits) for d in (found.second, found.first))
            raise UserError(
                f'corpus "{name}" leaks: {first} and {second} {_share(found)}; remove one'
            )


def refuse_overlap(trained_on: Corpus, scored: Corpus, split: Split = "test") -> None:
    """UserError if a document to be scored stands, or nearly stands, in the train split of the
    corpus that the model was trained on. Equal corpora were checked when they were made."""
    if trained_on.checksum == scored.checksum:
        return
    documents = scored.documents(split)
    index = Index(documents)
    equal = {plain(document.text): document for document in documents}
    for document in trained_on.documents("train"):
        twin = equal.get(plain(document.text))
        found = Overlap(twin, document, 1.0) if twin else index.overlap(document)
        if found:
            raise UserError(
                f'"{found.first.name}" of corpus "{scored.name}" can\'t score a model trained on '
                f'"{trained_on.name}": it and "{document.name}" there {_share(found)}'
            )


def _refuse_equal(name: str, splits: Splits) -> None:
    seen: dict[str, tuple[Split, str]] = {}
    for split in SPLITS:
        for document in splits.get(split, ()):
            first_split, first = seen.setdefault(plain(document.text), (split, document.name))
            if first_split != split:
                raise UserError(
                    f'corpus "{name}" leaks: "{first}" ({first_split}) and "{document.name}" '
                    f"({split}) hold the same text; remove one"
                )


def _first_overlap(indexed: Sequence[Document], documents: Sequence[Document]) -> Overlap | None:
    index = Index(indexed)
    return next(filter(None, map(index.overlap, documents)), None)


def _with_split(document: Document, splits: Splits) -> str:
    split = next(s for s in SPLITS if any(document is d for d in splits.get(s, ())))
    return f'"{document.name}" ({split})'


def _share(found: Overlap) -> str:
    if found.share == 1:
        return "hold the same text, or one holds the other"
    return f"share {found.share:.0%} of the shorter one's runs of {RUN_WORDS} words"
