"""The gate: two sets of records compared cell by cell, without ever taking silence for a pass.

Exact figures are compared as they are; timed ones by the ratio candidate / baseline with its
interval (decision.py). A cell is compared with the cell of the same `cell_id` only, so whatever is
compared is the same model, shape, dtype, kernel, mode and workload.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import estimates, intervals, resampling
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import rows
from retnet_bench.analysis.tables.floor import Floors
from retnet_bench.analysis.verdicts.decision import (
    IMPROVEMENT,
    INCONCLUSIVE,
    NOT_COMPARABLE,
    PASS,
    REGRESSION,
    VERDICTS,
    Bounds,
    Decision,
    Policy,
    bounds,
    decide,
)
from retnet_bench.base import UserError
from retnet_bench.results.schema import OK_STATUSES, TIMES
from retnet_bench.results.soundness import LEFT_OUT

EXIT = {PASS: 0, REGRESSION: 1, INCONCLUSIVE: 3, "nothing measured": 4}
COLUMNS = ("n_params", "n_body_params", "flops_per_token", "state_bytes", "kernel_dispatched")
"""Exact figures that stand in columns."""
METRICS = ("weight_bytes", "state_bytes", "peak_tensor_bytes", "loss_after_steps_nat")
"""Exact figures that stand in rows of their own."""
MACHINE_BOUND = ("kernel_dispatched", "peak_tensor_bytes", "loss_after_steps_nat")
"""Exact figures that another machine may rightly have otherwise."""
LESS_IS_BETTER = ("peak_tensor_bytes",)
FP64_TOLERANCE = 1e-10  # of the forms' agreement, law 1
_NAMED = ("workload", "arm", "size", "length", "batch", "dtype", "mode")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of one cell. Numbers that do not apply are null."""

    cell_id: str
    workload: str
    arm: str
    size: str | None
    length: int | None
    batch: int | None
    dtype: str | None
    mode: str | None
    kind: str
    """exact, timed, or cell (the cell as a whole)."""
    figure: str
    verdict: str
    remark: str = ""
    baseline: str | None = None
    candidate: str | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    blocks: int | None = None
    paired: bool | None = None
    tau: float | None = None
    limit: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    blocks_needed: int | None = None
    missing: bool = False
    """Measured in the baseline and absent from the candidate."""

    @property
    def cell(self) -> str:
        """Short words for the cell."""
        shape = f"{self.workload} {self.arm} {self.size or ''}".strip()
        return f"{shape} length {self.length} batch {self.batch} {self.dtype} {self.mode}"


@dataclass(frozen=True)
class Report:
    """The rows, worst first, and what follows from them."""

    rows: list[Row]
    policy: Policy
    about: dict[str, str] = field(default_factory=dict)
    """Machine and revision of the two sides."""

    @property
    def outcome(self) -> str:
        """pass, regression, inconclusive or nothing measured."""
        verdicts = {row.verdict for row in self.rows}
        if REGRESSION in verdicts:
            return REGRESSION
        if not self._compared():
            return "nothing measured"
        if INCONCLUSIVE in verdicts or any(row.missing for row in self.rows):
            return INCONCLUSIVE
        return PASS

    def _compared(self) -> bool:
        """Whether every kind of figure that was asked for and is there was compared at all."""
        kinds: dict[str, bool] = {}
        for row in self.rows:
            if row.kind != "cell":
                kinds[row.kind] = kinds.get(row.kind, False) or row.verdict != NOT_COMPARABLE
        return bool(kinds) and all(kinds.values())

    @property
    def exit_code(self) -> int:
        return EXIT[self.outcome]

    @property
    def summary(self) -> str:
        """One line: the outcome and how many figures got which verdict."""
        counts = Counter(row.verdict for row in self.rows)
        told = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
        missing = sum(row.missing for row in self.rows)
        lost = f"; {missing} of the baseline's are missing from the candidate" if missing else ""
        return f"{self.outcome}: {told or 'no figures'}{lost}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; unknown numbers are null."""
        return {
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "summary": self.summary,
            "policy": asdict(self.policy),
            **self.about,
            "rows": [asdict(row) for row in self.rows],
        }


def compare(
    candidate: pd.DataFrame, baseline: pd.DataFrame, floors: Floors, policy: Policy
) -> Report:
    """The candidate's records held against the baseline's. UserError when either has no rows."""
    for name, records in (("candidate", candidate), ("baseline", baseline)):
        if records.empty:
            raise UserError(f"the {name} has no records: there is nothing to compare")
    found = list(_exact_and_lost(candidate, baseline))
    if not policy.exact_only:
        found += _timed(candidate, baseline, floors, policy)
    found.sort(key=lambda row: (VERDICTS.index(row.verdict), row.kind != "timed"))
    about = {f"{name}_{key}": _said(records[key]) for name, records in
             (("candidate", candidate), ("baseline", baseline))
             for key in ("machine", "git_revision")}  # fmt: skip
    return Report(found, policy, about)


def _said(column: pd.Series) -> str:
    return ", ".join(sorted(map(str, column.dropna().unique()))) or "not recorded"


def _about(cell: pd.DataFrame) -> dict[str, Any]:
    first = cell.iloc[0]
    named = {key: None if pd.isna(first[key]) else first[key] for key in _NAMED}
    for key in ("length", "batch"):
        named[key] = None if named[key] is None else int(str(named[key]))
    return {"cell_id": first["cell_id"], **named}


def _measured(cell: pd.DataFrame) -> bool:
    return bool((cell["status"].isin(OK_STATUSES) & (cell["metric"] != "outcome")).any())


def _left_out(cell: pd.DataFrame) -> bool:
    """Whether the cell's records hold values that cannot be, which say nothing of the code."""
    return not _measured(cell) and bool((cell["status"] == LEFT_OUT).any())


def _failure(cell: pd.DataFrame) -> str:
    """Status and reason of a cell that has no measurement."""
    last = cell.sort_values("recorded_at").iloc[-1]
    return f"{last['status']}: {last['reason']}" if last["reason"] else str(last["status"])


# --- whole cells -------------------------------------------------------------------------------


def _exact_and_lost(candidate: pd.DataFrame, baseline: pd.DataFrame) -> Iterator[Row]:
    """Exact figures of the cells both sides measured, and a row for every other cell."""
    mine = dict(iter(candidate.groupby("cell_id")))
    theirs = dict(iter(baseline.groupby("cell_id")))
    for cell_id, cell in theirs.items():
        if cell_id not in mine:
            why = f"not in the candidate{_nearest(cell, mine.values())}"
            yield _cell_row(cell, NOT_COMPARABLE, why, missing=_measured(cell))
        else:
            yield from _cell(mine[cell_id], cell)
    for cell_id, cell in mine.items():
        if cell_id not in theirs:
            why = f"not in the baseline{_nearest(cell, theirs.values())}"
            yield _cell_row(cell, NOT_COMPARABLE, why)


def _cell_row(cell: pd.DataFrame, verdict: str, remark: str, missing: bool = False) -> Row:
    known: dict[str, Any] = {"kind": "cell", "figure": "cell", "verdict": verdict, "remark": remark}
    return Row(**_about(cell), **known, missing=missing)


def _cell(mine: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[Row]:
    if not _measured(theirs):
        also = "" if _measured(mine) else f"; candidate too ({_failure(mine)})"
        why = f"failed in the baseline ({_failure(theirs)}){also}"
        yield _cell_row(theirs, NOT_COMPARABLE, why)
    elif _left_out(mine):
        yield _cell_row(mine, NOT_COMPARABLE, f"left out ({_failure(mine)})", missing=True)
    elif not _measured(mine):
        yield _cell_row(mine, REGRESSION, f"failed in the candidate ({_failure(mine)})")
    elif _same_records(mine, theirs):
        yield _cell_row(mine, NOT_COMPARABLE, _COPIED, missing=True)
    else:
        yield from _exact(mine, theirs)


_COPIED = "the very same records stand on both sides: measure the candidate anew"


def _same_records(mine: pd.DataFrame, theirs: pd.DataFrame) -> bool:
    """Whether the candidate's rows are copies, as in a results folder that was carried over."""
    keys = ["run_id", "recorded_at", "metric", "phase", "process", "block", "position", "value"]
    a, b = (
        set(cell[keys].astype(str).itertuples(index=False, name=None)) for cell in (mine, theirs)
    )
    return a == b


def _nearest(cell: pd.DataFrame, others: Iterable[pd.DataFrame]) -> str:
    """Words for the fields that keep a cell from being one of the other side's."""
    mine = json.loads(cell["cell_json"].iloc[0])
    best: list[str] | None = None
    for other in others:
        theirs = json.loads(other["cell_json"].iloc[0])
        if any(mine.get(key) != theirs.get(key) for key in ("workload", "arm")):
            continue
        keys = sorted({*mine, *theirs})
        differ = [key for key in keys if mine.get(key) != theirs.get(key)]
        if best is None or len(differ) < len(best):
            best = differ
            words = [f"{key} ({mine.get(key)} here, {theirs.get(key)} there)" for key in differ]
    return f"; the nearest cell there differs in {', '.join(words)}" if best else ""


# --- the contract ------------------------------------------------------------------------------


def _refusal(mine: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """The field that forbids comparing what depends on the machine; empty when none does."""
    for name in ("machine", "torch_version", "fingerprint"):
        a, b = (set(cell[name].dropna()) for cell in (mine, theirs))
        if a != b:
            more = _environment(mine, theirs) if name == "fingerprint" else ""
            return f"{name} differs: {_list(a)} against {_list(b)}{more}"
    return ""


def _list(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values))) or "not recorded"


def _environment(mine: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """The fields of the environment that differ, the first few of them."""
    a, b = (_leaves(cell["environment_json"].dropna()) for cell in (mine, theirs))
    differ = [f"{key} {a[key]} against {b[key]}" for key in sorted(a.keys() & b.keys())
              if a[key] != b[key]]  # fmt: skip
    return f" ({'; '.join(differ[:3])})" if differ else ""


def _leaves(texts: pd.Series) -> dict[str, Any]:
    whole = json.loads(texts.iloc[0]) if len(texts) else {}
    sections = {key: part for key, part in whole.items() if key in _STABLE_SECTIONS}
    return {
        f"{name}.{key}": value
        for name, part in sections.items()
        if isinstance(part, dict)
        for key, value in part.items()
        if key not in _RESTLESS
    }


_STABLE_SECTIONS = ("cpu", "memory", "device", "torch", "threads")
_RESTLESS = ("frequency_mhz", "available_bytes", "free_bytes", "load_1min")


# --- exact figures -----------------------------------------------------------------------------


def _exact(mine: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[Row]:
    refusal = _refusal(mine, theirs)
    a, b = dict(_figures(mine)), dict(_figures(theirs))
    for name, expected in b.items():
        bound = name.split(" ")[0] in MACHINE_BOUND
        yield _exact_row(mine, name, a.get(name), expected, refusal if bound else "")
    forms = _forms(mine, theirs)
    if forms:
        yield forms


def _figures(cell: pd.DataFrame) -> Iterator[tuple[str, set[Any]]]:
    """Name and values of every exact figure; of a deterministic one there is just one value."""
    ok = cell[cell["status"].isin(OK_STATUSES)]
    for column in COLUMNS:
        values = set(ok[column].dropna())
        if values:
            yield column, values
    read = ok[ok["metric"].isin(METRICS) & ok["value"].notna()]
    for _, group in read.groupby(["metric", "phase", "position"], dropna=False):
        first = group.iloc[0]
        where = "" if pd.isna(first["position"]) else f" at {first['position']:.0f}"
        yield f"{first['metric']} ({first['phase']}{where})", set(group["value"])


def _exact_row(
    cell: pd.DataFrame, name: str, found: set[Any] | None, expected: set[Any], refusal: str
) -> Row:
    verdict, remark = _exact_verdict(name, found, expected, refusal)
    shown: dict[str, Any] = {
        "baseline": _texts(expected),
        "candidate": _texts(found) if found else None,
    }
    return Row(
        **_about(cell), kind="exact", figure=name, verdict=verdict, remark=remark, **shown,
        missing=found is None,
    )  # fmt: skip


def _exact_verdict(
    name: str, found: set[Any] | None, expected: set[Any], refusal: str
) -> tuple[str, str]:
    if found is None:
        return NOT_COMPARABLE, "not recorded in the candidate"
    if refusal:
        return NOT_COMPARABLE, refusal
    if len(expected) > 1:
        return NOT_COMPARABLE, "the baseline itself has several values: not deterministic there"
    if found == expected:
        return PASS, ""
    if name.split(" ")[0] in LESS_IS_BETTER and max(found) < min(expected):
        return IMPROVEMENT, "less than the baseline"
    return REGRESSION, "differs from the baseline"


def _texts(values: set[Any]) -> str:
    return ", ".join(sorted(_text(value) for value in values))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    number = float(value)
    return f"{int(number):,}" if number.is_integer() else repr(number)


def _forms(mine: pd.DataFrame, theirs: pd.DataFrame) -> Row | None:
    """Agreement of the forms: a cell that was measured has passed its own gate, and in fp64 the
    error it recorded must bear that out."""
    a, b = (cell.loc[cell["metric"] == "forms_relative_error"] for cell in (mine, theirs))
    if b.empty:
        return None
    errors = {str(phase): float(group["value"].max()) for phase, group in a.groupby("phase")}
    known: dict[str, Any] = {"kind": "exact", "figure": "forms agreement"}
    said: dict[str, Any] = {"baseline": "agree", "candidate": "agree" if errors else None}
    if not errors:
        verdict, remark = NOT_COMPARABLE, "not recorded in the candidate"
    elif not errors.get("fp64", 0.0) <= FP64_TOLERANCE:
        verdict, remark = REGRESSION, f"fp64 error {errors['fp64']:.1e} above {FP64_TOLERANCE:.0e}"
        said["candidate"] = "disagree"
    else:
        verdict = PASS
        remark = ", ".join(f"{phase} {error:.1e}" for phase, error in sorted(errors.items()))
    return Row(**_about(mine), **known, **said, verdict=verdict, remark=remark, missing=not errors)


# --- timed figures -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timed:
    """A timed figure before the decision, which needs all of them."""

    row: Row
    ratio: Interval
    within: Bounds


def _timed(
    candidate: pd.DataFrame, baseline: pd.DataFrame, floors: Floors, policy: Policy
) -> list[Row]:
    refused: list[Row] = []
    ready: list[_Timed] = []
    for metric in TIMES.values():
        mine, theirs = (rows.per_block(records, metric) for records in (candidate, baseline))
        cells = dict(iter(mine.groupby("cell_id")))
        for cell_id, b in theirs.groupby("cell_id"):
            if cell_id not in cells:
                refused += _absent(candidate, b, metric)
                continue
            a = cells[cell_id]
            why = _COPIED if _same_records(a, b) else _refusal(a, b)
            if why:
                refused.append(_timed_row(a, metric, NOT_COMPARABLE, why))
            else:
                ready.append(_ratio(a, b, metric, floors, policy))
    made = decide([t.ratio for t in ready], [t.within for t in ready], policy)
    return refused + [_decided(t, decision) for t, decision in zip(ready, made, strict=True)]


def _absent(candidate: pd.DataFrame, theirs: pd.DataFrame, metric: str) -> Iterator[Row]:
    """A timed figure that the candidate's cell lacks. Whole cells that failed or are absent have
    their row already."""
    cell = candidate[candidate["cell_id"] == theirs["cell_id"].iloc[0]]
    if not cell.empty and _measured(cell):
        row = _timed_row(theirs, metric, NOT_COMPARABLE, "not recorded in the candidate")
        yield replace(row, missing=True)


def _timed_row(cell: pd.DataFrame, metric: str, verdict: str, remark: str) -> Row:
    return Row(**_about(cell), kind="timed", figure=metric, verdict=verdict, remark=remark)


def _ratio(
    mine: pd.DataFrame, theirs: pd.DataFrame, metric: str, floors: Floors, policy: Policy
) -> _Timed:
    both = mine.merge(theirs[[*rows.BLOCK, "median", "status"]], on=rows.BLOCK, suffixes=("", "_b"))
    paired = not both.empty
    if paired:
        ratio = estimates.log_ratio(_blocks(both, "median"), _blocks(both, "median_b"))
        impure = int(((both["status"] == "impure") | (both["status_b"] == "impure")).sum())
    else:
        ratio = estimates.unpaired_ratio(_blocks(mine, "median"), _blocks(theirs, "median"))
        impure = int((mine["status"] == "impure").sum() + (theirs["status"] == "impure").sum())
    within = bounds(floors.get(metric), paired, policy)
    flagged = f"{impure} impure blocks kept" if impure else ""
    remark = "; ".join(filter(None, [flagged, within.remark]))
    row = replace(
        _timed_row(mine, metric, INCONCLUSIVE, remark),
        baseline=f"{theirs['median'].median():.4g} s",
        candidate=f"{mine['median'].median():.4g} s",
        paired=paired,
    )
    return _Timed(row, ratio, within)


def _blocks(values: pd.DataFrame, column: str) -> list[resampling.Block]:
    process = values.groupby(rows.RUN, dropna=False).ngroup()
    return [(int(p), np.array([v])) for p, v in zip(process, values[column], strict=True)]


def _decided(timed: _Timed, decision: Decision) -> Row:
    needed = decision.blocks
    told = [timed.row.remark]
    if needed:
        told.append(f"{needed} blocks would settle it, there are {timed.ratio.n}")
    elif decision.verdict == INCONCLUSIVE:
        told.append(intervals.why_no_interval(timed.ratio.n))
    return replace(
        timed.row,
        verdict=decision.verdict,
        remark="; ".join(filter(None, told)),
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
