"""A user's own corpus by path: text files, or a column of .jsonl or .parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from retnet_bench.base import UserError, did_you_mean, printable, quoted
from retnet_bench.data.corpus import Corpus
from retnet_bench.data.sources import files, tables
from retnet_bench.data.sources.checked import make_corpus
from retnet_bench.data.splitting import split_documents
from retnet_bench.files import reason

LICENCE = "the user's own text; licence not known"
LONGEST_SPEC = 1000
"""Characters of a path that is not there which a message repeats."""
SUFFIXES = (*files.TEXT_SUFFIXES, *tables.TABLE_SUFFIXES)


def load(spec: str, known: Iterable[str]) -> Corpus:
    """The corpus at a path, `path#column` for another column than "text".

    known: the names of the registered corpora, to suggest one. UserError names the file and what
    is wrong: missing, empty, unreadable, binary, not UTF-8, too short to split, leaking.
    """
    path, column = _place(spec, known)
    is_folder = path.is_dir()
    found = files.find_files(path, SUFFIXES) if is_folder else [path]
    rows = [file for file in found if file.suffix.lower() in tables.TABLE_SUFFIXES]
    texts = [file for file in found if file not in set(rows)]
    _refuse_mixture(spec, column, texts, rows)
    files.check_sizes(rows or texts)
    root = path if is_folder else path.parent
    if rows:
        documents, blank = tables.read_documents(root, rows, column or tables.COLUMN)
    else:
        documents, blank = files.read_documents(root, texts), 0
    source = f"read from {spec}{tables.left_out(blank)}"
    return make_corpus(spec, LICENCE, source, split_documents(documents))


def _refuse_mixture(spec: str, column: str, texts: list[Path], rows: list[Path]) -> None:
    shown = printable(spec)
    if not texts and not rows:
        raise UserError(f'folder "{shown}" has no text files ({", ".join(SUFFIXES)})')
    if column and not rows:
        raise UserError(
            f'corpus "{shown}": only .jsonl and .parquet have columns, and there are none; '
            f"leave out #{quoted(column)}"
        )
    if texts and rows and not column:
        text, table = quoted(texts[0].name), quoted(rows[0].name)
        raise UserError(
            f'folder "{shown}" has both text ("{text}") and tables ("{table}"); '
            f'write "{shown}#{tables.COLUMN}" for the column of the tables, or keep one kind there'
        )


def _place(spec: str, known: Iterable[str]) -> tuple[Path, str]:
    """The path and the column; a `#` that belongs to an existing path is no column's."""
    location, shown = os.path.expanduser(spec), printable(spec, LONGEST_SPEC)
    try:
        if _exists(location):
            return Path(location), ""
        before, _, column = location.rpartition("#")
        if before and column and _exists(before):
            return Path(before), column
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f'cannot read corpus "{shown}": {reason(error)}') from error
    looks_like_name = not Path(spec).suffix and os.path.basename(spec) == spec
    hint = did_you_mean(spec, known) if looks_like_name else ""
    raise UserError(f'corpus "{shown}" is neither a known corpus nor an existing path{hint}')


def _exists(location: str) -> bool:
    """As os.path.exists, which would also say no for want of permission."""
    try:
        os.stat(location)
    except FileNotFoundError:
        return False
    return True
