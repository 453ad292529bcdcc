"""What the columns of a part may hold, as far as readers rely on it.

A part that anyone wrote can be whole parquet and still say `batch` 1.5. Metrics, which a later
version may add to, are left to the readers, who pass over what they don't know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from retnet_bench.base import quoted
from retnet_bench.results.schema import (
    COLUMNS,
    METRICS,
    SCHEMA_VERSION,
    STATUSES,
    WORKLOADS,
    arrow_schema,
)

DOCUMENTS = ("cell_json", "protocol_json", "environment_json")
"""Columns of JSON objects. They are long and mostly equal, and stay dictionaries."""
MOST_DOCUMENT = 1_000_000
"""Characters of a JSON object."""
LAST_TIME_US = 2**53
"""Microseconds since 1970, in the year 2255: every library can count so far."""

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_COLUMNS = {column.name: column for column in COLUMNS}
_TYPES = {f.name: _DICTIONARY if f.name in DOCUMENTS else f.type for f in arrow_schema()}


_WORDS = {"status": STATUSES, "workload": WORKLOADS}
"""Columns that hold one of a few words."""


class WrongContent(Exception):
    """What a column holds that no record can hold, in words."""


class LaterVersion(Exception):
    """The schema version of a row that a later retnet-bench has written."""


def column(name: str, array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Column `name` with the type it is declared with; texts stay dictionaries.

    Raises WrongContent, also for numbers that the declared type can't hold exactly.
    """
    declared, known = _COLUMNS[name], len(array) - array.null_count
    if declared.required and known < len(array):
        raise WrongContent(f"{name} is null in {len(array) - known:,} rows")
    if not known:
        return pa.chunked_array([pa.nulls(len(array), _TYPES[name])])
    if not _FITS[declared.type](array.type):
        raise WrongContent(f"{name} is of type {quoted(array.type)}, must be {declared.type}")
    return _READ[declared.type](name, array)


def text_bytes(arrays: Mapping[str, pa.ChunkedArray]) -> int:
    """Bytes of the texts once `table` has written them out; its dictionaries are not."""
    written_out = (array for name, array in arrays.items() if name not in DOCUMENTS)
    return sum(map(_text_bytes, written_out))


def table(arrays: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """The columns as one table, checked where one says what another may hold."""
    made = pa.table({name: array.cast(_TYPES[name]) for name, array in arrays.items()})
    if {"metric", "unit"} <= arrays.keys():
        _check_units(made)
    for name in _WORDS.keys() & arrays.keys():
        _check_words(name, made[name])
    return made


def _text_bytes(array: pa.ChunkedArray) -> int:
    if not kinds.is_dictionary(array.type):
        return 0
    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in array.chunks)
    return sum(pc.sum(chunk).as_py() or 0 for chunk in lengths)


def _check_units(made: pa.Table) -> None:
    """A time in ms under the name of one in s would be read as another number."""
    pairs = made.select(["metric", "unit"]).group_by(["metric", "unit"], use_threads=False)
    for pair in pairs.aggregate([]).to_pylist():
        metric = METRICS.get(pair["metric"])
        if metric and metric.unit != pair["unit"]:
            unit = quoted(pair["unit"])
            raise WrongContent(f'metric {metric.name} is in "{metric.unit}", not "{unit}"')


def _check_words(name: str, words: pa.ChunkedArray) -> None:
    """A row of another status would be neither a value nor a failure, one of another workload on no
    table: seen nowhere."""
    for word in pc.unique(words).to_pylist():
        if word not in _WORDS[name]:
            known = ", ".join(_WORDS[name])
            raise WrongContent(f'{name} is "{quoted(word)}", must be one of {known}')


# --- by type --------------------------------------------------------------------------------------


def _text(name: str, array: pa.ChunkedArray) -> pa.ChunkedArray:
    if not kinds.is_dictionary(array.type):
        array = array.dictionary_encode()
    try:
        array.validate(full=True)
        array = array.cast(_DICTIONARY)
    except pa.ArrowInvalid:
        raise WrongContent(f"{name} is no UTF-8 text") from None
    if name in DOCUMENTS:
        for chunk in array.chunks:
            _check_documents(name, chunk.dictionary)
    return array


def _check_documents(name: str, documents: pa.StringArray) -> None:
    if (pc.max(pc.utf8_length(documents)).as_py() or 0) > MOST_DOCUMENT:
        raise WrongContent(f"{name} is longer than {MOST_DOCUMENT:,} characters")
    for text in documents.drop_null().to_pylist():
        if not isinstance(_parsed(text), dict):
            raise WrongContent(f'{name} is "{quoted(text)}", must be a JSON object')


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number(name: str, array: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return array.cast(_TYPES[name])
    except pa.ArrowInvalid as error:
        raise WrongContent(f"{name} must be {_COLUMNS[name].type}: {quoted(error)}") from None


def _count(name: str, array: pa.ChunkedArray) -> pa.ChunkedArray:
    counts = _number(name, array)
    ends = pc.min_max(counts)
    if ends["min"].as_py() < 0:
        raise WrongContent(f"{name} is {ends['min']}, must not be negative")
    if name == "schema_version" and ends["max"].as_py() > SCHEMA_VERSION:
        raise LaterVersion(ends["max"].as_py())
    return counts


def _numbers(name: str, array: pa.ChunkedArray) -> pa.ChunkedArray:
    lists = _number(name, array)
    if pc.list_flatten(lists).null_count:
        raise WrongContent(f"{name} hold a null")
    return lists


def _time(name: str, array: pa.ChunkedArray) -> pa.ChunkedArray:
    times = _number(name, array)
    ends = pc.min_max(times.cast(pa.int64()))
    if not 0 <= ends["min"].as_py() <= ends["max"].as_py() <= LAST_TIME_US:
        raise WrongContent(f"{name} is no time between 1970 and 2255")
    return times


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return kinds.is_string(kind) or kinds.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    return kinds.is_integer(kind) or kinds.is_floating(kind)


def _is_list(kind: pa.DataType) -> bool:
    return (kinds.is_list(kind) or kinds.is_large_list(kind)) and _is_number(kind.value_type)


_FITS: dict[str, Callable[[pa.DataType], bool]] = {
    "string": _is_text,
    "int": _is_number,
    "float": _is_number,
    "bool": kinds.is_boolean,
    "floats": _is_list,
    "time": lambda kind: kinds.is_timestamp(kind) and kind.tz is not None,
}
"""Types in a file whose values can be those of a column of ours."""
_READ: dict[str, Callable[[str, pa.ChunkedArray], pa.ChunkedArray]] = {
    "string": _text,
    "int": _count,
    "float": _number,
    "bool": _number,
    "floats": _numbers,
    "time": _time,
}
