"""Findings in words: a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rich.table import Table

from retnet_bench.analysis.verdicts.claims import Claim
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.report import layout
from retnet_bench.results.numbers import quantity
from retnet_bench.results.quantities import of_unit

_SAID = {"at_least": "at least", "at_most": "at most", "includes": "interval includes"}


def claims_table(findings: Iterable[Finding]) -> Table:
    """A row per claim: what it says and whence, what it asks, our number and the verdict."""
    columns = {"claim": 5, "stated": 4, "ours [95 % interval]": 3, "verdict": 2}
    return layout.prose("Claims", columns, map(_row, findings))


def _row(finding: Finding) -> tuple[str, ...]:
    claim = finding.claim
    why = f"\n{finding.reason}" if finding.reason else ""
    at = f"\n{finding.at}" if finding.at else ""
    what = f"{claim.name}: {claim.says}\n({claim.source})"
    return what, _stated(finding), ours(finding) + at, finding.verdict + why


def ours(finding: Finding) -> str:
    """`5.28 x [4.97, 6.26]`; `below` and `above` where the range that was measured ends."""
    if finding.verdict == "not measured":
        return "not measured"
    shown = of_unit(finding.unit)
    estimate, low, high = map(shown.of, finding.interval[:3])
    where = {0.0: ("below", high), np.inf: ("above", low)}
    if finding.claim.measure.kind == "crossover" and estimate in where:
        side, end = where[estimate]
        return (
            f"{side} the measured range"
            if np.isnan(end)
            else _with(f"{side} {_number(end, shown.unit)}", shown.unit)
        )
    estimate_, low_, high_ = (_number(value, shown.unit) for value in (estimate, low, high))
    interval = "no interval" if np.isnan(low) else f"{low_}, {high_}"
    exact = low == high == estimate
    return _with(estimate_, shown.unit) + ("" if exact else f" [{interval}]")


def asked(finding: Finding) -> str:
    """The comparison in words, in the unit that `ours` is shown in."""
    claim = finding.claim
    shown = of_unit(finding.unit)
    if claim.between is not None:
        low, high = (_bound(shown.of(end)) for end in claim.between)
        return _with(f"between {low} and {high}", shown.unit)
    name = next(name for name in _SAID if getattr(claim, name) is not None)
    return _with(f"{_SAID[name]} {_bound(shown.of(getattr(claim, name)))}", shown.unit)


def stated(claim: Claim) -> str:
    """The paper's number and its conditions; nothing where it has none."""
    paper = claim.paper
    return "" if paper is None else f"{_with(_bound(paper.value), paper.unit)}; {paper.at}"


def _stated(finding: Finding) -> str:
    words = f"{_of(finding.claim)}: {asked(finding)}"
    paper = stated(finding.claim)
    return f"{words}\npaper: {paper}" if paper else words


def _of(claim: Claim) -> str:
    """What number the claim is about: `decode_tokens_per_s retnet / transformer`."""
    measure = claim.measure
    if measure.kind == "crossover":
        return f"{claim.where.workload}: {measure.of} overtakes {measure.over}"
    if measure.kind in ("ratio", "equal_compute"):
        metric = measure.metric or "held-out loss at equal compute:"
        return f"{metric} {measure.of} / {measure.over}"
    subject = {
        "slope": "slope over position",
        "growth": "growth of the step from the first position to the last",
        "exponent": f"exponent of {measure.metric}",
    }
    return f"{subject.get(measure.kind, measure.metric)}, {measure.of}"


def _number(value: float, unit: str) -> str:
    """Tokens are counted: none is shown in parts."""
    return f"{value:,.0f}" if unit == "tokens" and np.isfinite(value) else quantity(value)


def _bound(value: float) -> str:
    return f"{value:,.12g}"


def _with(number: str, unit: str) -> str:
    return f"{number} {unit}".strip()
