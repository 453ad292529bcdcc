"""From the layout of one schema version to the next: null for what nobody recorded."""

from __future__ import annotations

import json
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
    8: ("parallel",),
    9: ("score_split", "corpus_checksum", "score_corpus_checksum", "tokenizer_checksum"),
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


def _to_9(table: pa.Table) -> pa.Table:
    """Which documents were scored stands in the cell's description."""
    table = _with_nulls(9, table)
    splits = _by_text(table["cell_json"], _score_split)
    return with_column(table, "score_split", splits)


def _score_split(cell_json: str) -> str | None:
    cell = json.loads(cell_json)
    scored = cell.get("workload") in ("perplexity", "tune")
    return cell.get("score_split", "valid") if scored else None


def _by_text(texts: pa.ChunkedArray, of: Callable[[str], str | None]) -> pa.Array:
    """A text for each row, from a dictionary of those that it is made of."""
    found = texts.unify_dictionaries().combine_chunks()
    chunk = found.chunk(0) if isinstance(found, pa.ChunkedArray) else found
    made = [text and of(text) for text in chunk.dictionary.to_pylist()]
    return pa.array(made, pa.string()).take(chunk.indices)


def environment_ids(environments: pa.ChunkedArray) -> pa.Array:
    """The id of each row's environment, from dictionaries of JSON texts."""
    return _by_text(environments, short_hash)


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
    7: partial(_with_nulls, 8),
    8: _to_9,
}
"""From version v to version v + 1, for every v below SCHEMA_VERSION."""
