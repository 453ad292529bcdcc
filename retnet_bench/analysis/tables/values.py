"""Every value that was measured, one row each: of a cell, a metric and its coordinates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import estimates
from retnet_bench.analysis.tables import ratios, rows
from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.results.coordinates import COORDINATES
from retnet_bench.results.schema import NAMES, OK_STATUSES, TIMES

RESULT = ["estimate", "low", "high", "blocks"]
"""A value: the median over blocks of their medians, and its 95 % interval."""
_OF_BLOCKS = ("value", "samples", "process", "block", "order", "environment_json", "run_id")
"""Columns of single rows of the records, which a value is made of."""
COLUMNS = [*(name for name in NAMES if name not in _OF_BLOCKS), *RESULT]
_CONTRACT = [*rows.PAIR_KEYS, "block_family", "kernel", "key_dim"]
_ELSEWHERE = ("device", "threads", "kernel", "measure", "positions", "tokenizer_checksum")
"""Settings in which the same cell may differ from one machine to another."""
MAIN = (*TIMES.values(), "peak_tensor_bytes", "cuda_peak_allocated_bytes", "state_bytes")
"""Metrics that are shown of two results side by side."""


def values(records: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell, metric and set of coordinates, in the order they were recorded: columns
    COLUMNS. A value that is not there has nan, its status and its reason."""
    keys = ["cell_id", "metric", *COORDINATES]
    number = records.groupby(keys, dropna=False, sort=False).ngroup().to_numpy()
    by_group = np.argsort(number, kind="stable")
    groups = (
        np.split(by_group, np.flatnonzero(np.diff(number[by_group])) + 1) if len(number) else []
    )
    found = pd.DataFrame(_levels(records, groups), columns=["at", *RESULT])
    known = [name for name in COLUMNS if name in records]
    last = records.iloc[[group[-1] for group in groups]][known].reset_index(drop=True)
    source = records.iloc[found["at"].to_numpy(dtype=int)][["status", "reason"]]
    last[["status", "reason"]] = source.to_numpy()
    last[RESULT] = found[RESULT]
    return last.reindex(columns=COLUMNS)


def _levels(records: pd.DataFrame, groups: Sequence[np.ndarray]) -> Iterator[tuple[Any, ...]]:
    """Of each group of rows: the row that says its status, then RESULT. (Column by column, once for
    all: a record of every document and training step has a hundred thousand groups.)"""
    status = records["status"].to_numpy()
    ok = records["status"].isin(OK_STATUSES).to_numpy() & records["value"].notna().to_numpy()
    every = rows.samples(records)
    process, block = rows.places(records)
    for group in groups:
        taken = group[ok[group]]
        if not len(taken):
            yield (group[-1], np.nan, np.nan, np.nan, 0)
            continue
        impure = taken[status[taken] == "impure"]
        level = estimates.center(rows.timed(process[taken], block[taken], every[taken]))
        yield ((impure if len(impure) else taken)[0], *level)


def shown_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that tell its rows apart, and the values."""
    varying = [
        name
        for name in (*COORDINATES, *_CONTRACT)
        if name in frame and frame[name].nunique(dropna=False) > 1
    ]
    usual = [name for name in ("size", "length", "batch") if name not in varying]
    return ["arm", "workload", "metric", *usual, *varying, *RESULT, "unit", "status"]


def columns_of(names: Sequence[str]) -> list[str]:
    """The columns that `--columns` names. UserError for one that there is not."""
    wanted = [name.strip() for text in names for name in text.split(",") if name.strip()]
    for name in wanted:
        if name in _OF_BLOCKS:
            words = "is of single blocks; a row here stands for all of them"
            raise UserError(f'--columns: "{quoted(name)}" {words}: take estimate, low, high')
        if name not in COLUMNS:
            raise UserError(
                f'--columns: unknown column "{quoted(name)}"{did_you_mean(name, COLUMNS)}'
            )
    if not wanted:
        raise UserError("--columns names none")
    return list(dict.fromkeys(wanted))


# --- two results side by side ---------------------------------------------------------------------


def side_by_side(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Values of the same cells in two results, each with its own interval: columns of a cell, then
    `<estimate> 1`, ..., `<estimate> 2`. Never a ratio across: they were measured apart. Of decode
    the last position."""
    sides = [_keyed(values(_main(records))) for records in (first, second)]
    joined = _joined(sides[0], sides[1], [*RESULT, "status", "reason"])
    for number, records in enumerate((first, second), 1):
        lost = _keyed(values(records[records["metric"] == "outcome"]))
        why = lost.set_index("cell")[["status", "reason"]]
        missing = joined[f"status {number}"].isna()
        for name in why:
            column = f"{name} {number}"
            joined[column] = joined[column].mask(missing, joined["cell"].map(why[name]))
    return joined


def _main(records: pd.DataFrame) -> pd.DataFrame:
    found = [rows.at_last_position(records[records["metric"] == metric]) for metric in MAIN]
    return pd.concat(found).assign(position=pd.array([pd.NA] * sum(map(len, found)), "Int64"))


def ratios_side_by_side(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Ratios inside pairs of two results: one that each measured on its own."""
    place = ["workload", "metric", "phase", "a", "b"]
    contract = [name for name in rows.PAIR_KEYS if name not in ("machine", *_ELSEWHERE)]
    sides = []
    for records in (first, second):
        found = ratios.pair_ratios(records)
        found = found[found["metric"] != "outcome"].rename(columns={"n": "blocks"})
        keys = found[[*place, *contract]].astype(object).where(found[[*place, *contract]].notna())
        sides.append(found.assign(key=[repr(tuple(key)) for key in keys.to_numpy()]))
    return _joined(sides[0], sides[1], [*RESULT, "status", "verdict"])


def _keyed(found: pd.DataFrame) -> pd.DataFrame:
    """Values with what stands for the same `cell` on another machine, and for the value: `key`."""
    apart = [json.loads(text) for text in found["cell_json"]]
    where = found[["metric", *COORDINATES]].astype(object)
    places = [tuple(row) for row in where.where(where.notna(), None).to_numpy()]
    for dropped in (_ELSEWHERE, ("measure",)):
        cells = [
            json.dumps({k: v for k, v in one.items() if k not in dropped}, sort_keys=True)
            for one in apart
        ]
        keys = [f"{cell} {place}" for cell, place in zip(cells, places, strict=True)]
        if len(set(keys)) == len(keys):
            break
    return found.assign(cell=cells, key=keys).drop_duplicates("key", keep="last")


def _joined(first: pd.DataFrame, second: pd.DataFrame, results: list[str]) -> pd.DataFrame:
    """A row for each key of either, the first's in their order; `results` stand twice."""
    both = pd.concat([first, second]).drop_duplicates("key").set_index("key")
    cells = both.drop(columns=results)
    for number, side in enumerate((first, second), 1):
        own = side.set_index("key")[results]
        cells = cells.join(own.add_suffix(f" {number}"))
    return cells.reset_index(drop=True)
