"""Reading one part: bounded, decoded, checked against the schema, and brought to today's layout.

Three things can be wrong with a part, and are told apart: the system can't read it now (UserError;
the file may be good), its bytes are no whole parquet (CorruptPart), or it is whole and says what no
record can say (UserError).
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retnet_bench.base import UserError, printable, quoted, short_hash
from retnet_bench.files import guarded
from retnet_bench.results import content
from retnet_bench.results.footer import Sizes, sizes
from retnet_bench.results.migrations import ADDED, migrated, names, with_column
from retnet_bench.results.schema import COLUMNS, NAMES, SCHEMA_VERSION, VERSION_KEY

MOST_ROWS = 300_000
"""Rows of a part. The largest of the reference results has 1,400."""
MOST_BYTES = 150_000_000
"""Bytes of a part: as a file, unpacked, and of its texts written out. Reading one takes less than
four times as much memory."""
MOST_VALUES = 15_000_000
"""Values of a column, its lists written out."""

_TEXTS = [column.name for column in COLUMNS if column.type == "string"]


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
            there = set(schema.names)
        version = _version(schema)
        wanted = (columns or NAMES) if version == SCHEMA_VERSION else names(version)
        with _decoding():
            file = pq.ParquetFile(
                source,
                metadata=footer,
                read_dictionary=[name for name in _TEXTS if name in there],
                page_checksum_verification=True,
            )
            table = file.read(wanted, use_threads=False)
        _check_age(schema.names, version)
        table = _in_layout(table, wanted)
        _check_versions(table, version)
        table = migrated(table, version).select(columns or NAMES)
        return _with_environments(table)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the part in what went wrong with it, and tell apart whose fault it is."""
    try:
        with guarded(path, "read"):
            yield
    except _Undecodable as error:
        words = "delete it and run the study again; only the cells it held are re-run"
        if path.suffix != ".parquet":
            words = "give a results folder, or a parquet file of one"
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
    stated = (schema.metadata or {}).get(VERSION_KEY, b"")
    if not stated:
        raise _Refused(
            "holds no records of retnet-bench: its metadata lack the version (pandas drops it)"
        )
    if not stated.isdigit() or len(stated) > 9 or int(stated) < 1:
        words = quoted(stated.decode("utf-8", "replace"))
        raise _Refused(f'has schema version "{words}": versions are 1 to {SCHEMA_VERSION}')
    if int(stated) > SCHEMA_VERSION:
        raise _later(int(stated))
    return int(stated)


def _later(version: int) -> _Refused:
    known = f"this retnet-bench reads up to {SCHEMA_VERSION}"
    return _Refused(f"has schema version {version}, {known}: upgrade retnet-bench")


def _check_age(there: list[str], version: int) -> None:
    """A part that says it is older than its columns would lose them."""
    for later, added in ADDED.items():
        if later > version and (found := set(added) & set(there)):
            raise _Refused(
                f"has the column {min(found)}, which its schema version {version} has not"
            )


def _check_versions(table: pa.Table, version: int) -> None:
    if "schema_version" in table.column_names:
        others = set(pc.unique(table["schema_version"]).to_pylist()) - {version}
        if others:
            raise _Refused(f"has rows of schema version {min(others)}, and itself {version}")


def _with_environments(table: pa.Table) -> pa.Table:
    """The text of each row's environment, of which the part holds one copy."""
    name = "environment_json"
    if not {name, "environment_id"} <= set(table.column_names):
        return table
    known = table.select(["environment_id", name]).filter(pc.is_valid(table[name]))
    firsts = dict(zip(*(column.to_pylist() for column in known.columns), strict=True))
    for key, text in firsts.items():
        if key != short_hash(text):
            raise _Refused(f"has an environment_json that is not that of {quoted(key)}")
    lacking = set(pc.unique(table["environment_id"]).to_pylist()) - {None, *firsts}
    if lacking:
        raise _Refused(f"has no environment_json of the environment_id {quoted(min(lacking))}")
    numbers = {key: i for i, key in enumerate(firsts)}
    indices = pa.array(
        [numbers.get(key) for key in table["environment_id"].to_pylist()], pa.int32()
    )
    filled = pa.DictionaryArray.from_arrays(indices, pa.array(firsts.values(), pa.string()))
    return with_column(table, name, filled)


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
