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
"""Bytes of a part: as a file, unpacked, and of its texts written out."""
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


def parts(path: Path) -> list[Path]:
    """The parts under `path`, a study's folder, its records folder or one part, in order.

    Half-written files start with a dot and are not seen. Raises UserError where there is nothing.
    """
    with guarded(path, "read"):
        if not path.exists():
            raise UserError(f"no results at {path}: no such file or folder")
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
    source = pa.BufferReader(_bytes_of(path))
    with _decoding(path):
        footer = pq.read_metadata(source)
        schema = footer.schema.to_arrow_schema()
        names = set(schema.names)
    version = _version(path, schema)
    _refuse_large(path, footer)
    wanted = (columns or NAMES) if version == SCHEMA_VERSION else None
    with _decoding(path):
        file = pq.ParquetFile(
            source,
            metadata=footer,
            read_dictionary=[name for name in _TEXTS if name in names],
            page_checksum_verification=True,
        )
        table = file.read(wanted, use_threads=False)
    for old in range(version, SCHEMA_VERSION):
        table = MIGRATIONS[old](table)
    return _in_layout(path, table, columns or NAMES)


def _in_layout(path: Path, table: pa.Table, columns: list[str]) -> pa.Table:
    there = Counter(table.column_names)
    for name in columns:
        if not there[name]:
            raise UserError(f"{path} lacks the column {name} of its own schema version")
        if there[name] > 1:
            raise UserError(f"{path} has {there[name]} columns {name}")
    try:
        arrays = {name: content.column(name, table[name]) for name in columns}
        _at_most(path, content.text_bytes(arrays), MOST_BYTES, "bytes of text")
        return content.table(arrays)
    except content.WrongContent as error:
        words = "move the file away and run the study again; only the cells it held are re-run"
        raise UserError(f"{path} holds what is no record: {error}: {words}") from None


def _bytes_of(path: Path) -> bytes:
    """The file's bytes. A pipe or a device would never end: it is not even opened."""
    with guarded(path, "read"):
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path} is no regular file: move it away")
        _at_most(path, about.st_size, MOST_BYTES, "bytes")
        with _memory(path):
            return path.read_bytes()


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """The bytes are in memory: whatever pyarrow makes of them is for what they are."""
    with _memory(path):
        try:
            yield
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            what = printable((str(error).splitlines() or [""])[0].rstrip("."), most=200)
            raise CorruptPart(
                f"{path} is not whole parquet ({what}): delete it and run the study again; only "
                "the cells it held are re-run"
            ) from None


@contextmanager
def _memory(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise UserError(f"{path}: can't be read: not enough memory") from None


def _at_most(path: Path, number: int, most: int, unit: str) -> None:
    if number > most:
        raise UserError(f"{path} has {number:,} {unit}, at most {most:,} are read from a part")


def _refuse_large(path: Path, about: pq.FileMetaData) -> None:
    """By what the footer says, before any of it is unpacked."""
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    chunks = [[group.column(j) for j in range(group.num_columns)] for group in groups]
    values = max((chunk.num_values for group in chunks for chunk in group), default=0)
    unpacked = sum(max(chunk.total_uncompressed_size, 0) for group in chunks for chunk in group)
    _at_most(path, about.num_rows, MOST_ROWS, "rows")
    _at_most(path, unpacked, MOST_BYTES, "bytes when unpacked")
    _at_most(path, values, MOST_VALUES, "values in a column")


def _version(path: Path, schema: pa.Schema) -> int:
    said = (schema.metadata or {}).get(VERSION_KEY, b"")
    if not said:
        raise UserError(f"{path} holds no records of retnet-bench (its schema has no version)")
    if not said.isdigit() or len(said) > 9 or int(said) < 1:
        words = quoted(said.decode("utf-8", "replace"))
        raise UserError(f'{path} has schema version "{words}": versions are 1 to {SCHEMA_VERSION}')
    if int(said) > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {int(said)}, this retnet-bench reads up to "
            f"{SCHEMA_VERSION}: upgrade retnet-bench"
        )
    return int(said)
