"""Inference memory against sequence length (the paper's Figure 6a)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis import curves
from retnet_bench.figures import panels
from retnet_bench.figures.registry import figure

_PARTS = (
    ("weight_bytes", ":", "weights"),
    ("state_bytes", (0, (6, 2, 1, 2)), "state or KV cache at the largest batch"),
)


@figure("fig6a")
def draw(records: pd.DataFrame) -> Figure:
    """Peak bytes while decoding against length, with the weights and the state inside them."""
    frame = curves.memory_by_length(records, "decode", "peak_tensor_bytes")
    frame = panels.needed(frame, "fig6a", "decode", "peak_tensor_bytes")
    factor, unit = panels.byte_unit(frame["estimate"].max())
    sheet = panels.Sheet("Inference memory against sequence length")
    panels.draw_curves(sheet, panels.scaled(frame, factor), "length")
    largest = records[records["batch"] == frame["batch"].max()]
    for metric, look, words in _PARTS:
        part = curves.memory_by_length(largest, "decode", metric)
        panels.draw_part(sheet, panels.scaled(part, factor), "length", look, words)
    panels.from_zero(sheet.ours)
    sheet.ours.set(xlabel="sequence length (tokens)", ylabel=f"peak tensor memory ({unit})")
    _paper(sheet)
    return sheet.finish(panels.contract(records, "decode"))


def _paper(sheet: panels.Sheet) -> None:
    table = paper.load("fig6a")
    title = "Paper: 6.7B, A100-80GB,\nbatch 8 and fp16 (inferred)"
    panels.draw_paper(sheet, table, table.frame, "length", title)
    panels.from_zero(sheet.paper)
    sheet.paper.set(xlabel="sequence length (tokens)", ylabel="memory (GB)")
