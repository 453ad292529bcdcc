"""Accuracy on the seven tasks, without and with solved examples (the paper's Table 3)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench import paper
from retnet_bench.analysis.tables.downstream import scores
from retnet_bench.base import UserError
from retnet_bench.figures import panels, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import NAMES_BESIDE_PAPER, Sheet

TASKS = {
    "hellaswag": "hellaswag",
    "boolq": "boolq",
    "copa": "copa",
    "piqa": "piqa",
    "wsc273": "winograd",
    "winogrande": "winogrande",
    "xstorycloze_en": "storycloze",
}
"""lm-eval's names, and the paper's."""
_BESIDE = 0.14
"""How far the arms' points lie apart, in rows."""


@figure("table3")
def draw(records: pd.DataFrame) -> Figure:
    """Share of right answers per task: without examples filled, with examples open."""
    frame = needed(records)
    sheet = Sheet("Accuracy on the paper's seven tasks", records["arm"], NAMES_BESIDE_PAPER)
    arms = sorted(frame["arm"].unique())
    for _, row in frame.iterrows():
        _point(sheet.ours, row, arms, sheet.styles[row["arm"]], alpha=1.0)
    for arm in arms:
        sheet.explain(arm, panels.line_handle(sheet.styles[arm]))
    _explain_shots(sheet)
    _paper(sheet)
    for ax in (sheet.ours, sheet.paper):
        _rows(ax)
    sheet.paper.set_yticklabels([])
    return sheet.finish(panels.conditions(records, "downstream"), "Bars are Wilson's intervals.")


def needed(records: pd.DataFrame) -> pd.DataFrame:
    """Shares of right answers (%), the tasks by the paper's names."""
    frame = scores(records)
    frame = frame[(frame["metric"] == "acc") & frame["task"].isin(list(TASKS))]
    if frame.empty:
        tasks = ", ".join(TASKS)
        raise UserError(
            f'figure "table3" needs metric acc of workload downstream on one of {tasks}; '
            "run retnet-bench reproduce table3, or eval --tasks paper"
        )
    percent = {name: 100 * frame[name] for name in ("estimate", "low", "high")}
    return frame.assign(**percent, task=frame["task"].map(TASKS))


def _point(ax: Axes, row: pd.Series, arms: list[str], look: style.ArmStyle, alpha: float) -> None:
    row_of_task = list(TASKS.values()).index(row["task"])
    place = row_of_task + _BESIDE * (arms.index(row["arm"]) - (len(arms) - 1) / 2)
    ends = [[max(row["estimate"] - row["low"], 0)], [max(row["high"] - row["estimate"], 0)]]
    ax.errorbar(
        [row["estimate"]],
        [place],
        xerr=ends,
        color=look.color,
        marker=look.marker,
        markerfacecolor="white" if row["shots"] else look.color,
        alpha=alpha,
        capsize=2,
        lw=0.8,
    )


def _explain_shots(sheet: Sheet) -> None:
    for words, face in (("no examples", style.GREY), ("with examples", "white")):
        mark = Line2D([], [], marker="o", ls="none", color=style.GREY, markerfacecolor=face)
        sheet.explain(words, mark)


def _paper(sheet: Sheet) -> None:
    table = paper.load("table3")
    frame = table.frame.rename(columns={"metric": "task", "value": "estimate"})
    frame = frame[frame["task"].isin(TASKS.values())]
    frame = frame.assign(low=frame["estimate"], high=frame["estimate"])
    arms, styles = sorted(frame["arm"].unique()), style.arm_styles(frame["arm"])
    for _, row in frame.iterrows():
        _point(sheet.paper, row, arms, styles[row["arm"]], style.PAPER_ALPHA)
    panels.style_paper_axes(sheet, table, "Paper: 6.7B, 100B tokens,\none seed")


def _rows(ax: Axes) -> None:
    ax.set_yticks(range(len(TASKS)), list(TASKS.values()))
    ax.set_ylim(len(TASKS) - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.set_xlabel("right answers (%)")
