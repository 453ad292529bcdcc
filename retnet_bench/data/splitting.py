"""Train, valid and test: by whole documents, by the hash of their names."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

from retnet_bench.base import UserError
from retnet_bench.data.corpus import SPLITS, Document, Split
from retnet_bench.data.duplicates import plain

T = TypeVar("T")


def split_documents(
    documents: Sequence[Document], together: Callable[[Document], str] | None = None
) -> dict[Split, list[Document]]:
    """About 80/10/10 by whole documents, in the order of their names' hashes.

    Documents that are one under `together` go to the same split; by default those whose texts
    are equal but for case and white space. With fewer than three groups the first document of
    each is cut into three contiguous parts instead.
    """
    same = together or (lambda document: plain(document.text))
    grouped: dict[str, list[Document]] = {}
    for document in documents:
        grouped.setdefault(same(document), []).append(document)
    groups = sorted(grouped.values(), key=lambda group: _sha256(group[0].name))
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
            f"documents is cut between lines into train, valid and test, so each wants three"
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


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
