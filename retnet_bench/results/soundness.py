"""Values that cannot be: a cell whose records hold one is left out, with the reason, as one that
failed is. Its neighbours are shown as if it had never been there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from retnet_bench.base import quoted, short_hash
from retnet_bench.results.coordinates import COORDINATES
from retnet_bench.results.copies import PLACE
from retnet_bench.results.schema import METRICS, OK_STATUSES, TIMES

LEFT_OUT = "unavailable"
"""Status of such a cell: something was measured, but it cannot be used."""
_COUNTED = ("s", "bytes", "tokens", "words", "count", "steps", "j", "w", "mhz")
_LISTS = (list, tuple, np.ndarray)
_BLANK = (*COORDINATES, "process", "block", "order", "value", "samples")
_RUN = ["cell_id", "run_id"]
_HASH = re.compile("[0-9a-f]{16}")
_DESCRIBED = [
    *("workload", "arm", "size", "match", "batch", "length", "dtype", "mode", "device", "threads"),
    *("corpus", "tokenizer", "vocab_size", "seed", "token_budget", "mixer", "kernel"),
]
"""Columns that repeat what a cell's description says."""
_SHAPE = ("length", "batch")
"""Without these no value says anything."""
ROUNDING = 1e-9
"""Relative difference between a median and the same median of another library."""


def sound(records: pd.DataFrame, files: Sequence[str] = ()) -> pd.DataFrame:
    """`records` with one row `outcome` in place of all rows of a cell's run that holds

    - a step's time that is not above 0, a count below 0, or either or a loss that is no finite
      number;
    - a value that is not the median of its samples, or none at all without a word why;
    - a value of no recorded length or batch;
    - two rows for one place (`copies.PLACE`), of which nobody knows which is right;
    - columns that contradict the cell's description, or the description of another cell.

    `files` (rows,) names the file each row stands in, for the reason.
    """
    reasons = _reasons(records)
    if reasons.empty:
        return records
    if len(files):
        places = pd.Series(files, index=records.index).loc[reasons.index]
        reasons = reasons + " (" + places + ")"
    left_out = records.loc[reasons.index].assign(reason=reasons).drop_duplicates(_RUN)
    lost = records.set_index(_RUN).index.isin(left_out.set_index(_RUN).index)
    blank = {name: left_out[name].mask(np.full(len(left_out), True)) for name in _BLANK}
    left_out = left_out.assign(**blank, metric="outcome", unit="", status=LEFT_OUT)
    return pd.concat([records[~lost], left_out], ignore_index=True)


def least(metric: str) -> float | None:
    """The least value that `metric` can have; -inf where it must be finite only, None where nothing
    is known."""
    unit = METRICS[metric].unit if metric in METRICS else ""
    if metric in TIMES.values():
        return float(np.finfo(float).tiny)  # normal: a process may flush denormals
    return 0.0 if unit in _COUNTED else -np.inf if metric.endswith("_nll_nat") else None


def _reasons(records: pd.DataFrame) -> pd.Series:
    """By the index of a row that leaves its cell out: why. The first reason found counts."""
    measured = records[records["status"].isin(OK_STATUSES)]
    found: dict[object, str] = {}
    for check in (_impossible, _valueless, _contradicted, _shapeless, _ambiguous, _misnamed):
        for index, why in check(measured):
            found.setdefault(index, why)
    return pd.Series(found, dtype=object)


Reasons = Iterator[tuple[object, str]]


def _impossible(measured: pd.DataFrame) -> Reasons:
    bounds = {name: least(name) for name in measured["metric"].unique()}
    known = [name for name, bound in bounds.items() if bound is not None]
    rows = measured[measured["metric"].isin(known)]
    possible = _single(rows) & (rows["value"] >= rows["metric"].map(bounds).astype(float))
    for row in _values(rows[~possible]):
        numbers = row.samples if np.isnan(row.value) else np.append(row.samples, row.value)
        bad = numbers[~(np.isfinite(numbers) & (numbers >= bounds[row.metric]))]
        if len(bad):
            yield row.at, f"{row.metric} holds {bad[0]:g} {row.unit}, which cannot be"


def _valueless(measured: pd.DataFrame) -> Reasons:
    lost = measured[measured["value"].isna() & (measured["metric"] != "outcome")]
    for index, metric, status in zip(lost.index, lost["metric"], lost["status"], strict=True):
        yield index, f"{metric} is {status}, but has no value"


def _contradicted(measured: pd.DataFrame) -> Reasons:
    """Readers take some metrics by their samples and some by their value. A downstream score is
    more than a median of its documents."""
    rows = measured[measured["workload"] != "downstream"]
    for row in _values(rows[~_single(rows)]):
        if len(row.samples) and not np.isnan(row.value) and np.isfinite(row.samples).all():
            median = _median(row.samples)
            if abs(row.value - median) > ROUNDING * abs(median):
                yield (
                    row.at,
                    f"{row.metric} is {row.value:g} {row.unit}, but the median of its samples is "
                    f"{median:g}",
                )


def _shapeless(measured: pd.DataFrame) -> Reasons:
    for name in _SHAPE:
        for index in measured.index[measured[name].isna()]:
            yield index, f"its {name} is not recorded"


def _ambiguous(measured: pd.DataFrame) -> Reasons:
    again = measured[measured.duplicated(PLACE)]
    for index, metric in zip(again.index, again["metric"], strict=True):
        yield index, f"{metric} stands twice for one block, with different values"


def _misnamed(measured: pd.DataFrame) -> Reasons:
    """A cell's id is the hash of its description; one that is no hash was made by hand."""
    cells = measured[["cell_id", "cell_json", *_DESCRIBED]].drop_duplicates()
    for index, row in zip(cells.index, cells.to_dict("records"), strict=True):
        cell_id, cell = row["cell_id"], json.loads(row["cell_json"])
        if _HASH.fullmatch(cell_id) and cell_id != short_hash(row["cell_json"]):
            yield index, f"its cell_json is not that of cell {cell_id}"
        for name in _DESCRIBED:
            if name in cell and not pd.isna(row[name]) and row[name] != cell[name]:
                words = f"{quoted(row[name])}, but its cell_json says {quoted(cell[name])}"
                yield index, f"its {name} is {words}"


def _single(rows: pd.DataFrame) -> pd.Series:
    """Whether a row has one sample, finite and its value: most have, and need no closer look."""
    only = [x[0] if isinstance(x, _LISTS) and len(x) == 1 else np.nan for x in rows["samples"]]
    samples = np.asarray(only, dtype=float)
    return (rows["value"] == samples) & np.isfinite(samples)


class _Row(NamedTuple):
    at: object
    metric: str
    unit: str
    samples: np.ndarray
    value: float


def _values(rows: pd.DataFrame) -> Iterator[_Row]:
    columns = (rows["metric"], rows["unit"], rows["samples"], rows["value"])
    for index, metric, unit, samples, value in zip(rows.index, *columns, strict=True):
        read = samples if isinstance(samples, _LISTS) else []
        yield _Row(index, metric, unit, np.asarray(read, dtype=float), value)


def _median(numbers: np.ndarray) -> float:
    """As numpy's, which takes ten times as long for a few numbers."""
    ordered, middle = np.sort(numbers), len(numbers) // 2
    low, high = (
        float(ordered[-middle - 1]),
        float(ordered[middle]),
    )  # no warning where they overflow
    return low if low == high else (low + high) / 2
