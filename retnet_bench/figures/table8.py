"""Perplexity against the length of context (the paper's Table 8)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import curves
from retnet_bench.figures import axes, laws, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet


@figure("table8")
def draw(records: pd.DataFrame) -> Figure:
    """Perplexity per token given ever more context, at the largest model that was scored so."""
    frame = panels.needed(curves.by_context(records), "table8", "perplexity", "context_nll_nat")
    frame, budget = laws.one_budget(laws.largest(frame, records))
    sheet = Sheet("Perplexity against the length of context", records["arm"])
    panels.draw_curves(sheet, frame, "context_length")
    axes.log_lengths(sheet.ours, frame["context_length"])
    sheet.ours.set(xlabel="context (tokens)", ylabel="perplexity per token")
    _paper(sheet)
    size = f"Size {frame['size'].iloc[0]}."
    contract = panels.conditions(laws.drawn(records, frame), "perplexity")
    return sheet.finish(contract, size, budget, laws.PAIRED)


def _paper(sheet: Sheet) -> None:
    table = paper.load("table8")
    title = "Paper: last 128 tokens of chunks of\n2048; model size not stated, one seed"
    panels.draw_paper(sheet, table, table.frame, "length", title)
    axes.log_lengths(sheet.paper, table.frame["length"])
    sheet.paper.set(xlabel="context (tokens)", ylabel="perplexity per token")
