"""Peak memory of training against sequence length, beside the paper's Table 4."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import curves
from retnet_bench.figures import axes, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet
from retnet_bench.results import quantities


@figure("train_memory")
def draw(records: pd.DataFrame) -> Figure:
    """Peak bytes of a training step against length."""
    metric = curves.memory_metric(records, "train")
    frame = curves.memory_by_length(records, "train", metric)
    frame = panels.needed(frame, "train_memory", "train", metric)
    shown = quantities.memory(frame["estimate"].max())
    sheet = Sheet("Training memory against sequence length", records["arm"])
    panels.draw_curves(sheet, panels.scaled(frame, shown.factor), "length")
    axes.from_zero(sheet.ours)
    sheet.ours.set(xlabel="sequence length (tokens)", ylabel=shown.label())
    paper_panel(sheet)
    panels.only_memory(sheet, metric)
    return sheet.finish(panels.conditions(records, "train"), panels.memory_note(metric))


def paper_panel(sheet: Sheet) -> None:
    """Table 4's memory in the right panel."""
    table = paper.load("table4")
    frame = table.frame[table.frame["metric"] == "train_memory"]
    title = "Paper: 8 A100-80GB, length 8192;\nbatch not stated, differs by size"
    panels.draw_paper(sheet, table, frame, "n_params", title)
    axes.log_sizes(sheet.paper, frame)
    sheet.remark(paper.UNFUSED)
    axes.from_zero(sheet.paper)
    sheet.paper.set(xlabel="parameters", ylabel="memory per GPU (GB)")
