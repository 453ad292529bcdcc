"""Writing and reading the parts of a study's records: append-only, each part whole or absent."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retnet_bench.base import UserError, did_you_mean
from retnet_bench.results.schema import (
    COLUMNS,
    METRICS,
    NAMES,
    OK_STATUSES,
    SCHEMA_VERSION,
    STATUSES,
    VERSION_KEY,
    Column,
    arrow_schema,
)
from retnet_bench.results.soundness import sound

_ADDED = {
    1: (
        *("learning_rate", "task", "predicted", "roofline_s", "bound"),
        *("flops_utilisation", "bandwidth_utilisation"),
    )
}
"""Columns that version v + 1 has and version v lacks."""


def _add_columns(version: int) -> Callable[[pa.Table], pa.Table]:
    """A migration that adds what a version did not know yet: null, for nobody measured it."""

    def migrate(table: pa.Table) -> pa.Table:
        for name in _ADDED[version]:
            field = arrow_schema().field(name)
            table = table.append_column(field, pa.nulls(len(table), field.type))
        return table

    return migrate


MIGRATIONS = {version: _add_columns(version) for version in _ADDED}
"""From version v to version v + 1, for every v below SCHEMA_VERSION."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_COLUMNS = {column.name: column for column in COLUMNS}
_STATUS_COLUMNS = ["cell_id", "run_id", "recorded_at", "metric", "status"]
_PANDAS = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


class CorruptPart(UserError):
    """A part that cannot be read as parquet."""


class Store:
    """The records of one study: `folder/records/*.parquet`.

    One process writes at a time. A cell is finished once its rows are appended, so append all
    rows of a cell in one call. Opening removes what a killed writer left half-written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.records = self.folder / "records"
        self._make_folder()
        for partial in self.records.glob(".*.tmp"):
            partial.unlink()

    def append(self, records: Sequence[Mapping[str, Any]], name: str) -> Path:
        """Write `records` as one new part and return its path: `name`.parquet, or name-2, ...

        Missing columns become null; `value` becomes the median of `samples` where it is not given.
        Raises ValueError for a record that breaks the schema, UserError when the disk is full.
        """
        rows = [_complete(record) for record in records]
        if not rows:
            raise ValueError(f"part {name!r} would have no records")
        table = pa.Table.from_pylist(rows, schema=_written_schema())
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        path = self._free(name)
        try:
            _write_whole(path, sink.getvalue())
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(
                f"no space left for {path.name} in {self.records}: free some and run again; "
                "the parts written so far are whole"
            ) from None
        return path

    def finished(self) -> dict[str, str]:
        """Status per cell that has records: of its latest run, the failure, impure or ok."""
        parts = [_read_part(part, _STATUS_COLUMNS) for part in _parts(self.records)]
        if not parts:
            return {}
        cells = of_latest_runs(pa.concat_tables(parts).to_pandas()).groupby("cell_id")
        return {str(cell): _cell_status(group) for cell, group in cells}

    def quarantine(self) -> list[Path]:
        """Move parts that cannot be read out of the way, so that their cells are run again.

        They go to `folder/corrupt/<name>.parquet.corrupt`; returns their new paths. Not beside
        the good parts, because `pandas.read_parquet` opens every file of a folder.
        """
        moved = []
        for part in _parts(self.records):
            try:
                _read_part(part)
            except CorruptPart:
                moved.append(_move(part, self.folder / "corrupt" / f"{part.name}.corrupt"))
        return moved

    def clear(self) -> Path | None:
        """Start anew: move the records to `records.<UTC time>.bak`; None when there were none."""
        if not _parts(self.records):
            return None
        now = datetime.now(timezone.utc)
        backup = _move(self.records, self.folder / f"records.{now:%Y%m%dT%H%M%S.%fZ}.bak")
        self._make_folder()
        return backup

    def _make_folder(self) -> None:
        try:
            self.records.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot keep results in {self.folder}: {error.strerror}") from None

    def _free(self, name: str) -> Path:
        path, count = self.records / f"{name}.parquet", 1
        while path.exists():
            count += 1
            path = self.records / f"{name}-{count}.parquet"
        return path


def read_records(path: str | Path) -> pd.DataFrame:
    """All records under `path`: a study's folder, its records folder or one parquet file.

    Integers and flags are nullable. Older parts are migrated, and cells that hold impossible values
    are left out with the reason (`soundness`); raises UserError, naming the file,
    for parts that are corrupt, of a newer version or no records of retnet-bench at all.
    """
    parts = _parts(Path(path))
    if not parts:
        raise UserError(f"no records in {path}: give the folder of a study that has run")
    table = pa.concat_tables([_read_part(part) for part in parts])
    return sound(table.to_pandas(types_mapper=_PANDAS.get))


def read_all(paths: Sequence[str | Path]) -> pd.DataFrame:
    """The records of several results as one table; a path that is named twice is read once."""
    once = {Path(path).resolve(): path for path in paths}
    return pd.concat([read_records(path) for path in once.values()], ignore_index=True)


def _parts(path: Path) -> list[Path]:
    """The parts under `path`, in order; half-written files start with a dot and are not seen."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"no results at {path}: no such file or folder")
    folder = path / "records" if (path / "records").is_dir() else path
    return sorted(part for part in folder.glob("*.parquet") if not part.name.startswith("."))


def _read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One part in today's layout; only `columns` when given."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            version = _version(path, file.schema_arrow)
            table = file.read(columns if version == SCHEMA_VERSION else None)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise UserError(f"cannot read {path}: permission denied") from None
        raise CorruptPart(
            f"{path} is not whole parquet ({str(error).splitlines()[0].rstrip('.')}): delete it "
            "and run the study again; only the cells it held are re-run"
        ) from None
    for old in range(version, SCHEMA_VERSION):
        table = MIGRATIONS[old](table)
    return _in_layout(path, table, columns or NAMES)


def _version(path: Path, schema: pa.Schema) -> int:
    said = (schema.metadata or {}).get(VERSION_KEY)
    if said is None or not said.isdigit():
        raise UserError(f"{path} holds no records of retnet-bench (its schema has no version)")
    if int(said) > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {int(said)}, this retnet-bench reads up to "
            f"{SCHEMA_VERSION}: upgrade retnet-bench"
        )
    return int(said)


def _in_layout(path: Path, table: pa.Table, columns: list[str]) -> pa.Table:
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]} of its own schema version")
    schema = pa.schema([arrow_schema().field(name) for name in columns])
    return table.select(columns).cast(schema)


def of_latest_runs(records: pd.DataFrame) -> pd.DataFrame:
    """Rows of each cell's latest run, by time: a cell that was run again counts as that went."""
    rows = records.sort_values("recorded_at", kind="stable")
    return rows[rows["run_id"] == rows.groupby("cell_id")["run_id"].transform("last")]


def _cell_status(rows: pd.DataFrame) -> str:
    failures = rows.loc[rows["metric"] == "outcome", "status"]
    if len(failures):
        return str(failures.iloc[-1])
    return "impure" if (rows["status"] == "impure").any() else "ok"


def _complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` with every column, checked against the schema."""
    unknown = [name for name in record if name not in _COLUMNS]
    if unknown:
        raise ValueError(f'unknown column "{unknown[0]}"{did_you_mean(unknown[0], NAMES)}')
    row = {name: record.get(name) for name in NAMES}
    row["schema_version"] = (
        SCHEMA_VERSION if row["schema_version"] is None else row["schema_version"]
    )
    for column in COLUMNS:
        _check(column, row[column.name])
    _check_words(row)
    samples = row["samples"]
    if row["value"] is None and samples is not None and len(samples):
        row["value"] = float(np.median(samples))
    return row


def _check(column: Column, value: Any) -> None:
    if value is None:
        if column.required:
            raise ValueError(f'column "{column.name}" is required')
    elif not _FITS[column.type](value):
        raise ValueError(f'column "{column.name}" must be {column.type}, is {value!r}')


def _check_words(row: Mapping[str, Any]) -> None:
    metric = METRICS.get(row["metric"])
    if metric is None:
        near = did_you_mean(row["metric"], METRICS)
        raise ValueError(f'metric "{row["metric"]}" is not declared in the schema{near}')
    if row["unit"] != metric.unit:
        raise ValueError(f'metric "{metric.name}" is in "{metric.unit}", not "{row["unit"]}"')
    if row["status"] not in STATUSES:
        raise ValueError(f'unknown status "{row["status"]}"{did_you_mean(row["status"], STATUSES)}')
    if row["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version must be {SCHEMA_VERSION}, is {row['schema_version']}")
    if row["status"] not in OK_STATUSES and not row["reason"]:
        raise ValueError(f'status "{row["status"]}" needs a reason')


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _is_time(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


_LISTS = (list, tuple, np.ndarray)
_FITS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    "float": _is_real,
    "bool": lambda value: isinstance(value, bool | np.bool_),
    "floats": lambda value: isinstance(value, _LISTS) and all(map(_is_real, value)),
    "time": _is_time,
}


def _written_schema() -> pa.Schema:
    """The Arrow schema, with hints that make `pandas.read_parquet` keep integers nullable."""
    schema = arrow_schema()
    empty = schema.empty_table().to_pandas(types_mapper=_PANDAS.get)
    hints = pa.Schema.from_pandas(empty, preserve_index=False).metadata
    return schema.with_metadata({**schema.metadata, **hints})


def _write_whole(path: Path, content: pa.Buffer) -> None:
    """`content` under `path` at once and for good: a kill or power cut leaves all or nothing."""
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(source: Path, target: Path) -> Path:
    target.parent.mkdir(exist_ok=True)
    os.replace(source, target)
    _sync_folder(target.parent)
    return target
