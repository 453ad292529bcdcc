"""Each arm's perplexity against one arm's, a row each, beside a table that says the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import best_rates, quality
from retnet_bench.base import UserError
from retnet_bench.figures import axes, laws, panels, style
from retnet_bench.figures.sheet import NAMES_BESIDE_PAPER, OPEN, Sheet

PERPLEXITY = "perplexity per token, from {} (%)"


def found(records: pd.DataFrame, name: str, study: str) -> tuple[pd.DataFrame, str]:
    """The rows to draw, the worst first, and the caption's sentence about their budget. UserError
    where there are none."""
    table = quality.ablations(records)
    if table.empty:
        raise UserError(
            f'figure "{name}" needs metric document_nll_nat of workload perplexity, of a full '
            f"model (the study's baseline) and of variants beside it; run the study {study}"
        )
    table, budget = laws.one_budget(laws.largest(table, records))
    return table.sort_values("relative", ascending=False, na_position="first"), budget


def draw(records: pd.DataFrame, name: str, title: str, study: str, beside: str) -> Figure:
    """Relative perplexity per token of each arm to the baseline, on the same documents. `title` is
    for RetNet as the baseline, `beside` what the paper's panel says above it."""
    table, budget = found(records, name, study)
    baseline = str(quality.reference(records))
    ours = baseline == paper.FULL_MODEL
    sheet = Sheet(
        title if ours else f"Every arm against {baseline}", records["arm"], NAMES_BESIDE_PAPER
    )
    names = list(table["arm"])
    points(sheet, table, names)
    rows(sheet.ours, names, PERPLEXITY.format(baseline))
    _paper(sheet, names, paper.load(name), beside)
    same_scale(sheet.ours, sheet.paper)
    note = f"Size {table['size'].iloc[0]}; worse lies to the right of 0, {baseline}."
    contract = panels.conditions(laws.drawn(records, table), "perplexity")
    return sheet.finish(contract, note, budget, best_rates.said(records))


def points(sheet: Sheet, table: pd.DataFrame, names: Sequence[str]) -> None:
    """A point with its interval in each arm's row; an open marker and why where it has none."""
    for _, row in table.iterrows():
        place, look = names.index(row["arm"]), sheet.styles[row["arm"]]
        percent = [100 * float(row[f"relative{end}"]) for end in ("", "_low", "_high")]
        if np.isnan(percent[0]):
            sheet.ours.plot([0], [place], **OPEN, color=look.color)
            sheet.ours.annotate(f"  {row['status']}", (0, place), va="center", fontsize=6.5)
            continue
        point(sheet.ours, place, percent, look)


def point(ax: Axes, place: float, interval: Sequence[float], look: style.ArmStyle) -> None:
    """Estimate, low and high in one row."""
    middle, low, high = interval
    ends = [[max(middle - low, 0.0)], [max(high - middle, 0.0)]]
    ax.errorbar([middle], [place], xerr=ends, **look.points, capsize=2, lw=0.8)


def rows(ax: Axes, names: Sequence[str], words: str, even: float | None = 0) -> None:
    """A row for each name, a line where an arm equals the baseline, and the words of the x axis."""
    if even is not None:
        ax.axvline(even, color=style.GREY, lw=0.8, zorder=1)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(words)


def same_scale(*panels_: Axes) -> None:
    """Panels show the same quantity, so that lengths in them compare."""
    for ax in panels_:
        axes.by_points(ax, "x")
    ends = [ax.get_xlim() for ax in panels_]
    for ax in panels_:
        ax.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))


def _paper(sheet: Sheet, names: Sequence[str], table: paper.PaperTable, title: str) -> None:
    """The paper's five corpora as one faint mark each, in the rows of the same names."""
    wide = table.frame.pivot(index="arm", columns="metric", values="value")
    relative = 100 * (wide / wide.loc[paper.FULL_MODEL] - 1)
    inside = relative[[arm in names for arm in relative.index]]
    marks = inside.rename_axis(index="arm").reset_index().melt("arm", value_name="value")
    marks["row"] = [names.index(arm) for arm in marks["arm"]]
    panels.style_paper_axes(sheet, table, title)
    mark: dict[str, Any] = {
        "marker": "|",
        "linestyle": "none",
        "color": style.GREY,
        "alpha": style.PAPER_ALPHA,
    }
    sheet.paper.plot(marks["value"], marks["row"], label="paper", markersize=8, **mark)
    rows(sheet.paper, names, PERPLEXITY.format(paper.FULL_MODEL))
    sheet.paper.set_yticklabels([])
    for arm in sorted(set(names) - set(relative.index)):
        say(sheet.paper, names.index(arm), "not in the table")


def say(ax: Axes, row: int, words: str) -> None:
    """Why a row has no point."""
    look: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 6, "color": style.GREY}
    ax.text(0.98, row, words, transform=ax.get_yaxis_transform(), **look)
