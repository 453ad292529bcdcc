"""Parts that were spoilt: wrong content in whole parquet, and bytes changed at random."""

from __future__ import annotations

import random
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from retnet_bench.results.schema import NAMES, VERSION_KEY

TYPES = (
    *(pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(38, 3)),
    *(pa.string(), pa.large_string(), pa.binary(), pa.bool_(), pa.date32(), pa.time64("us")),
    *(pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.list_(pa.float32()), pa.list_(pa.string())),
    *(pa.struct({"a": pa.int64()}), pa.map_(pa.string(), pa.int64()), pa.null()),
    *(pa.dictionary(pa.int8(), pa.string()), pa.large_list(pa.int64()), pa.duration("us")),
)
VALUES = (
    *(0, -1, 1.5, 2**63 - 1, 1e308, float("nan"), float("inf"), True, "", "ok", "{", "[]", "{}"),
    *(b"\xff\xfe", "\x1b]0;T\a\n", "9" * 5000, [], [None], [1.0], ["x"], [[1.0]], {"a": 1}, None),
)
VERSIONS = (b"", b"0", b"1", b"3", b"-1", b"1.5", b"9" * 5000, b"\xff\xfe", b"two")
Spoil = Callable[[random.Random, pa.Table], pa.Table]


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def of_version(table: pa.Table, version: bytes) -> pa.Table:
    return table.replace_schema_metadata({VERSION_KEY: version})


def another_type(rng: random.Random, table: pa.Table) -> pa.Table:
    name, kind = rng.choice(NAMES), rng.choice(TYPES)
    try:
        values = table[name].cast(kind, safe=False)
    except (pa.ArrowException, NotImplementedError):
        values = pa.nulls(len(table), kind)
    return with_column(table, name, values)


def another_value(rng: random.Random, table: pa.Table) -> pa.Table:
    return with_column(table, rng.choice(NAMES), pa.array([rng.choice(VALUES)] * len(table)))


def some_null(rng: random.Random, table: pa.Table) -> pa.Table:
    name = rng.choice(NAMES)
    kept = [value if rng.random() < 0.5 else None for value in table[name].to_pylist()]
    return with_column(table, name, pa.array(kept, table[name].type))


def a_column_less(rng: random.Random, table: pa.Table) -> pa.Table:
    return table.drop_columns([rng.choice(NAMES)])


def a_column_more(rng: random.Random, table: pa.Table) -> pa.Table:
    name = rng.choice([*NAMES, "unheard of", ""])
    return table.append_column(name, pa.array([rng.choice(VALUES)] * len(table)))


def another_version(rng: random.Random, table: pa.Table) -> pa.Table:
    return of_version(table, rng.choice(VERSIONS))


def fewer_rows(rng: random.Random, table: pa.Table) -> pa.Table:
    return table[: rng.randrange(len(table))]


CONTENTS: tuple[Spoil, ...] = (
    *(another_type, another_value, some_null, a_column_less, a_column_more),
    *(another_version, fewer_rows),
)


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def of_wrong_content(rng: random.Random, table: pa.Table) -> bytes:
    """A whole part made of `table`, with one thing in it that may be what no record is."""
    return written(rng.choice(CONTENTS)(rng, table))


def damaged(rng: random.Random, part: bytes) -> bytes:
    """`part` with some bytes changed, mostly in the footer, or cut."""
    content = bytearray(part)
    footer = int.from_bytes(content[-8:-4], "little") + 8
    start = len(content) - footer if rng.random() < 0.6 else 0
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(start, len(content))] = rng.randrange(256)
    return bytes(content[: rng.randrange(len(content))] if rng.random() < 0.1 else content)
