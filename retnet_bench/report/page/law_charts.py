"""Charts of scaling laws: the fits through the models, what compute buys, and isoFLOP curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics.intervals import UNKNOWN, Interval
from retnet_bench.analysis.tables import best_rates, curves, law_crossings, optimum
from retnet_bench.analysis.tables.law_crossings import Crossing
from retnet_bench.analysis.tables.optimum import IsoFlop, Optimum
from retnet_bench.analysis.tables.scaling import Fit, Scaling
from retnet_bench.base import UserError
from retnet_bench.figures import isoflop, laws, scaling_law
from retnet_bench.report.page.chart import Curve, Drawn, Place, Read, no_points
from retnet_bench.report.page.keys import word
from retnet_bench.report.page.sides import Side

BODY = "body parameters"
_STEPS = 40
"""Places of a curve inside what was measured, and half as many past it."""
_NOTHING = Drawn(no_points("x"))
Row = dict[str, Any]


# --- perplexity against size ----------------------------------------------------------------------


def by_size(side: Side) -> Drawn:
    """Perplexity per byte against size, with the laws of one budget, or of one number of tokens a
    parameter; nothing of many arms at one size, which have another chart."""
    records = side.records
    frame = curves.perplexities(best_rates.at_best(records))
    if frame["size"].nunique() == 1 and frame["arm"].nunique() > 2:
        return Drawn(frame.iloc[:0])
    shown, remark = laws.one_line(frame, records)
    points = frame.assign(first=frame.index.isin(shown.index))
    laws_ = side.laws or Scaling([], [])
    fits = [fit for fit in laws_.fits if fit.variable == "parameters"]
    first = {fit.at for fit in fits if _is_line(fit, shown)}
    keys = {fit.at: {"token_budget": _budget(fit)} for fit in fits}
    found = [_fit(fit, keys[fit.at], fit.at in first) for fit in fits]
    crossings = law_crossings.crossings(records, laws_)
    places = [_place(one, keys[one.at], one.at in first) for one in crossings if _is_inside(one)]
    apart = [one for one in crossings if one.at in first and not _is_inside(one)]
    notes = [f"Crossover of the fits: {one.text}." for one in apart]
    return Drawn(points, found, places, notes, remark)


def _is_line(fit: Fit, shown: pd.DataFrame) -> bool:
    """Whether a law goes through the points that are shown first."""
    own = shown[(shown["arm"] == fit.arm) & shown["estimate"].notna()]
    return sorted(map(int, fit.tokens)) == sorted(map(int, own["token_budget"]))


def _budget(fit: Fit) -> str:
    """The value of the filter that shows a law; that of one number of tokens a parameter has none
    that any model has."""
    budgets = {word(float(tokens)) for tokens in fit.tokens}
    return budgets.pop() if len(budgets) == 1 else fit.at


def _fit(fit: Fit, keys: dict[str, str], first: bool) -> Curve:
    past = np.geomspace(fit.high, laws.EXTRAPOLATED * fit.high, _STEPS // 2)[1:]
    x = np.concatenate([np.geomspace(fit.low, fit.high, _STEPS), past])
    low, high = fit.law.band(x)
    y, below, above = (np.exp2(values) for values in (fit.law.at(x), low, high))
    return Curve(fit.arm, x, y, below, above, x <= fit.high, "", keys, first)


def _is_inside(crossing: Crossing) -> bool:
    return crossing.inside.interval is not None


def _place(crossing: Crossing, keys: dict[str, str], first: bool = True) -> Place:
    found = crossing.inside.interval or UNKNOWN
    arms = (crossing.a, crossing.b)
    return Place(*found[:3], crossing.text, arms, keys, first)


# --- what compute buys ----------------------------------------------------------------------------


def frontier(of: str) -> Read:
    """The `loss`, best `size` or best `tokens` of each compute, by the joint law of each arm; with
    the loss the models measured, else the marks where arms are compared."""

    def read(side: Side) -> Drawn:
        best = optimum.optimum(side.laws) if side.laws else None
        if best is None or side.laws is None:
            return _NOTHING
        found = [_frontier(best, arm, of) for arm in best.frontiers]
        if of != "loss":
            return Drawn(_frame(_best(best, of), "compute"), found)
        rows = (row for fit in side.laws.joint().values() for row in _models(fit))
        crossings = law_crossings.joint(side.records, side.laws, best)
        drawn = [one for one in crossings if one.variable == "compute" and _is_inside(one)]
        notes = [
            *(f"Crossover: {one.text}." for one in crossings if one not in drawn),
            *scaling_law.equal_loss(side.records, best),
            *(f"{sentence}." for sentence in side.laws.unlike()),
            *scaling_law.beyond(best),
        ]
        return Drawn(_frame(rows, "compute"), found, [_place(one, {}) for one in drawn], notes)

    return read


def _frame(rows: Iterator[Row], x: str) -> pd.DataFrame:
    found = list(rows)
    first = ["arm", x, *curves.SUMMARY]
    others = [name for row in found[:1] for name in row if name not in first]
    return pd.DataFrame(found, columns=[*first, *others])


def _row(arm: str, interval: Interval, **others: Any) -> Row:
    return {"arm": arm, **interval._asdict(), "status": "ok", "reason": None, **others}


def _frontier(best: Optimum, arm: str, of: str) -> Curve:
    """As far as the figure draws it, dashed where nobody measured the like."""
    x, y, low, high, inside = scaling_law.frontier(best, arm, of)
    return Curve(arm, x, y, low, high, inside)


def _models(fit: Fit) -> Iterator[Row]:
    """The models behind a joint law."""
    ends = zip(fit.law.loss, fit.ends, fit.compute, fit.tokens, fit.sizes, strict=True)
    for loss, (low, high), compute, tokens, size in ends:
        interval = Interval(float(loss), float(low), float(high), fit.law.n)
        yield _row(fit.arm, interval, compute=compute, size=size, token_budget=int(tokens))


def _best(best: Optimum, of: str) -> Iterator[Row]:
    for arm, line in best.frontiers.items():
        for compute in best.levels:
            beyond = best.beyond(arm, compute)
            row = _row(arm, line.interval(of, compute), compute=compute, hollow=bool(beyond))
            yield row | {"reason": f"extrapolated: {beyond}" if beyond else None}


# --- equal compute --------------------------------------------------------------------------------


def equal_compute(side: Side) -> Drawn:
    """Loss against size at equal compute: the models and the parabola through them, or slices of
    the joint law with their least loss."""
    measured = _isoflops(side)
    if measured:
        rows = (row for one in measured for row in _parabola_points(one))
        found = [_parabola(one) for one in measured]
        return Drawn(_frame(rows, "n_body"), found, notes=[isoflop.PARABOLAS])
    best = optimum.optimum(side.laws) if side.laws else None
    if best is None or side.laws is None:
        return _NOTHING
    fits = side.laws.joint()
    found = [_slice(best, fit, compute) for fit in fits.values() for compute in best.levels]
    rows = (row for arm in fits for row in _slice_points(best, arm))
    beyond = [
        f"{arm} at {scaling_law.rounded(compute)}"
        for arm in fits
        for compute in best.levels
        if best.beyond(arm, compute)
    ]
    return Drawn(_frame(rows, "n_body"), found, notes=[isoflop.SLICES + isoflop.none(beyond)])


def best_size(side: Side) -> Drawn:
    """The size of the least loss by each parabola."""
    minima = ((one, one.curve.minimum) for one in _isoflops(side))
    rows = (_row(one.arm, found, compute=one.compute) for one, found in minima if found)
    return Drawn(_frame(rows, "compute"))


def _isoflops(side: Side) -> list[IsoFlop]:
    if not side.has_losses:
        return []
    try:
        return optimum.isoflops(side.records, scaling_law.UNIT)
    except UserError:  # of several contracts, of which `show` says more
        return []


def _parabola(one: IsoFlop) -> Curve:
    sizes = one.curve.sizes
    x = np.geomspace(sizes.min(), sizes.max(), _STEPS)
    low, high = _band(one, x)
    inside, compute = np.full(len(x), True), scaling_law.rounded(one.compute)
    return Curve(one.arm, x, one.curve.at(x), low, high, inside, compute)


def _band(one: IsoFlop, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if one.curve.n < 2:
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    powers = np.vander(np.log(x / one.curve.center), 3, increasing=True).T
    low, high = np.percentile(one.curve.coefficients[1:] @ powers, [2.5, 97.5], axis=0)
    return low, high


def _parabola_points(one: IsoFlop) -> Iterator[Row]:
    for size, loss in zip(one.curve.sizes, one.curve.loss, strict=True):
        known = Interval(float(loss), np.nan, np.nan, one.curve.n)
        yield _row(one.arm, known, n_body=float(size), variant=scaling_law.rounded(one.compute))


def _slice(best: Optimum, fit: Fit, compute: float) -> Curve:
    (low, least), (high, most) = best.measured[fit.arm]
    x = np.geomspace(low / optimum.NEAR, optimum.NEAR * high, _STEPS)
    tokens = optimum.tokens_of(fit, compute, x)
    loss = optimum.slice_of(fit, compute, x)
    nothing = np.full(len(x), np.nan)
    inside = (x >= low) & (x <= high) & (tokens >= least) & (tokens <= most)
    return Curve(fit.arm, x, loss, nothing, nothing, inside, scaling_law.rounded(compute))


def _slice_points(best: Optimum, arm: str) -> Iterator[Row]:
    """The least loss of each slice, where it is among the models measured."""
    for compute in best.levels:
        if not best.beyond(arm, compute):
            loss, size = (best.frontiers[arm].interval(of, compute) for of in ("loss", "size"))
            others: Row = {"x_low": size.low, "x_high": size.high}
            known = Interval(loss.estimate, np.nan, np.nan, loss.n)
            others["variant"] = scaling_law.rounded(compute)
            yield _row(arm, known, n_body=size.estimate, **others)
