"""Values that cannot be: a cell whose records hold one is left out, with the reason, as one that
failed is. Its neighbours are shown as if it had never been there."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retnet_bench.results.copies import PLACE
from retnet_bench.results.schema import METRICS, OK_STATUSES, TIMES

LEFT_OUT = "unavailable"
"""Status of such a cell: something was measured, but it cannot be used."""
_COUNTED = ("s", "bytes", "tokens", "words", "count", "steps", "j", "w", "mhz")
_BLANK = ("phase", "process", "block", "order", "position", "document", "value", "samples")
_RUN = ["cell_id", "run_id"]
_SHAPE = ("length", "batch")
"""Without these no value says anything."""


def sound(records: pd.DataFrame) -> pd.DataFrame:
    """`records` with one row `outcome` in place of all rows of a cell's run that holds a step's
    time that is not above 0, a count below 0, or either or a loss that is no finite number; a value
    of no recorded length or batch; or two rows for one place (`copies.PLACE`), of which nobody
    knows which is right."""
    reasons = _reasons(records)
    if reasons.empty:
        return records
    told = records.loc[reasons.index].assign(reason=reasons).drop_duplicates(_RUN)
    lost = records.set_index(_RUN).index.isin(told.set_index(_RUN).index)
    blank = {name: told[name].mask(np.full(len(told), True)) for name in _BLANK}
    told = told.assign(**blank, metric="outcome", unit="", status=LEFT_OUT)
    return pd.concat([records[~lost], told], ignore_index=True)


def least(metric: str) -> float | None:
    """The least value that `metric` can have; -inf where it must be finite only, None where nothing
    is known."""
    unit = METRICS[metric].unit if metric in METRICS else ""
    if metric in TIMES.values():
        return float(np.finfo(float).smallest_subnormal)
    return 0.0 if unit in _COUNTED else -np.inf if metric.endswith("_nll_nat") else None


def _reasons(records: pd.DataFrame) -> pd.Series:
    """By the index of a row that holds an impossible value: what it is."""
    bounds = {name: least(name) for name in records["metric"].unique()}
    known = [name for name, bound in bounds.items() if bound is not None]
    rows = records[records["metric"].isin(known) & records["status"].isin(OK_STATUSES)]
    columns = (rows["metric"], rows["unit"], rows["samples"], rows["value"])
    found: dict[object, str] = {}
    for index, metric, unit, samples, value in zip(rows.index, *columns, strict=True):
        numbers = _numbers(samples, value)
        bad = numbers[~(np.isfinite(numbers) & (numbers >= bounds[metric]))]
        if len(bad):
            found[index] = f"{metric} holds {bad[0]:g} {unit}, which cannot be"
    measured = records[records["status"].isin(OK_STATUSES)]
    for name in _SHAPE:
        for index in measured.index[measured[name].isna()]:
            found.setdefault(index, f"its {name} is not recorded")
    again = records[records.duplicated(PLACE)]
    for index, metric in zip(again.index, again["metric"], strict=True):
        found.setdefault(index, f"{metric} stands twice for one block, with different values")
    return pd.Series(found, dtype=object)


def _numbers(samples: object, value: float) -> np.ndarray:
    """What a row claims to have measured, its value last: nothing, where a value was not read."""
    read = samples if isinstance(samples, list | tuple | np.ndarray) else []
    numbers = np.asarray(read, dtype=float)
    return numbers if np.isnan(value) else np.append(numbers, value)
