"""Reading one part: bounded, decoded, checked against the schema, and brought to today's layout.

Three things can be wrong with a part, and are told apart: the system can't read it now (UserError;
the file may be good), its bytes are no whole parquet (CorruptPart), or it is whole and says what no
record can say (UserError).
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.files import guarded
from retnet_bench.results import content
from retnet_bench.results.footer import Sizes, sizes
from retnet_bench.results.schema import (
    COLUMNS,
    NAMES,
    SCHEMA_VERSION,
    VERSION_KEY,
    arrow_schema,
)

MOST_ROWS = 300_000
"""Rows of a part. The largest of the reference results has 1,400."""
MOST_BYTES = 150_000_000
"""Bytes of a part: as a file, unpacked, and of its texts written out. Reading one takes less than
four times as much memory."""
MOST_VALUES = 15_000_000
"""Values of a column, its lists written out."""

_ADDED = {
    1: (
        *("learning_rate", "task", "predicted", "roofline_s", "bound"),
        *("flops_utilisation", "bandwidth_utilisation"),
    )
}
"""Columns that version v + 1 has and version v lacks."""
_FIELDS = {field.name: field for field in arrow_schema()}
_TEXTS = [column.name for column in COLUMNS if column.type == "string"]


def _add_columns(version: int) -> Callable[[pa.Table], pa.Table]:
    """A migration that adds what a version did not know yet: null, for nobody measured it."""

    def migrate(table: pa.Table) -> pa.Table:
        for name in _ADDED[version]:
            table = table.append_column(name, pa.nulls(len(table), _FIELDS[name].type))
        return table

    return migrate


MIGRATIONS = {version: _add_columns(version) for version in _ADDED}
"""From version v to version v + 1, for every v below SCHEMA_VERSION."""


class CorruptPart(UserError):
    """A part whose bytes are not those of a whole parquet file."""


class _Refused(Exception):
    """What is wrong with a part, in words that follow its name."""


class _Undecodable(_Refused):
    """The same of its bytes."""


def parts(path: Path) -> list[Path]:
    """The parts under `path`, a study's folder, its records folder or one part, in order.

    Half-written files start with a dot and are not seen. Raises UserError where there is nothing,
    and for a part that is no regular file or too large.
    """
    found = _listed(path)
    for part in found:
        with _named(part):
            _check_file(part)
    return found


def _listed(path: Path) -> list[Path]:
    with _named(path):
        if not path.exists():
            raise UserError(f"no results at {printable(path)}: no such file or folder")
        if not path.is_dir():
            return [path]
        folder = path / "records" if (path / "records").is_dir() else path
        names = (entry.name for entry in folder.iterdir())  # glob hides what it may not read
        seen = (name for name in names if name.endswith(".parquet") and name[0] != ".")
        return sorted(folder / name for name in seen)


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One part in today's layout, checked; only `columns` when given.

    Columns of JSON objects come as dictionaries. Raises CorruptPart for what is no whole parquet
    and UserError for all else that keeps it from being read; both name the file.
    """
    with _named(path):
        _check_file(path)
        part = path.read_bytes()
        with _decoding():
            found = sizes(part)
        _check_sizes(found)
        source = pa.BufferReader(part)
        with _decoding():
            footer = pq.read_metadata(source)
            schema = footer.schema.to_arrow_schema()
            names = set(schema.names)
        version = _version(schema)
        wanted = (columns or NAMES) if version == SCHEMA_VERSION else None
        with _decoding():
            file = pq.ParquetFile(
                source,
                metadata=footer,
                read_dictionary=[name for name in _TEXTS if name in names],
                page_checksum_verification=True,
            )
            table = file.read(wanted, use_threads=False)
        for old in range(version, SCHEMA_VERSION):
            table = MIGRATIONS[old](table)
        return _in_layout(table, columns or NAMES)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the part in what went wrong with it, and tell apart whose fault it is."""
    try:
        with guarded(path, "read"):
            yield
    except _Undecodable as error:
        words = "delete it and run the study again; only the cells it held are re-run"
        raise CorruptPart(f"{printable(path)} is not whole parquet ({error}): {words}") from None
    except _Refused as error:
        raise UserError(f"{printable(path)} {error}") from None
    except MemoryError:
        raise UserError(f"{printable(path)}: can't be read: not enough memory") from None


@contextmanager
def _decoding() -> Iterator[None]:
    """The bytes are in memory: whatever pyarrow says of them is for what they are."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise _Undecodable(printable(lines[0].rstrip("."), most=200)) from None


def _check_file(path: Path) -> None:
    """A pipe or a device would never end: it is not even opened."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise _Refused("is no regular file: move it away")
    _at_most(about.st_size, MOST_BYTES, "bytes")


def _check_sizes(found: Sizes) -> None:
    """Before any of it is unpacked."""
    _at_most(found.rows, MOST_ROWS, "rows")
    _at_most(found.unpacked_bytes, MOST_BYTES, "bytes when unpacked")
    _at_most(found.values, MOST_VALUES, "values a column")


def _at_most(number: int, most: int, unit: str) -> None:
    if number > most:
        raise _Refused(f"has {number:,} {unit}, at most {most:,} are read from a part")


def _version(schema: pa.Schema) -> int:
    said = (schema.metadata or {}).get(VERSION_KEY, b"")
    if not said:
        raise _Refused("holds no records of retnet-bench (its schema has no version)")
    if not said.isdigit() or len(said) > 9 or int(said) < 1:
        words = quoted(said.decode("utf-8", "replace"))
        raise _Refused(f'has schema version "{words}": versions are 1 to {SCHEMA_VERSION}')
    if int(said) > SCHEMA_VERSION:
        raise _later(int(said))
    return int(said)


def _later(version: int) -> _Refused:
    known = f"this retnet-bench reads up to {SCHEMA_VERSION}"
    return _Refused(f"has schema version {version}, {known}: upgrade retnet-bench")


def _in_layout(table: pa.Table, columns: list[str]) -> pa.Table:
    there = Counter(table.column_names)
    for name in columns:
        if not there[name]:
            raise _Refused(f"lacks the column {name} of its own schema version")
        if there[name] > 1:
            raise _Refused(f"has {there[name]} columns {name}")
    try:
        arrays = {name: content.column(name, table[name]) for name in columns}
        _at_most(content.text_bytes(arrays), MOST_BYTES, "bytes of text")
        return content.table(arrays)
    except content.LaterVersion as error:
        raise _later(error.args[0]) from None
    except content.WrongContent as error:
        words = "move the file away and run the study again; only the cells it held are re-run"
        raise _Refused(f"holds what is no record: {error}: {words}") from None
