"""From the layout of one schema version to the next: null for what nobody recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyarrow as pa

from retnet_bench.base import short_hash
from retnet_bench.results import coordinates
from retnet_bench.results.schema import NAMES, SCHEMA_VERSION, arrow_schema

ADDED = {
    2: (
        *("learning_rate", "task", "predicted", "roofline_s", "bound"),
        *("flops_utilisation", "bandwidth_utilisation"),
    ),
    3: (
        *("check", "context", "shots", "filter", "score"),
        *("context_length", "tokens_seen", "step", "environment_id", "baseline"),
    ),
    4: ("pairs", "key_dim"),
    5: ("tokens_per_param", "tuned"),
    6: ("candidate",),
    7: ("new_tokens",),
}
"""Columns that a version has and the one before lacks."""
_FIELDS = {field.name: field for field in arrow_schema()}


def names(version: int) -> list[str]:
    """The columns of a version."""
    later = {name for v, added in ADDED.items() if v > version for name in added}
    return [name for name in NAMES if name not in later]


def migrated(table: pa.Table, version: int) -> pa.Table:
    """A whole and checked table of an older version in today's layout."""
    for old in range(version, SCHEMA_VERSION):
        table = _STEPS[old](table)
    return table


def _with_nulls(version: int, table: pa.Table) -> pa.Table:
    """With the columns that the version has added, of which nothing is known."""
    for name in ADDED[version]:
        table = table.append_column(name, pa.nulls(len(table), _FIELDS[name].type))
    return table


def _to_3(table: pa.Table) -> pa.Table:
    """What `phase` and `position` meant for each metric becomes a column of its own."""
    rows = zip(*(table[name].to_pylist() for name in ("metric", "phase", "position")), strict=True)
    found = [coordinates.split(*row) for row in rows]
    split = set(coordinates.COORDINATES) & {"phase", "position", *ADDED[3]}
    for name in sorted(split):
        values = pa.array([row.get(name) for row in found], _FIELDS[name].type)
        table = with_column(table, name, values)
    table = with_column(table, "baseline", pa.nulls(len(table), pa.string()))
    return with_column(table, "environment_id", environment_ids(table["environment_json"]))


def environment_ids(environments: pa.ChunkedArray) -> pa.Array:
    """The id of each row's environment, from dictionaries of JSON texts."""
    found = environments.unify_dictionaries().combine_chunks()
    chunk = found.chunk(0) if isinstance(found, pa.ChunkedArray) else found
    ids = pa.array(
        [text and short_hash(text) for text in chunk.dictionary.to_pylist()], pa.string()
    )
    return ids.take(chunk.indices)


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with that column in place of its own of this name, or behind the others."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


_STEPS: dict[int, Callable[[pa.Table], pa.Table]] = {
    1: partial(_with_nulls, 2),
    2: _to_3,
    3: partial(_with_nulls, 4),
    4: partial(_with_nulls, 5),
    5: partial(_with_nulls, 6),
    6: partial(_with_nulls, 7),
}
"""From version v to version v + 1, for every v below SCHEMA_VERSION."""
