"""The compute-optimal frontier of each arm: loss, size and tokens against training compute."""

from __future__ import annotations

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
from retnet_bench.results.numbers import quantity
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
        *(f"Crossover: {one.text}." for one in law_crossings.joint(records, found, best)),
        *beyond(best),
        best_rates.said(records),
    ]
    return sheet.finish(panels.contract(records, "perplexity"), *notes)


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
    named = {"E": "E", "alpha": "exponents of size", "beta": "of tokens"}
    return ", ".join(f"{words} {_ends(known[name])}" for name, words in named.items())


def equal_loss(records: pd.DataFrame, best: Optimum) -> list[str]:
    """How much compute each arm needs for the loss of the one that it is compared with."""
    return [
        f"For the loss that {row.over} reaches with {_compute(row.compute)}, {row.arm} needs "
        f"{_ends(row.ratio)} times that compute."
        for row in optimum.bought(records, best)
        if row.ratio is not None and row.compute == best.levels[-1]
    ]


def beyond(best: Optimum) -> list[str]:
    """A sentence for each arm whose best model for the most compute nobody measured the like of."""
    words = {arm: best.beyond(arm, best.high) for arm in best.frontiers}
    return [f"The best {arm} for the most compute has {w}." for arm, w in words.items() if w]


def _compute(value: float) -> str:
    return COMPUTATION.rounded(value, 3)


def _ends(found: Interval) -> str:
    ends = "no interval"
    if found.low == found.low:
        ends = f"{quantity(found.low)}, {quantity(found.high)}"
    return f"{quantity(found.estimate)} [{ends}]"


def _panel(sheet: Sheet, ax: Axes, found: Scaling, best: Optimum, name: str) -> None:
    for arm, frontier in best.frontiers.items():
        look = sheet.styles[arm]
        x = COMPUTATION.of(1.0) * frontier.compute
        middle, low, high = frontier.band(name)
        inside = (frontier.compute >= best.low / 1.01) & (frontier.compute <= best.high * 1.01)
        past = (frontier.compute >= best.high / 1.01) & (
            frontier.compute <= laws.EXTRAPOLATED * best.high
        )
        for part, dashes, alpha in ((inside, look.linestyle, 0.18), (past, laws.DASHES, 0.08)):
            words = "extrapolated" if part is past else "fit"
            line: dict[str, Any] = {"color": look.color, "linestyle": dashes, "linewidth": 1.0}
            ax.plot(x[part], middle[part], label=f"{arm} {words}", zorder=1.5, **line)
            ax.fill_between(x[part], low[part], high[part], color=look.color, alpha=alpha, lw=0)
        if name == "loss":
            _points(sheet, ax, found.joint()[arm])
        sheet.explain(arm, panels.line_handle(look))
    ax.set_xscale("log")
    if name != "loss":
        ax.set_yscale("log")
        axes.short_ticks(ax)


def _points(sheet: Sheet, ax: Axes, fit: Fit) -> None:
    """The models measured, with their intervals."""
    bars = np.clip(np.abs(fit.ends.T - fit.law.loss), 0, None)
    x = COMPUTATION.of(1.0) * fit.compute
    look: dict[str, Any] = {**sheet.styles[fit.arm].points, "linestyle": "none", "capsize": 2}
    ax.errorbar(x, fit.law.loss, yerr=bars, elinewidth=0.8, label=f"{fit.arm} measured", **look)
