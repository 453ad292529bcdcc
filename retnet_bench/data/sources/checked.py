"""The two ways to a corpus: of texts nobody knows yet, and of texts whose checksum is held."""

from __future__ import annotations

from contextlib import suppress

from retnet_bench.base import UserError
from retnet_bench.data.cache import cache_folder, replace
from retnet_bench.data.corpus import Corpus, Splits, build
from retnet_bench.data.duplicates import RUN_WORDS, SHARE, refuse_leaks
from retnet_bench.files import NotWritten


def make_corpus(name: str, licence: str, source: str, splits: Splits) -> Corpus:
    """A checked corpus; UserError if two splits hold the same or nearly the same text.

    The check takes about a second for 10 MB, and each cell's process loads its corpus, so that a
    passed check is noted by checksum in the cache folder.
    """
    corpus = build(name, licence, source, splits)
    if not corpus.is_text:
        raise UserError(f'corpus "{corpus.name}" is empty: it has no document with text')
    passed = cache_folder() / "leaks-checked" / f"{corpus.checksum}-{RUN_WORDS}-{SHARE}"
    if not passed.is_file():
        refuse_leaks(corpus.name, splits)
        with suppress(NotWritten):  # without a note it is checked again
            replace(passed, b"")
    return corpus


def known_corpus(
    name: str, licence: str, source: str, splits: Splits, checksum: str, remedy: str
) -> Corpus:
    """A corpus that was checked for leaks when `checksum` was taken, so not again at each load.

    UserError, with the remedy, if it is not the corpus of that checksum.
    """
    corpus = build(name, licence, source, splits)
    if corpus.checksum != checksum:
        raise UserError(
            f'corpus "{name}" is not the one this version knows (its checksum is '
            f"{corpus.checksum}, not {checksum}); {remedy}"
        )
    return corpus
