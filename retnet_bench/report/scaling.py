"""Tables of scaling laws: every fit, the joint law of each arm, and what compute buys by it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.table import Table

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import best_rates, law_crossings, optimum, scaling
from retnet_bench.analysis.tables.optimum import Bought
from retnet_bench.analysis.tables.scaling import JOINT, Fit, Scaling
from retnet_bench.base import UserError
from retnet_bench.report import layout
from retnet_bench.results.numbers import at_least_zero, interval, short
from retnet_bench.results.quantities import COMPUTATION

UNIT = "bits per byte"


def tables(records: pd.DataFrame, found: Scaling | None = None) -> Iterator[Table]:
    """The laws of the loss in bits per byte, each fitted once (`found`: before); or one line for
    why there are none. Nothing where there are neither."""
    if not (records["metric"] == "document_nll_nat").any():
        return
    try:
        found = found or scaling.fits(records, UNIT)
    except UserError as error:
        yield layout.table("Scaling laws", "not fitted, because", [[str(error)]])
        return
    if found.fits:
        yield _single(records, found)
        yield from _joint(records, found)


def _single(records: pd.DataFrame, found: Scaling) -> Table:
    """The laws of one variable, with the irreducible loss in nat per token, too."""
    columns = f"against|at|arm|>E, {UNIT}|>E, nat per token|>alpha|>points|>seeds"
    lines = [f"Crossover: {one.text}." for one in law_crossings.crossings(records, found)]
    lines += [f"Not fitted: {reason}." for reason in found.missing]
    lines += ["One seed: intervals of documents only."] * any(f.seeds == 1 for f in found.fits)
    caption = "\n".join(filter(None, [*lines, best_rates.said(records)]))
    rows = (_row(fit) for fit in found.fits if fit.variable != JOINT)
    return layout.table("Scaling laws: loss = E + A x^-alpha", columns, rows, caption=caption)


def _row(fit: Fit) -> list[str]:
    known = fit.law.coefficients()
    nats = "" if fit.nat_per_token != fit.nat_per_token else _floor(fit.floor())
    counts = (str(len(fit.law.loss)), str(fit.seeds))
    return [fit.variable, fit.at, fit.arm, _floor(known["E"]), nats, _of(known["alpha"]), *counts]


def _joint(records: pd.DataFrame, found: Scaling) -> Iterator[Table]:
    laws = found.joint()
    best = optimum.optimum(found)
    crossings = law_crossings.joint(records, found, best) if best else []
    columns = f"arm|>E, {UNIT}|>A|>alpha|>B|>beta|>points|>seeds"
    yield layout.table(
        "Joint law: loss = E + A N^-alpha + B D^-beta, N body parameters, D tokens",
        columns,
        (_coefficients(fit) for fit in laws.values()),
        caption="\n".join(
            [
                *(f"Crossover: {crossing.text}." for crossing in crossings),
                *(f"{sentence}." for sentence in found.unlike()),
            ]
        ),
    )
    if best is None:
        return
    rows = optimum.bought(records, best)
    starred = "* extrapolated: the best model lies past the sizes or tokens measured."
    numbers = f">{COMPUTATION.label('compute')}|arm|>N|>D|>{UNIT}|>compute for equal loss, x"
    yield layout.table(
        "What compute buys at its best, by the joint law",
        numbers,
        map(_bought, rows),
        caption=starred * any(row.beyond for row in rows),
    )


def _coefficients(fit: Fit) -> list[str]:
    known = fit.law.coefficients()
    numbers = [_of(known[name]) for name in ("A", "alpha", "B", "beta")]
    return [fit.arm, _floor(known["E"]), *numbers, str(len(fit.law.loss)), str(fit.seeds)]


def _bought(row: Bought) -> list[str]:
    compute = COMPUTATION.rounded(row.compute, 3).removesuffix(f" {COMPUTATION.unit}")
    ratio = "" if row.ratio is None else f"{_of(row.ratio)} of {row.over}"
    star = "*" if row.beyond else ""
    return [compute + star, row.arm, _short(row.size), _short(row.tokens), _of(row.loss), ratio]


def _of(found: Interval) -> str:
    return interval(pd.Series(found._asdict()))


def _floor(found: Interval) -> str:
    return at_least_zero(pd.Series(found._asdict()))


def _short(found: Interval) -> str:
    ends = "no interval" if found.low != found.low else f"{short(found.low)}, {short(found.high)}"
    return f"{short(found.estimate)} [{ends}]"
