"""Decode throughput against sequence length (the paper's Figure 6b)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis import curves
from retnet_bench.figures import panels
from retnet_bench.figures.registry import figure


@figure("fig6b")
def draw(records: pd.DataFrame) -> Figure:
    """Tokens per second of decoding, mean over the positions, against length, per batch."""
    frame = panels.needed(curves.decode_throughput(records), "fig6b", "decode", "decode_step_s")
    sheet = panels.Sheet("Decode throughput against sequence length")
    panels.draw_curves(sheet, frame, "length", failed_at="bottom")
    panels.log_lengths(sheet.ours, frame["length"])
    panels.log_rates(sheet.ours)
    sheet.ours.set(xlabel="sequence length (tokens)", ylabel="tokens/s, mean over positions")
    _paper(sheet)
    return sheet.finish(panels.contract(records, "decode"))


def _paper(sheet: panels.Sheet) -> None:
    table = paper.load("fig6b")
    title = "Paper: 6.7B, A100-80GB,\nbatch 8 and fp16 (inferred)"
    panels.draw_paper(sheet, table, table.frame, "length", title)
    panels.log_lengths(sheet.paper, [2048, 4096, 8192])
    panels.log_rates(sheet.paper)
    sheet.paper.set(xlabel="sequence length (tokens)", ylabel="tokens/s")
