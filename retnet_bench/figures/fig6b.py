"""Decode throughput against sequence length (the paper's Figure 6b)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import curves
from retnet_bench.figures import axes, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet


@figure("fig6b")
def draw(records: pd.DataFrame) -> Figure:
    """Tokens per second of decoding, mean over the positions, against length, per batch."""
    frame = panels.needed(curves.decode_throughput(records), "fig6b", "decode", "decode_step_s")
    sheet = Sheet("Decode throughput against sequence length", records["arm"])
    panels.draw_curves(sheet, frame, "length", failed_at="bottom")
    axes.log_lengths(sheet.ours, frame["length"])
    axes.log_rates(sheet.ours)
    sheet.ours.set(xlabel="sequence length (tokens)", ylabel="tokens/s, mean over positions")
    predicted = _paper(sheet)
    return sheet.finish(panels.conditions(records, "decode"), predicted)


def _paper(sheet: Sheet) -> str:
    """The paper's points and our predictions; returns the caption's sentence about these."""
    table = paper.load("fig6b")
    title = "Paper: 6.7B, A100-80GB,\nbatch 8 and fp16 (inferred)"
    panels.draw_paper(sheet, table, table.frame, "length", title)
    points = paper.predicted("fig6b")
    predicted = panels.draw_predicted(sheet, points, "length", "bandwidth ceiling")
    axes.log_lengths(sheet.paper, [2048, 4096, 8192])
    axes.log_rates(sheet.paper)
    sheet.paper.set(xlabel="sequence length (tokens)", ylabel="tokens/s")
    return predicted
