"""Six novels of Jane Austen, from Debian's package r-cran-janeaustenr."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from retnet_bench.base import UserError
from retnet_bench.data.corpus import Corpus, Document
from retnet_bench.data.sources import debian, downloaded
from retnet_bench.data.sources.checked import known_corpus

DATABASE = "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
STRINGS, STRING = 16, 9
"""Types in R's serialisation (R Internals, 1.8)."""


def _extract(archive: Path) -> list[Document]:
    try:
        texts = [
            "\n".join(_strings(chunk)) + "\n" for chunk in _chunks(debian.member(archive, DATABASE))
        ]
    except (ValueError, struct.error, zlib.error) as error:
        raise UserError(f'cannot read "{archive.name}": {error}; nothing was kept') from error
    # A novel's first line is its title.
    return [
        Document(text.partition("\n")[0].strip().lower().replace(" ", "_"), text) for text in texts
    ]


def _chunks(data: bytes) -> Iterator[bytes]:
    """The objects of a lazy-load database: each its length (4 bytes) and a zlib stream."""
    while data:
        stream = zlib.decompressobj()
        yield stream.decompress(data[4:])
        if not stream.eof:
            raise ValueError("it ends within a novel")
        data = stream.unused_data


def _strings(data: bytes) -> Iterator[str]:
    """The strings of a serialised character vector, version 3, in R's big-endian form."""
    version, encoding = struct.unpack_from(">i8xi", data, 2)
    at = 18 + encoding
    kind, count = struct.unpack_from(">2i", data, at)
    if data[:2] != b"X\n" or version != 3 or kind & 255 != STRINGS:
        raise ValueError("not a vector of strings as R 3.5 and later write it")
    at += 8
    for _ in range(count):
        kind, size = struct.unpack_from(">2i", data, at)
        if kind & 255 != STRING or size < 0:
            raise ValueError(f"no string at byte {at}")
        yield data[at + 8 : at + 8 + size].decode("utf-8")
        at += 8 + size


NOVELS = downloaded.Part(
    name="austen",
    source="Debian package r-cran-janeaustenr: six novels of Jane Austen",
    licence="texts public domain (Project Gutenberg); packaging MIT",
    download_bytes=1_626_392,
    checksum="bc71e98bd2ede530958111de5fe1acac977cc30aebda8dc99f3c5751afaebe61",
    fetch=debian.archive("r-cran-janeaustenr"),
    extract=_extract,
)
CHECKSUM = "3721cab32c2fa91c8bb83402f917af932569120a218ea3b415ce8e8e81bdabb7"


def load() -> Corpus:
    """The novels as a test split."""
    return known_corpus(
        "austen",
        NOVELS.licence,
        NOVELS.source,
        {"test": downloaded.documents(NOVELS, "austen")},
        CHECKSUM,
        "get it again with: retnet-bench data get austen",
    )
