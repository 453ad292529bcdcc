"""Peak memory of training against sequence length, beside the paper's Table 4."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis import curves
from retnet_bench.figures import panels
from retnet_bench.figures.registry import figure


@figure("train_memory")
def draw(records: pd.DataFrame) -> Figure:
    """Peak bytes of a training step against length."""
    frame = curves.memory_by_length(records, "train", "peak_tensor_bytes")
    frame = panels.needed(frame, "train_memory", "train", "peak_tensor_bytes")
    factor, unit = panels.byte_unit(frame["estimate"].max())
    sheet = panels.Sheet("Training memory against sequence length")
    panels.draw_curves(sheet, panels.scaled(frame, factor), "length")
    panels.from_zero(sheet.ours)
    sheet.ours.set(xlabel="sequence length (tokens)", ylabel=f"peak tensor memory ({unit})")
    _paper(sheet)
    return sheet.finish(panels.contract(records, "train"))


def _paper(sheet: panels.Sheet) -> None:
    table = paper.load("table4")
    frame = table.frame[table.frame["metric"] == "train_memory"]
    title = "Paper: 8 A100-80GB, length 8192;\nbatch not stated, differs by size"
    panels.draw_paper(sheet, table, frame, "n_params", title)
    panels.log_sizes(sheet.paper, frame)
    panels.from_zero(sheet.paper)
    sheet.paper.set(xlabel="parameters", ylabel="memory per GPU (GB)")
