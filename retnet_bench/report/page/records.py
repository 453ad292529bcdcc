"""The raw records inside a page: one parquet file that any reader opens."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from retnet_bench.report.page.sides import Side
from retnet_bench.results import part
from retnet_bench.results.numbers import size_bytes

MOST_BYTES = 2_500_000
"""Of a parquet file that a page carries; all of one page together."""


@dataclass(frozen=True)
class Download:
    """One results folder's records, or why they are not in the page."""

    name: str
    rows: int
    size: str
    base64: str = ""
    note: str = ""


def download(side: Side, most: int = MOST_BYTES) -> Download:
    """Every row as it is stored, those that were run again since included."""
    tables = [part.read(path) for path in part.parts(side.path)]
    table = pa.concat_tables(tables)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=12)
    data = sink.getvalue().to_pybytes()
    name = f"{side.label.replace('/', '-')}.parquet"
    size = size_bytes(len(data))
    if len(data) > most:
        note = f"{size}, more than the {size_bytes(most)} that a page carries: {side.label}/records"
        return Download(name, len(table), size, note=note)
    return Download(name, len(table), size, base64.b64encode(data).decode())
