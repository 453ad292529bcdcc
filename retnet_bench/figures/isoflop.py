"""IsoFLOP curves: loss against model size at equal training compute, and where it is least."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import best_rates, optimum
from retnet_bench.analysis.tables.optimum import IsoFlop
from retnet_bench.base import UserError
from retnet_bench.figures import axes, panels, scaling_law, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import End, Sheet
from retnet_bench.results.quantities import COMPUTATION

LAYOUT = ((0.6, 3.2), (4.8, 2.0))
PARABOLAS = "Points are models, lines the parabolas through them in log size."
SLICES = (
    "No compute was given to three sizes: lines are the joint law at that compute, marks, where "
    "there are any, its least loss with the interval of the size."
)


@figure("isoflop")
def draw(records: pd.DataFrame) -> Figure:
    """Left: loss against size at each compute. Right: the best size against compute.

    Where three sizes were trained with the same compute, points and the parabola through them; else
    slices of the joint law, which has every size at every compute."""
    measured = optimum.isoflops(records, scaling_law.UNIT)
    sheet = Sheet("Loss at equal training compute", records["arm"], LAYOUT)
    words = _parabolas(sheet, measured) if measured else _slices(sheet, records)
    sheet.ours.set_xscale("log")
    sheet.ours.set(xlabel="body parameters", ylabel=scaling_law.UNIT)
    sheet.ours.set_title("At equal compute; line ends: " + COMPUTATION.unit)
    sheet.ends = [(sheet.ours, [end for _, ends in sheet.ends for end in ends])]
    right = sheet.paper
    right.set(xlabel=COMPUTATION.label("compute"), ylabel="best size (body parameters)")
    axes.short_ticks(sheet.ours, "x")
    if right.containers:
        right.set(xscale="log", yscale="log")
        axes.short_ticks(right, "x")
        axes.short_ticks(right)
    else:
        right.set(xticks=[], yticks=[])
        right.text(0.5, 0.5, "none among the models", transform=right.transAxes, ha="center")
    notes = (words, best_rates.said(records))
    return sheet.finish(panels.conditions(records, "perplexity"), *notes)


def _parabolas(sheet: Sheet, measured: list[IsoFlop]) -> str:
    levels = sorted({one.compute for one in measured})
    beyond = []
    for one in measured:
        color = _shade(sheet, one.arm, one.compute, levels)
        curve = one.curve
        look: dict[str, Any] = {**sheet.styles[one.arm].points, "linestyle": "none"}
        sheet.ours.plot(curve.sizes, curve.loss, **(look | {"color": color}))
        x = np.geomspace(curve.sizes.min(), curve.sizes.max(), 60)
        _curve(sheet, one.arm, one.compute, x, curve.at(x), color)
        if curve.minimum is None:
            beyond.append(f"{one.arm} at {scaling_law.rounded(one.compute)}")
        else:
            _least(sheet, one.arm, one.compute, curve.minimum)
    return f"{PARABOLAS}{none(beyond)}"


def _slices(sheet: Sheet, records: pd.DataFrame) -> str:
    try:
        found, best = scaling_law.needed(records, "isoflop")
    except UserError as error:
        raise UserError(f"{error}; nor were three sizes trained with equal compute") from None
    beyond = []
    for arm, fit in found.joint().items():
        low, high = best.measured[arm][:, 0]
        x = np.geomspace(low / optimum.NEAR, optimum.NEAR * high, 80)
        for compute in best.levels:
            loss = optimum.slice_of(fit, compute, x)
            _curve(sheet, arm, compute, x, loss, _shade(sheet, arm, compute, best.levels))
            if best.beyond(arm, compute):
                beyond.append(f"{arm} at {scaling_law.rounded(compute)}")
                continue
            size = best.frontiers[arm].interval("size", compute)
            _mark_least(sheet, arm, size, best.frontiers[arm].interval("loss", compute).estimate)
            _least(sheet, arm, compute, size)
    return f"{SLICES}{none(beyond)}"


def none(beyond: list[str]) -> str:
    """A sentence about curves whose least loss nobody measured near."""
    return f" No least loss among the models measured: {', '.join(beyond)}." if beyond else ""


def _shade(sheet: Sheet, arm: str, compute: float, levels: list[float]) -> style.Color:
    return style.shade(sheet.styles[arm].color, levels.index(compute), len(levels))


def _curve(
    sheet: Sheet, arm: str, compute: float, x: np.ndarray, loss: np.ndarray, color: style.Color
) -> None:
    look = sheet.styles[arm]
    sheet.ours.plot(x, loss, color=color, linestyle=look.linestyle, lw=1.0, label=f"{arm} curve")
    sheet.explain(arm, panels.line_handle(look))
    words = scaling_law.rounded(compute).removesuffix(f" {COMPUTATION.unit}")
    end = End(float(x[-1]), float(loss[-1]), words, look.color, arm * sheet.crowded)
    sheet.ends.append((sheet.ours, [end]))


def _mark_least(sheet: Sheet, arm: str, size: Interval, loss: float) -> None:
    look: dict[str, Any] = {**sheet.styles[arm].points, "linestyle": "none", "capsize": 2}
    sheet.ours.errorbar([size.estimate], [loss], xerr=_bars(size), elinewidth=0.8, **look)


def _least(sheet: Sheet, arm: str, compute: float, size: Interval) -> None:
    look: dict[str, Any] = {**sheet.styles[arm].points, "linestyle": "none", "capsize": 2}
    at = COMPUTATION.of(compute)
    label = f"{arm} best size"
    sheet.paper.errorbar(
        [at], [size.estimate], yerr=_bars(size), elinewidth=0.8, label=label, **look
    )


def _bars(found: Interval) -> list[list[float]]:
    """Lengths below and above; an end that is not known, or infinite, as far as a thousandfold."""
    low = max(found.low, found.estimate / 1000)
    high = min(found.high, found.estimate * 1000)
    return [[found.estimate - low], [high - found.estimate]]
