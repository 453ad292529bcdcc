"""Training throughput against sequence length, beside the paper's Table 4."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis import curves
from retnet_bench.figures import panels
from retnet_bench.figures.registry import figure


@figure("throughput")
def draw(records: pd.DataFrame) -> Figure:
    """Tokens per second of a training step against length, log-log, with the crossover."""
    frame = panels.needed(curves.throughput(records), "throughput", "train", "train_step_s")
    sheet = panels.Sheet("Training throughput against sequence length")
    panels.draw_curves(sheet, frame, "length", failed_at="bottom")
    panels.log_lengths(sheet.ours, frame["length"])
    panels.log_rates(sheet.ours)
    sheet.ours.set(xlabel="sequence length (tokens)", ylabel="tokens/s")
    found = curves.crossovers(records)
    uncrossed = panels.draw_crossovers(sheet, found[found["workload"] == "train"])
    _paper(sheet)
    return sheet.finish(panels.contract(records, "train"), uncrossed)


def _paper(sheet: panels.Sheet) -> None:
    table = paper.load("table4")
    frame = table.frame[table.frame["metric"] == "train_throughput"]
    panels.draw_paper(sheet, table, frame, "n_params", "Paper: length 8192,\n8 A100-80GB")
    panels.log_sizes(sheet.paper, frame)
    panels.log_rates(sheet.paper)
    sheet.paper.set(xlabel="parameters", ylabel="tokens/s, 8 GPUs together")
