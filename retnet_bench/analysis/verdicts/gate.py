"""The gate: two sets of records compared cell by cell, without ever taking silence for a pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from retnet_bench.analysis.tables.floor import Floors
from retnet_bench.analysis.verdicts.comparability import (
    COPIED,
    about_cell,
    failure_text,
    is_left_out,
    is_measured,
    nearest_text,
    same_records,
)
from retnet_bench.analysis.verdicts.decision import (
    NOT_COMPARABLE,
    REGRESSION,
    VERDICTS,
    Policy,
)
from retnet_bench.analysis.verdicts.exact import exact_rows
from retnet_bench.analysis.verdicts.gate_report import Report, Row
from retnet_bench.analysis.verdicts.timed import timed_rows
from retnet_bench.base import UserError


def compare(
    candidate: pd.DataFrame, baseline: pd.DataFrame, floors: Floors, policy: Policy
) -> Report:
    """The candidate's records held against the baseline's. UserError when either has no rows."""
    for name, records in (("candidate", candidate), ("baseline", baseline)):
        if records.empty:
            raise UserError(f"the {name} has no records: there is nothing to compare")
    found = list(_exact_and_lost(candidate, baseline))
    if not policy.exact_only:
        found += timed_rows(candidate, baseline, floors, policy)
    found.sort(key=lambda row: (VERDICTS.index(row.verdict), row.kind != "timed"))
    about = {f"{name}_{key}": _values_text(records[key]) for name, records in
             (("candidate", candidate), ("baseline", baseline))
             for key in ("machine", "git_revision")}  # fmt: skip
    return Report(found, policy, about)


def _values_text(column: pd.Series) -> str:
    return ", ".join(sorted(map(str, column.dropna().unique()))) or "not recorded"


def _exact_and_lost(candidate: pd.DataFrame, baseline: pd.DataFrame) -> Iterator[Row]:
    """Exact figures of the cells both sides measured, and a row for every other cell."""
    new = dict(iter(candidate.groupby("cell_id")))
    old = dict(iter(baseline.groupby("cell_id")))
    for cell_id, cell in old.items():
        if cell_id not in new:
            why = f"not in the candidate{nearest_text(cell, new.values())}"
            yield _cell_row(cell, NOT_COMPARABLE, why, missing=is_measured(cell))
        else:
            yield from _cell(new[cell_id], cell)
    for cell_id, cell in new.items():
        if cell_id not in old:
            why = f"not in the baseline{nearest_text(cell, old.values())}"
            yield _cell_row(cell, NOT_COMPARABLE, why)


def _cell_row(cell: pd.DataFrame, verdict: str, remark: str, missing: bool = False) -> Row:
    known: dict[str, Any] = {"kind": "cell", "figure": "cell", "verdict": verdict, "remark": remark}
    return Row(**about_cell(cell), **known, missing=missing)


def _cell(new: pd.DataFrame, old: pd.DataFrame) -> Iterator[Row]:
    if not is_measured(old):
        also = "" if is_measured(new) else f"; candidate too ({failure_text(new)})"
        why = f"failed in the baseline ({failure_text(old)}){also}"
        yield _cell_row(old, NOT_COMPARABLE, why)
    elif is_left_out(new):
        yield _cell_row(new, NOT_COMPARABLE, f"left out ({failure_text(new)})", missing=True)
    elif not is_measured(new):
        yield _cell_row(new, REGRESSION, f"failed in the candidate ({failure_text(new)})")
    elif same_records(new, old):
        yield _cell_row(new, NOT_COMPARABLE, COPIED, missing=True)
    else:
        yield from exact_rows(new, old)
