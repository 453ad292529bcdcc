"""Timed figures: the ratio candidate / baseline of each cell, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import estimates, intervals, resampling
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import rows
from retnet_bench.analysis.tables.floor import Floors
from retnet_bench.analysis.verdicts.comparability import (
    COPIED,
    about_cell,
    is_measured,
    same_records,
    why_incomparable,
)
from retnet_bench.analysis.verdicts.decision import (
    INCONCLUSIVE,
    NOT_COMPARABLE,
    Bounds,
    Decision,
    Policy,
    bounds,
    decide,
)
from retnet_bench.analysis.verdicts.gate_report import Row
from retnet_bench.results.quantities import TIME
from retnet_bench.results.schema import TIMES


@dataclass(frozen=True)
class _Timed:
    """A timed figure before the decision, which needs all of them."""

    row: Row
    ratio: Interval
    within: Bounds


def timed_rows(
    candidate: pd.DataFrame, baseline: pd.DataFrame, floors: Floors, policy: Policy
) -> list[Row]:
    refused: list[Row] = []
    ready: list[_Timed] = []
    for metric in TIMES.values():
        new, old = (rows.per_block(records, metric) for records in (candidate, baseline))
        cells = dict(iter(new.groupby("cell_id")))
        for cell_id, b in old.groupby("cell_id"):
            if cell_id not in cells:
                refused += _absent(candidate, b, metric)
                continue
            a = cells[cell_id]
            why = COPIED if same_records(a, b) else why_incomparable(a, b)
            if why:
                refused.append(_timed_row(a, metric, NOT_COMPARABLE, why))
            else:
                ready.append(_ratio(a, b, metric, floors, policy))
    made = decide([t.ratio for t in ready], [t.within for t in ready], policy)
    return refused + [_decided(t, decision) for t, decision in zip(ready, made, strict=True)]


def _absent(candidate: pd.DataFrame, old: pd.DataFrame, metric: str) -> Iterator[Row]:
    """A timed figure that the candidate's cell lacks. Whole cells that failed or are absent have
    their row already."""
    cell = candidate[candidate["cell_id"] == old["cell_id"].iloc[0]]
    if not cell.empty and is_measured(cell):
        row = _timed_row(old, metric, NOT_COMPARABLE, "not recorded in the candidate")
        yield replace(row, missing=True)


def _timed_row(cell: pd.DataFrame, metric: str, verdict: str, remark: str) -> Row:
    return Row(**about_cell(cell), kind="timed", figure=metric, verdict=verdict, remark=remark)


def _ratio(
    new: pd.DataFrame, old: pd.DataFrame, metric: str, floors: Floors, policy: Policy
) -> _Timed:
    both = new.merge(
        old[[*rows.BLOCK_KEYS, "median", "status"]], on=rows.BLOCK_KEYS, suffixes=("", "_b")
    )
    paired = not both.empty
    if paired:
        ratio = estimates.log_ratio(_blocks(both, "median"), _blocks(both, "median_b"))
        impure = int(((both["status"] == "impure") | (both["status_b"] == "impure")).sum())
    else:
        ratio = estimates.unpaired_ratio(_blocks(new, "median"), _blocks(old, "median"))
        impure = int((new["status"] == "impure").sum() + (old["status"] == "impure").sum())
    within = bounds(floors.get(metric), paired, policy)
    flagged = f"{impure} impure blocks kept" if impure else ""
    remark = "; ".join(filter(None, [flagged, within.remark]))
    row = replace(
        _timed_row(new, metric, INCONCLUSIVE, remark),
        baseline=TIME.rounded(old["median"].median(), 4),
        candidate=TIME.rounded(new["median"].median(), 4),
        paired=paired,
    )
    return _Timed(row, ratio, within)


def _blocks(values: pd.DataFrame, column: str) -> list[resampling.TimedBlock]:
    return resampling.of_values(rows.processes(values), values[column])


def _decided(timed: _Timed, decision: Decision) -> Row:
    needed = decision.blocks
    remarks = [timed.row.remark]
    more = " (more with a larger --budget)" if timed.row.paired else ""
    if needed:
        remarks.append(f"{needed} blocks would settle it, there are {timed.ratio.n}{more}")
    elif decision.verdict == INCONCLUSIVE:
        remarks.append(f"{intervals.why_no_interval(timed.ratio.n)}{more}")
    return replace(
        timed.row,
        verdict=decision.verdict,
        remark="; ".join(filter(None, remarks)),
        ratio=timed.ratio.estimate,
        low=_known(timed.ratio.low),
        high=_known(timed.ratio.high),
        blocks=timed.ratio.n,
        tau=timed.within.tau,
        limit=timed.within.limit,
        p_adjusted=_known(decision.p_adjusted),
        detectable=_known(decision.detectable),
        blocks_needed=needed,
    )


def _known(number: float) -> float | None:
    return None if np.isnan(number) else float(number)
