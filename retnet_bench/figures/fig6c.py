"""Decode latency at the final position against batch (the paper's Figure 6c)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retnet_bench import paper
from retnet_bench.analysis.tables import curves
from retnet_bench.figures import axes, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet
from retnet_bench.results.quantities import DECODE_STEP


@figure("fig6c")
def draw(records: pd.DataFrame) -> Figure:
    """Time of one decode step at the last position against batch, per length."""
    frame = panels.needed(curves.final_latency(records), "fig6c", "decode", "decode_step_s")
    sheet = Sheet("Decode latency at the final position against batch", records["arm"])
    panels.draw_curves(sheet, panels.scaled(frame, DECODE_STEP.factor), "batch")
    axes.from_zero(sheet.ours)
    sheet.ours.xaxis.set_major_locator(MaxNLocator(integer=True))
    sheet.ours.set(xlabel="batch (sequences)", ylabel=DECODE_STEP.label())
    predicted = _paper(sheet)
    return sheet.finish(panels.conditions(records, "decode"), predicted)


def _paper(sheet: Sheet) -> str:
    """The paper's points and our predictions; returns the caption's sentence about these."""
    table = paper.load("fig6c")
    title = "Paper: 6.7B, A100-80GB,\nfp16 (inferred); line ends: length"
    panels.draw_paper(sheet, table, table.frame, "batch", title, per="length")
    points = paper.predicted("fig6c")
    longest = points[points["length"] == points["length"].max()]  # the shorter ones lie below it
    what = f"bandwidth floor at length {longest['length'].iloc[0]}"
    predicted = panels.draw_predicted(sheet, longest, "batch", what)
    axes.from_zero(sheet.paper)
    sheet.paper.set(xlabel="batch (sequences)", ylabel=DECODE_STEP.label())
    return predicted
