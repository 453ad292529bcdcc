"""The records of a stranger: their size is looked at before they are read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retnet_bench.bundle.entries import at_most
from retnet_bench.results.schema import COLUMNS
from retnet_bench.results.store import read_records

_TEXTS = [column.name for column in COLUMNS if column.type == "string"]


class _Size(NamedTuple):
    """What there is in a part, or may be in all parts together."""

    rows: int
    values: int
    """Of the column that has most: of lists, all their numbers."""
    unpacked_bytes: int
    text_bytes: int
    """Texts as often as they stand in a row: in the file each stands once."""


_MOST = _Size(300_000, 15_000_000, 256 << 20, 256 << 20)
"""The largest of the reference results has 15,000 rows and 80 MB of text."""


def read(folder: Path) -> pd.DataFrame:
    """All records of an unpacked bundle. Raises UserError, also for more than anybody measures: a
    part of some kB can hold millions of equal rows, so that sizes are taken before it is read."""
    where = folder / "records"
    sizes = [_size(part) for part in sorted(where.glob("*.parquet"))]
    units = ("rows", "values in a column", "bytes unpacked", "bytes of text")
    for column, unit in enumerate(units):
        at_most(f"{where}", sum(size[column] for size in sizes), _MOST[column], unit)
    return read_records(folder)


def _size(part: Path) -> _Size:
    """Of a part that is no parquet, nothing: reading it says what is wrong."""
    try:
        with part.open("rb") as stream:  # a path might be taken for an address
            file = pq.ParquetFile(stream, read_dictionary=_TEXTS)
            stated = _size_said(file.metadata)
            if any(number > most for number, most in zip(stated, _MOST)):
                return stated
            texts = file.read([name for name in _TEXTS if name in file.schema_arrow.names])
            return stated._replace(text_bytes=sum(map(_text_bytes, texts.columns)))
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return _Size(0, 0, 0, 0)


def _size_said(footer: pq.FileMetaData) -> _Size:
    """By the footer, which knows nothing of texts written out. What it says below 0 is 0."""
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    values = max((chunk.num_values for chunk in chunks), default=0)
    unpacked = sum(max(0, chunk.total_uncompressed_size) for chunk in chunks)
    return _Size(max(0, footer.num_rows), max(0, values), unpacked, 0)


def _text_bytes(column: pa.ChunkedArray) -> int:
    chunks = (chunk for chunk in column.chunks if pa.types.is_dictionary(chunk.type))
    lengths = (pc.sum(pc.binary_length(c.dictionary).take(c.indices)) for c in chunks)
    return sum(length.as_py() or 0 for length in lengths)
