"""Training throughput against sequence length, beside the paper's Table 4."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import curves, ratios
from retnet_bench.figures import axes, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet


@figure("throughput")
def draw(records: pd.DataFrame) -> Figure:
    """Tokens per second of a training step against length, log-log, with the crossover."""
    frame = panels.needed(curves.throughput(records), "throughput", "train", "train_step_s")
    sheet = Sheet("Training throughput against sequence length", records["arm"])
    panels.draw_curves(sheet, frame, "length", failed_at="bottom")
    axes.log_lengths(sheet.ours, frame["length"])
    axes.log_rates(sheet.ours)
    sheet.ours.set(xlabel="sequence length (tokens)", ylabel="tokens/s")
    trained = records[records["workload"] == "train"]
    panels.draw_crossovers(sheet, ratios.crossovers(trained))
    paper_panel(sheet)
    return sheet.finish(panels.conditions(records, "train"))


def paper_panel(sheet: Sheet) -> None:
    """Table 4's throughput in the right panel."""
    table = paper.load("table4")
    frame = table.frame[table.frame["metric"] == "train_throughput"]
    panels.draw_paper(sheet, table, frame, "n_params", "Paper: length 8192,\n8 A100-80GB")
    axes.log_sizes(sheet.paper, frame)
    sheet.remark(paper.UNFUSED)
    axes.log_rates(sheet.paper)
    sheet.paper.set(xlabel="parameters", ylabel="tokens/s, 8 GPUs together")
