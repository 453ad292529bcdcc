"""Figures that must be equal in every run of the same code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from retnet_bench.analysis.verdicts.comparability import about_cell, why_incomparable
from retnet_bench.analysis.verdicts.decision import (
    IMPROVEMENT,
    NOT_COMPARABLE,
    PASS,
    REGRESSION,
)
from retnet_bench.analysis.verdicts.gate_report import Row
from retnet_bench.results.schema import OK_STATUSES

COLUMNS = ("n_params", "n_body_params", "flops_per_token", "state_bytes", "kernel_dispatched")
"""Exact figures that stand in columns."""


METRICS = ("weight_bytes", "state_bytes", "peak_tensor_bytes", "loss_after_steps_nat")
"""Exact figures that stand in rows of their own."""


MACHINE_BOUND = ("kernel_dispatched", "peak_tensor_bytes", "loss_after_steps_nat")
"""Exact figures that another machine may rightly have otherwise."""


LESS_IS_BETTER = ("peak_tensor_bytes",)


FP64_TOLERANCE = 1e-10  # of the forms' agreement, law 1


def exact_rows(candidate: pd.DataFrame, baseline: pd.DataFrame) -> Iterator[Row]:
    refusal = why_incomparable(candidate, baseline)
    a, b = dict(_figures(candidate)), dict(_figures(baseline))
    for name, expected in b.items():
        bound = name.split(" ")[0] in MACHINE_BOUND
        yield _exact_row(candidate, name, a.get(name), expected, refusal if bound else "")
    forms = _forms(candidate, baseline)
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
    for _, group in read.groupby(["metric", "phase", "position", "step"], dropna=False):
        first = group.iloc[0]
        where = "".join(f" at {n:.0f}" for n in first[["position", "step"]].dropna())
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
        **about_cell(cell), kind="exact", figure=name, verdict=verdict, remark=remark, **shown,
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


def _forms(candidate: pd.DataFrame, baseline: pd.DataFrame) -> Row | None:
    """Agreement of the forms: a cell that was measured has passed its own gate, and in fp64 the
    error it recorded must bear that out."""
    a, b = (cell.loc[cell["metric"] == "forms_relative_error"] for cell in (candidate, baseline))
    if b.empty:
        return None
    errors = {str(check): float(group["value"].max()) for check, group in a.groupby("check")}
    known: dict[str, Any] = {"kind": "exact", "figure": "forms agreement"}
    texts: dict[str, Any] = {"baseline": "agree", "candidate": "agree" if errors else None}
    if not errors:
        verdict, remark = NOT_COMPARABLE, "not recorded in the candidate"
    elif not errors.get("fp64", 0.0) <= FP64_TOLERANCE:
        verdict, remark = REGRESSION, f"fp64 error {errors['fp64']:.1e} above {FP64_TOLERANCE:.0e}"
        texts["candidate"] = "disagree"
    else:
        verdict = PASS
        remark = ", ".join(f"{check} {error:.1e}" for check, error in sorted(errors.items()))
    return Row(
        **about_cell(candidate),
        **known,
        **texts,
        verdict=verdict,
        remark=remark,
        missing=not errors,
    )
