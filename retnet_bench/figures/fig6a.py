"""Inference memory against sequence length (the paper's Figure 6a)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import curves
from retnet_bench.figures import axes, panels, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet
from retnet_bench.results import quantities

_PARTS: tuple[tuple[str, style.Dashes, str], ...] = (
    ("weight_bytes", ":", "weights"),
    ("state_bytes", (0, (6, 2, 1, 2)), "state or KV cache at the largest batch"),
)


@figure("fig6a")
def draw(records: pd.DataFrame) -> Figure:
    """Peak bytes while decoding against length, with the weights and the state inside them."""
    metric = curves.memory_metric(records, "decode")
    frame = curves.memory_by_length(records, "decode", metric)
    frame = panels.needed(frame, "fig6a", "decode", metric)
    shown = quantities.memory(frame["estimate"].max())
    sheet = Sheet("Inference memory against sequence length", records["arm"])
    panels.draw_curves(sheet, panels.scaled(frame, shown.factor), "length")
    largest = _at_largest_batch(records, metric)
    for part_metric, look, words in _PARTS:
        part = curves.memory_by_length(largest, "decode", part_metric)
        panels.draw_part(sheet, panels.scaled(part, shown.factor), "length", look, words)
    axes.from_zero(sheet.ours)
    sheet.ours.set(xlabel="sequence length (tokens)", ylabel=shown.label())
    panels.only_memory(sheet, metric)
    predicted = _paper(sheet)
    return sheet.finish(panels.conditions(records, "decode"), panels.memory_note(metric), predicted)


def _at_largest_batch(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The decode records at the largest batch that was measured: its parts stand for all."""
    decode = records[records["workload"] == "decode"]
    measured = decode[(decode["metric"] == metric) & decode["value"].notna()]
    return decode[decode["batch"] == measured["batch"].max()]


def _paper(sheet: Sheet) -> str:
    """The paper's points and our predictions; returns the caption's sentence about these."""
    table = paper.load("fig6a")
    title = "Paper: 6.7B, A100-80GB,\nbatch 8 and fp16 (inferred)"
    panels.draw_paper(sheet, table, table.frame, "length", title)
    points = paper.predicted("fig6a")
    predicted = panels.draw_predicted(sheet, points, "length", "weights and state")
    axes.from_zero(sheet.paper)
    sheet.paper.set(xlabel="sequence length (tokens)", ylabel="memory (GB)")
    return predicted
