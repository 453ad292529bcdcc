"""Loss against position in the document, past the length trained on."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench.analysis.tables import curves
from retnet_bench.figures import axes, laws, panels, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import ALONE, Sheet


@figure("position")
def draw(records: pd.DataFrame) -> Figure:
    """Loss per token against position in the document; what lies past the trained length is
    extrapolation by the model. At the largest model that was scored so."""
    frame = panels.needed(curves.by_position(records), "position", "perplexity", "position_nll_nat")
    frame, budget = laws.one_budget(laws.largest(frame, records))
    sheet = Sheet("Loss against position in the document", records["arm"], ALONE)
    panels.draw_curves(sheet, frame, "position")
    for trained in sorted(frame["length"].dropna().unique()):
        _mark(sheet, float(trained), float(frame["position"].max()))
    axes.log_lengths(sheet.ours, frame["position"])
    sheet.ours.set(xlabel="position in the document (tokens, end of bucket)")
    sheet.ours.set(ylabel="loss (nat per token)")
    size = f"Size {frame['size'].iloc[0]}."
    contract = panels.conditions(laws.drawn(records, frame), "perplexity")
    return sheet.finish(contract, size, budget, laws.PAIRED)


def _mark(sheet: Sheet, trained: float, last: float) -> None:
    line = sheet.ours.axvline(trained, color=style.GREY, lw=0.9, ls=":", zorder=1)
    sheet.explain(f"trained length {trained:,.0f}", line)
    if last > trained:
        sheet.ours.axvspan(trained, last, fc=style.GREY, alpha=0.08, lw=0, zorder=0)
        sheet.ours.annotate(
            "past the trained length",
            (trained, 0.98),
            xycoords=sheet.ours.get_xaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            va="top",
            fontsize=6.5,
            color=style.GREY,
        )
