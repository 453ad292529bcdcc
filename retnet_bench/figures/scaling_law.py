"""The compute-optimal frontier of each arm: loss, size and tokens against training compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import best_rates, law_crossings, optimum, scaling
from retnet_bench.analysis.tables.optimum import Optimum
from retnet_bench.analysis.tables.scaling import Fit, Scaling
from retnet_bench.base import UserError
from retnet_bench.figures import axes, laws, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import THREE, Sheet
from retnet_bench.results.numbers import at_least_zero, quantity
from retnet_bench.results.quantities import COMPUTATION

UNIT = "bits per byte"
_PANELS = (("loss", UNIT), ("size", "best size (body parameters)"), ("tokens", "best tokens"))


@figure("scaling_law")
def draw(records: pd.DataFrame) -> Figure:
    """The joint law L(N, D) of each arm as what compute buys: the least loss, and the size and
    tokens that reach it, beside the models measured."""
    found, best = needed(records, "scaling_law")
    sheet = Sheet("Scaling laws: what training compute buys", records["arm"], THREE)
    for ax, (name, words) in zip(sheet.axes, _PANELS, strict=True):
        _panel(sheet, ax, found, best, name)
        ax.set_title(words)
        ax.set_xlabel(COMPUTATION.label("compute"))
    laws.explain_fits(sheet)
    notes = [
        *(f"{arm}: {sentence(fit)}." for arm, fit in found.joint().items()),
        *equal_loss(records, best),
        *(f"{sentence}." for sentence in found.unlike()),
        *(f"Crossover: {one.text}." for one in law_crossings.joint(records, found, best)),
        *beyond(best),
        best_rates.said(records),
    ]
    return sheet.finish(panels.conditions(records, "perplexity"), *notes)


def needed(records: pd.DataFrame, name: str) -> tuple[Scaling, Optimum]:
    """The joint laws of the records; UserError with the reason where there is none."""
    found = scaling.fits(records, UNIT, scaling.JOINT)
    best = optimum.optimum(found)
    if best is None:
        lacks = "; ".join(found.missing) or "these records have no losses at several budgets"
        if found.fits:
            lacks = "the FLOPs of these records' models are not recorded"
        raise UserError(
            f'figure "{name}" needs metric document_nll_nat of workload perplexity at several '
            f"sizes and token budgets: {lacks}"
        )
    return found, best


def sentence(fit: Fit) -> str:
    """The law's coefficients with their intervals."""
    known = fit.law.coefficients()
    floor = at_least_zero(pd.Series(known["E"]._asdict()))
    exponents = f"exponents of size {_ends(known['alpha'])}, of tokens {_ends(known['beta'])}"
    return f"E {floor}, {exponents}"


def equal_loss(records: pd.DataFrame, best: Optimum) -> list[str]:
    """How much compute each arm needs for the loss of the one that it is compared with."""
    return [
        f"For the loss that {row.over} reaches with {rounded(row.compute)}, {row.arm} needs "
        f"{_ends(row.ratio)} times that compute."
        for row in optimum.bought(records, best)
        if row.ratio is not None and row.compute == best.levels[-1]
    ]


def beyond(best: Optimum) -> list[str]:
    """A sentence for each arm whose best model for the most compute nobody measured the like of."""
    words = {arm: best.beyond(arm, best.high) for arm in best.frontiers}
    return [f"The best {arm} for the most compute has {w}." for arm, w in words.items() if w]


def rounded(compute: float) -> str:
    """A compute in words."""
    return COMPUTATION.rounded(compute, 3)


def frontier(best: Optimum, arm: str, name: str) -> tuple[np.ndarray, ...]:
    """An arm's frontier as far as it is drawn: compute, the `loss`, best `size` or best `tokens`
    there with both ends of the band, and whether the like was measured, each (P,)."""
    line = best.frontiers[arm]
    shown = (line.compute > best.low / 1.1) & (line.compute < laws.EXTRAPOLATED * best.high)
    compute = line.compute[shown]
    known = np.array([c < 1.1 * best.high and not best.beyond(arm, c) for c in compute])
    return (compute, *(part[shown] for part in line.band(name)), known)


def _ends(found: Interval) -> str:
    ends = "no interval"
    if found.low == found.low:
        ends = f"{quantity(found.low)}, {quantity(found.high)}"
    return f"{quantity(found.estimate)} [{ends}]"


def _panel(sheet: Sheet, ax: Axes, found: Scaling, best: Optimum, name: str) -> None:
    for arm in best.frontiers:
        compute, middle, low, high, known = frontier(best, arm, name)
        look, color = sheet.styles[arm], sheet.styles[arm].color
        x = COMPUTATION.factor * compute
        line: dict[str, Any] = {"color": color, "linewidth": 1.0, "zorder": 1.5}
        if name == "loss":  # small ones: the models' own have bars
            line |= {"marker": look.marker, "markersize": 2.5, "markevery": 6}
        ax.plot(x, middle, label=f"{arm} extrapolated", linestyle=laws.DASHES, **line)
        solid = np.where(known, middle, np.nan)
        ax.plot(x, solid, label=f"{arm} fit", linestyle="-", **line)
        ax.fill_between(x, low, high, color=color, alpha=0.08, lw=0)
        ax.fill_between(x, low, high, where=known.tolist(), color=color, alpha=0.12, lw=0)
        if name == "loss":
            _points(sheet, ax, found.joint()[arm])
        else:
            _marks(sheet, ax, best, arm, name)
        sheet.explain(arm, panels.line_handle(replace(look, linestyle="-")))
    ax.set_xscale("log")
    axes.short_ticks(ax, "x")
    if name != "loss":
        ax.set_yscale("log")
        axes.short_ticks(ax)


def _marks(sheet: Sheet, ax: Axes, best: Optimum, arm: str, name: str) -> None:
    """The arm's marker where arms are compared, so that a grey printer tells them apart; open where
    the best model is extrapolated."""
    for compute in best.levels:
        place = best.frontiers[arm].interval(name, compute).estimate
        look: dict[str, Any] = {**sheet.styles[arm].points, "linestyle": "none"}
        if best.beyond(arm, compute):
            look["markerfacecolor"] = "white"
        ax.plot([COMPUTATION.of(compute)], [place], label=f"{arm} best", **look)


def _points(sheet: Sheet, ax: Axes, fit: Fit) -> None:
    """The models measured, with their intervals."""
    bars = np.clip(np.abs(fit.ends.T - fit.law.loss), 0, None)
    x = COMPUTATION.factor * fit.compute
    look: dict[str, Any] = {**sheet.styles[fit.arm].points, "linestyle": "none", "capsize": 2}
    ax.errorbar(x, fit.law.loss, yerr=bars, elinewidth=0.8, label=f"{fit.arm} measured", **look)
