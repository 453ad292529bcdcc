"""What leaving out a part of RetNet costs (the paper's Table 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import quality
from retnet_bench.base import UserError
from retnet_bench.figures import axes, laws, panels, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import NAMES_BESIDE_PAPER, OPEN, Sheet


@figure("table6")
def draw(records: pd.DataFrame) -> Figure:
    """Relative perplexity per token of each variant to the full RetNet, on the same documents."""
    found = quality.ablations(records)
    if found.empty:
        raise UserError(
            'figure "table6" needs metric document_nll_nat of workload perplexity, of a full model '
            "(the study's baseline) and of variants beside it; run the study ablations"
        )
    found, budget = laws.one_budget(laws.largest(found, records))
    found = found.sort_values("relative", ascending=False, na_position="first")
    full_model = str(quality.reference(records))
    ours = full_model == paper.FULL_MODEL
    title = "What each part of RetNet is worth" if ours else f"Every arm against {full_model}"
    sheet = Sheet(title, records["arm"], NAMES_BESIDE_PAPER)
    names = list(found["arm"])
    _points(sheet, found, names)
    _rows(sheet.ours, names, full_model)
    _paper(sheet, names)
    _same_scale(sheet)
    zero = "the full RetNet" if ours else full_model
    note = f"Size {found['size'].iloc[0]}; worse lies to the right of 0, {zero}."
    return sheet.finish(panels.contract(records, "perplexity"), note, budget)


def _points(sheet: Sheet, found: pd.DataFrame, names: list[str]) -> None:
    for _, row in found.iterrows():
        place, look = names.index(row["arm"]), sheet.styles[row["arm"]]
        middle, low, high = (100 * float(row[f"relative{end}"]) for end in ("", "_low", "_high"))
        if np.isnan(middle):
            sheet.ours.plot([0], [place], **OPEN, color=look.color)
            sheet.ours.annotate(f"  {row['status']}", (0, place), va="center", fontsize=6.5)
            continue
        ends = [[max(middle - low, 0.0)], [max(high - middle, 0.0)]]
        sheet.ours.errorbar(
            [middle], [place], xerr=ends, color=look.color, marker=look.marker, capsize=2, lw=0.8
        )


def _rows(ax: Axes, names: list[str], full_model: str) -> None:
    ax.axvline(0, color=style.GREY, lw=0.8, zorder=1)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(f"perplexity per token, from {full_model} (%)")


def _same_scale(sheet: Sheet) -> None:
    """Both panels show the same quantity, so lengths in them compare."""
    for ax in (sheet.ours, sheet.paper):
        axes.by_points(ax, "x")
    ends = [ax.get_xlim() for ax in (sheet.ours, sheet.paper)]
    for ax in (sheet.ours, sheet.paper):
        ax.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))


def _paper(sheet: Sheet, names: list[str]) -> None:
    """The paper's five corpora as one faint mark each, in the rows of the same names."""
    table = paper.load("table6")
    wide = table.frame.pivot(index="arm", columns="metric", values="value")
    relative = 100 * (wide / wide.loc[paper.FULL_MODEL] - 1)
    inside = relative[[arm in names for arm in relative.index]]
    points = inside.rename_axis(index="arm").reset_index().melt("arm", value_name="value")
    points["row"] = [names.index(arm) for arm in points["arm"]]
    title = "Paper: 200M, 5B tokens, one seed;\nmarks: its five corpora"
    panels.style_paper_axes(sheet, table, title)
    mark: dict[str, Any] = {
        "marker": "|",
        "linestyle": "none",
        "color": style.GREY,
        "alpha": style.PAPER_ALPHA,
    }
    sheet.paper.plot(points["value"], points["row"], label="paper", markersize=8, **mark)
    _rows(sheet.paper, names, paper.FULL_MODEL)
    sheet.paper.set_yticklabels([])
