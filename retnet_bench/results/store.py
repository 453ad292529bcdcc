"""Writing and reading the parts of a study's records: append-only, each part whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retnet_bench.base import UserError, did_you_mean, printable, quoted, short_hash, warn_once
from retnet_bench.files import guarded, sweep, sync, write_bytes
from retnet_bench.results import copies, current, lock, part, texts
from retnet_bench.results.content import DOCUMENTS
from retnet_bench.results.machines import told_apart
from retnet_bench.results.part import CorruptPart
from retnet_bench.results.schema import (
    COLUMNS,
    METRICS,
    NAMES,
    OK_STATUSES,
    SCHEMA_VERSION,
    STATUSES,
    Column,
    arrow_schema,
)
from retnet_bench.results.soundness import sound

MOST_ROWS = 1_000_000
"""Rows that are read at once, of all parts together."""

_COLUMNS = {column.name: column for column in COLUMNS}
_STATUS_COLUMNS = ["cell_id", "run_id", "recorded_at", "metric", "status"]
_MACHINE_COLUMNS = ["cell_id", "recorded_at", "status", "fingerprint", "machine"]
_PANDAS = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


class Store:
    """The records of one study: `folder/records/*.parquet`.

    Open it for writing with `alone`, or with `among` beside other jobs. A cell is finished once its
    rows are appended, so append all rows of a cell in one call.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.records = self.folder / "records"
        self._make_folder()

    @classmethod
    @contextmanager
    def alone(cls, folder: str | Path) -> Iterator[Store]:
        """The store for writing, while no other process writes to `folder`.

        What a killed writer left half-written is removed. Raises UserError where another process
        holds the folder, or it can't be written.
        """
        new = not os.path.exists(folder)
        with lock.alone(Path(folder)):
            store = cls(folder)
            with guarded(store.records, "tidied"):
                for partial in store.records.glob(".*.tmp"):
                    partial.unlink(missing_ok=True)
            try:
                yield store
            except UserError:
                if new:
                    _remove_empty(store)
                raise

    @classmethod
    @contextmanager
    def among(cls, folder: str | Path, own: Path, wait_s: float) -> Iterator[Store]:
        """The store for writing beside other jobs: each holds a lock file of its `own`, and appends
        parts of other names than the others. A lock that is held is waited for, `wait_s` at most.
        """
        with lock.among(Path(folder), own, wait_s):
            store = cls(folder)
            sweep(store.records)  # of processes that are dead, and on this machine: no one else's
            yield store

    def append(self, records: Sequence[Mapping[str, Any]], name: str) -> Path:
        """Write `records` as one new part and return its path: `name`.parquet, or name-2, ...

        Missing columns become null; `value` becomes the median of `samples` where it is not given.
        Raises ValueError for a record that breaks the schema, UserError when it can't be written.
        """
        rows = _environments_once([_complete(record) for record in records])
        if not rows:
            raise ValueError(f"part {name!r} would have no records")
        table = pa.Table.from_pylist(rows, schema=_written_schema())
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        path = self._free(name)
        try:
            write_bytes(path, sink.getvalue().to_pybytes(), durable=True)
        except UserError as error:
            raise UserError(f"{error}; the parts written so far are whole: run again") from error
        return path

    def finished(self) -> dict[str, str]:
        """Status per cell that has records: of its latest run, the failure, impure or ok."""
        return finished(self.folder)

    def machines(self) -> set[str]:
        """Names of the machines that the records are of."""
        tables = (part.read(path, ["machine"]) for path in part.parts(self.records))
        return {str(name) for table in tables for name in table["machine"].unique().to_pylist()}

    def taken_on(self, cells: Collection[str]) -> dict[str, tuple[str, str]]:
        """Fingerprint and name of the machine on which each of `cells` was measured last."""
        tables = [part.read(path, _MACHINE_COLUMNS) for path in part.parts(self.records)]
        if not tables:
            return {}
        rows = pa.concat_tables(tables).to_pandas()
        measured = rows["cell_id"].isin(list(cells)) & rows["status"].isin(OK_STATUSES)
        last = rows[measured].sort_values("recorded_at").drop_duplicates("cell_id", keep="last")
        return {row.cell_id: (row.fingerprint, row.machine) for row in last.itertuples()}

    def quarantine(self) -> list[Path]:
        """Move parts whose bytes are no whole parquet out of the way, so that their cells are run
        again. What can't be read now, or holds what is no record, raises UserError and stays.

        They go to `folder/corrupt/<name>.parquet.corrupt`; returns their new paths. Not beside
        the good parts, because `pandas.read_parquet` opens every file of a folder.
        """
        set_aside = []
        for path in part.parts(self.records):
            try:
                part.read(path)
            except CorruptPart:
                set_aside.append(_move(path, self.folder / "corrupt" / f"{path.name}.corrupt"))
        return set_aside

    def clear(self) -> Path | None:
        """Start anew: move the records to `records.<UTC time>.bak`; None when there were none."""
        if not part.parts(self.records):
            return None
        now = datetime.now(timezone.utc)
        backup = _move(self.records, self.folder / f"records.{now:%Y%m%dT%H%M%S.%fZ}.bak")
        self._make_folder()
        return backup

    def _make_folder(self) -> None:
        with guarded(self.records):
            self.records.mkdir(parents=True, exist_ok=True)

    def _free(self, name: str) -> Path:
        path, count = self.records / f"{name}.parquet", 1
        while path.exists():
            count += 1
            path = self.records / f"{name}-{count}.parquet"
        return path


# --- reading --------------------------------------------------------------------------------------


def finished(folder: Path) -> dict[str, str]:
    """Status per cell of a results folder: of its latest run, the failure, impure or ok."""
    records = folder / "records"
    tables = (
        [part.read(p, _STATUS_COLUMNS) for p in part.parts(records)] if records.exists() else []
    )
    if not tables:
        return {}
    cells = of_latest_runs(pa.concat_tables(tables).to_pandas()).groupby("cell_id")
    return {str(cell): _cell_status(group) for cell, group in cells}


def read_records(path: str | Path) -> pd.DataFrame:
    """The records under `path`: a study's folder, its records folder or one parquet file.

    Of a study's folder without cells of earlier versions of the study (`current`); without those
    that `--retry` replaced, each row once and without cells that hold impossible values (see
    `read_runs`). Integers and flags are nullable. Older parts are migrated; raises
    UserError, naming the file, for parts that can't be read, are corrupt, of a newer version or no
    records of retnet-bench at all.
    """
    return read_all([path])


def every_record(path: Path) -> Path:
    """What to read of a results folder, or of a part, for all of its records: those of earlier
    versions of its study, too."""
    return path / "records" if (path / "records").is_dir() else path


def earlier(folder: Path) -> set[str]:
    """Ids of the cells in a results folder that are of earlier versions of its study."""
    found = [part.read(p, ["cell_id", "study"]) for p in part.parts(folder / "records")]
    return current.earlier(folder, pa.concat_tables(found).to_pandas()) if found else set()


def cells_in(path: Path) -> set[str]:
    """Ids of the cells in a part."""
    return {*part.read(path, ["cell_id"])["cell_id"].unique().to_pylist()}


def read_all(paths: Sequence[str | Path]) -> pd.DataFrame:
    """The records of several results as one table; a path that is named twice is read once.
    Unlike machines of one name are told apart by their fingerprints, unlike corpora by theirs."""
    folders = _once(paths)
    kept = [
        current.counting(folder, without_retried(records))
        for folder, records in zip(folders, read_runs(folders), strict=True)
    ]
    whole = pd.concat(kept, ignore_index=True) if len(kept) > 1 else kept[0]
    return texts.told_apart(told_apart(whole))


def read_runs(paths: Sequence[str | Path]) -> list[pd.DataFrame]:
    """The records under each of `paths`, whatever was run again since.

    A row counts once: one that stands in another part, too, as in a part that was copied beside
    itself or into another folder, is left out of the later, and a line on stderr names both files.
    A cell that holds impossible values is one row that says so (`soundness`).
    """
    folders = _once(paths)
    found = [(i, path) for i, folder in enumerate(folders) for path in _some_parts(folder)]
    once = {_resolved(path): (i, path) for i, path in reversed(found)}
    indices, files = zip(*reversed(once.values()), strict=True)
    tables = list(_bounded(part.read(path) for path in files))
    records = _frame(pa.concat_tables(tables))
    of_part = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    counted = copies.counted(records, of_part, files)
    of_folder = np.array(indices)[of_part]
    if records.empty:
        raise UserError(f"{printable(folders[0])}: its parts have no rows: run the study again")
    _report_unknown_metrics(records, of_part, files)
    named = np.array([printable(path) for path in files])[of_part]
    chosen = [counted & (of_folder == i) for i in range(len(folders))]
    return [sound(_rows(records, rows), named[rows]) for rows in chosen]


def _report_unknown_metrics(
    records: pd.DataFrame, of_part: np.ndarray, files: Sequence[Path]
) -> None:
    """A later version may have added one: its rows are kept, but nothing here shows them."""
    unknown = ~records["metric"].isin(METRICS)
    for metric in records.loc[unknown, "metric"].unique():
        rows = np.flatnonzero(records["metric"] == metric)
        warn_once(
            f'{len(rows):,} rows of the unknown metric "{quoted(metric)}" are not shown, such as '
            f"in {printable(files[of_part[rows[0]]])}{did_you_mean(metric, METRICS)}"
        )


def _rows(records: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    """The chosen rows, numbered anew; all of them are not copied."""
    return records if chosen.all() else records[chosen].reset_index(drop=True)


def _once(paths: Sequence[str | Path]) -> list[Path]:
    return list({_resolved(Path(path)): Path(path) for path in paths}.values())


def _resolved(path: Path) -> Path:
    with guarded(path, "read"):
        return Path(os.path.realpath(path))


def _some_parts(folder: Path) -> list[Path]:
    parts = part.parts(folder)
    if not parts:
        words = "give the folder of a study that has run"
        if lock.is_held(folder / lock.NAME):
            words = "the run that is writing to it has finished no cell yet"
        raise UserError(f"no records in {printable(folder)}: {words}")
    return parts


def _bounded(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    rows = 0
    for table in tables:
        rows += len(table)
        if rows > MOST_ROWS:
            raise UserError(f"more than {MOST_ROWS:,} records: read fewer parts at once")
        yield table


def _frame(table: pa.Table) -> pd.DataFrame:
    records = table.to_pandas(types_mapper=_PANDAS.get)
    return records.astype(dict.fromkeys(DOCUMENTS, object))  # equal documents are one object


def of_latest_runs(records: pd.DataFrame) -> pd.DataFrame:
    """Rows of each cell's latest run, by time: a cell that was run again counts as that went."""
    rows = records.sort_values("recorded_at", kind="stable")
    return rows[rows["run_id"] == rows.groupby("cell_id")["run_id"].transform("last")]


def without_retried(records: pd.DataFrame) -> pd.DataFrame:
    """Rows but for those of a pair's run in which an arm failed, where their cell was run again
    since: `--retry` runs the pair anew, and its good arm would have the blocks of both runs."""
    lost = (records["metric"] == "outcome") & (records["status"] != "unsupported")
    if not lost.any():
        return records
    failed = records[lost]
    half = set(zip(failed["pair_id"], failed["run_id"], strict=True))
    in_half = [run in half for run in zip(records["pair_id"], records["run_id"], strict=True)]
    latest = of_latest_runs(records[["cell_id", "run_id", "recorded_at"]]).index
    return _rows(records, records.index.isin(latest) | ~np.array(in_half))


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


def _environments_once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with the id of its environment, whose text stays in the first row that has it."""
    written = set()
    for row in rows:
        text = row["environment_json"]
        if text is None:
            continue
        row["environment_id"] = short_hash(text)
        if row["environment_id"] in written:
            row["environment_json"] = None
        written.add(row["environment_id"])
    return rows


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


def _remove_empty(store: Store) -> None:
    """A folder that was made for records of which there are none."""
    (store.folder / lock.NAME).unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        store.records.rmdir()
        store.folder.rmdir()


def _move(source: Path, target: Path) -> Path:
    with guarded(source, "moved"):
        target.parent.mkdir(exist_ok=True)
        os.replace(source, target)
        sync(target.parent)
    return target
