"""Recall: answers right by number of pairs, and against what the state takes."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench.analysis.tables import best_rates, recall
from retnet_bench.figures import axes, panels, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import End, Sheet
from retnet_bench.results.quantities import STATE

_LAYOUT = ((0.6, 2.3), (4.65, 2.15))
_OTHER: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 3,
    "alpha": 0.6,
    "markeredgewidth": 0.6,
}
"""The look of an arm at a rate that is not its best."""


@figure("recall")
def draw(records: pd.DataFrame) -> Figure:
    """Share of queries answered right by number of pairs, per arm at its best learning rate, and
    against the bytes of its state."""
    found = recall.by_pairs(records).astype({"pairs": int})
    frame = panels.needed(found, "recall", "recall", recall.METRICS[0])
    frame = panels.scaled(frame, 100.0)
    sheet = Sheet("Multi-query associative recall", records["arm"], _LAYOUT)
    setting = _by_pairs(sheet, frame[frame["best"]])
    most = int(frame["pairs"].max())
    _by_state(sheet, frame[frame["pairs"] == most], most)
    chosen = (
        "Each arm at its own best learning rate, chosen on validation sequences, which are not "
        "those shown; small open markers right are its other rates."
        + best_rates.at_end(frame.loc[frame["at_end"], "arm"], frame["arm"])
    )
    return sheet.finish(panels.conditions(records, "recall"), setting, chosen)


def _by_pairs(sheet: Sheet, best: pd.DataFrame) -> str:
    """Lines of the left panel, their names at their ends; of several settings the last, which the
    sentence that is returned names."""
    ax, said = sheet.ours, ""
    per = [name for name in panels.varying(best, "pairs") if name != recall.RATE]
    if per:
        last = best[per].drop_duplicates().sort_values(per).iloc[-1]
        best = best[(best[per] == last).all(axis="columns")]
        words = ", ".join(f"{name.replace('_', ' ')} {last[name]}" for name in per)
        said = f"Left: {words}."
    ends = []
    for arm, line in best.dropna(subset="estimate").groupby("arm"):
        look = sheet.styles[str(arm)]
        line = line.sort_values("pairs")
        panels.draw_line(ax, line, "pairs", look, look.color, label=str(arm))
        x, y = float(line["pairs"].iloc[-1]), float(line["estimate"].iloc[-1])
        ends.append(End(x, y, "", look.color, str(arm)))
    lost = best[best["estimate"].isna()].assign(variant="")
    panels.draw_failures(sheet, lost, "pairs", "bottom")
    axes.log_lengths(ax, best["pairs"])
    _share(ax)
    ax.set(xlabel="key-value pairs in a sequence", ylabel="queries answered right (%)")
    ax.set_title("By number of pairs")
    sheet.ends.append((ax, ends))
    return said


def _by_state(sheet: Sheet, frame: pd.DataFrame, pairs: int) -> None:
    """Points of the right panel: filled at the best rate, joined over sizes of state."""
    ax = sheet.paper
    frame = frame.dropna(subset=["estimate", "state_bytes"])
    frame = frame.assign(state=STATE.of(1.0) * frame["state_bytes"])
    for arm, points in frame.groupby("arm"):
        look = sheet.styles[str(arm)]
        best = points[points["best"]].sort_values("state")
        panels.draw_line(ax, best, "state", look, look.color, label=str(arm))
        sheet.explain(str(arm), panels.line_handle(look))
        others = points[~points["best"]]
        shape = _OTHER | {"marker": look.marker, "color": look.color, "markerfacecolor": "none"}
        ax.plot(others["state"], others["estimate"], label=f"{arm}, other rates", **shape)
    if not frame["best"].all():
        other = Line2D([], [], marker="o", color=style.GREY, markerfacecolor="none", **_OTHER)
        sheet.explain("other learning rates", other)
    axes.plain_x(ax)
    _share(ax)
    ax.set(xlabel=STATE.label("state of a sequence at its end"))
    ax.set_title(f"At {pairs} pairs, by size of state")


def _share(ax: Axes) -> None:
    ax.set_ylim(-3, 106)
    ax.set_yticks(range(0, 101, 20))
