"""Accuracy on minimal pairs and on cloze of names against training compute."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench.analysis.tables import accuracy
from retnet_bench.base import UserError
from retnet_bench.figures import axes, panels, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import THREE, Sheet
from retnet_bench.results.quantities import COMPUTATION


@figure("accuracy")
def draw(records: pd.DataFrame) -> Figure:
    """Share of right answers of each checkpoint on the package's own tasks, a panel for each group
    of them, against the compute of its training."""
    frame = accuracy.by_compute(records)
    if frame.empty:
        raise UserError(
            'figure "accuracy" needs metric acc of workload downstream on the tasks of list '
            '"grammar", of checkpoints that say their tokens; run retnet-bench eval CHECKPOINT '
            "--tasks grammar for some of both arms"
        )
    frame = frame.assign(compute=frame["compute"].map(COMPUTATION.of))
    frame = panels.scaled(frame, 100)
    sheet = Sheet("Accuracy against training compute", records["arm"], THREE)
    for ax, group in zip(sheet.axes, accuracy.GROUPS, strict=True):
        ax.set_title(accuracy.TITLES[group])
        ax.set_xlabel(COMPUTATION.label("compute"))
        ax.axhline(100 * accuracy.CHANCE, color=style.GREY, lw=0.9, ls=":", zorder=1)
        for arm, line in frame[frame["group"] == group].groupby("arm"):
            look = sheet.styles[str(arm)]
            line = line.sort_values("compute")
            panels.draw_line(ax, line, "compute", look, look.color, label=str(arm))
            if line["seeds"].max() > 1:
                each = line.explode("of_seeds")
                shares = 100 * each["of_seeds"].astype(float)
                ax.plot(each["compute"], shares, ".", color=look.color, ms=4, alpha=0.5)
            sheet.explain(str(arm), panels.line_handle(look))
        axes.plain_x(ax)
    sheet.ours.set_ylabel("right answers (%)")
    chance = Line2D([], [], color=style.GREY, lw=0.9, ls=":")
    sheet.explain("chance; all that words and their neighbours tell", chance)
    return sheet.finish(panels.conditions(records, "downstream"), *_notes(frame))


def _notes(frame: pd.DataFrame) -> list[str]:
    tasks = frame.groupby("group")["tasks"].min()
    counts = ", ".join(f"{accuracy.TITLES[str(group)].lower()}: {n}" for group, n in tasks.items())
    seeds = frame["seeds"].min()
    one = " One seed: intervals of items only." if seeds == 1 else ""
    dots = " Dots: each seed by itself." if frame["seeds"].max() > 1 else ""
    return [f"Tasks a panel: {counts}.{one}{dots}"]
