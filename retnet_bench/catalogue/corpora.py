"""What is in a corpus, and how its texts are got."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from retnet_bench.report.layout import table
from retnet_bench.results.numbers import size_bytes

if TYPE_CHECKING:
    from retnet_bench.data import Document


def corpus_table(spec: str) -> tuple[Table, list[str]]:
    """What is in a corpus, by split; and its source, licence and checksum."""
    from retnet_bench.data import SPLITS, count_words, load_corpus

    corpus = load_corpus(spec)

    def row(split: str, documents: Sequence[Document]) -> Sequence[str]:
        sizes = [len(document.text.encode()) for document in documents]
        words = sum(count_words(document.text) for document in documents)
        longest = max(zip(sizes, (d.name for d in documents), strict=True), default=None)
        shown = f"{longest[0]:,} B: {longest[1]}" if longest else ""
        return split, f"{len(sizes):,}", f"{sum(sizes):,}", f"{words:,}", shown

    everything = [document for split in SPLITS for document in corpus.splits[split]]
    rows = [*((split, corpus.splits[split]) for split in SPLITS), ("all", everything)]
    shown = table(
        f"Corpus {spec}",
        "split|>documents|>bytes|>words|longest document",
        (row(*named) for named in rows),
    )
    facts = {"source": corpus.source, "licence": corpus.licence, "checksum": corpus.checksum}
    return shown, [f"{name}: {value}" for name, value in facts.items()]


def getting(name: str) -> Iterator[str]:
    """Get a corpus, saying before each part what it is, its licence and what is downloaded."""
    from retnet_bench.data import load_corpus
    from retnet_bench.data.corpora import get_parts
    from retnet_bench.data.sources import downloaded

    parts = get_parts(name)
    for part in parts:
        yield f"{part.source}; {size_bytes(part.download_bytes)} to download"
        yield f"  licence: {part.licence}"
    for part in parts:
        yield f"{'got' if downloaded.get(part) else 'was here'}: {part.path}"
    load_corpus(name)
