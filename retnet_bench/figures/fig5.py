"""Perplexity against model size (the paper's Figure 5)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis import curves
from retnet_bench.figures import axes, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet


@figure("fig5")
def draw(records: pd.DataFrame) -> Figure:
    """Perplexity of held-out documents against parameters, bootstrapped over documents.

    Per token while every model reads the same tokens, else per byte: perplexities per token of
    different tokenizers cannot be compared.
    """
    unit = "token" if _one_tokenizer(records) else "byte"
    frame = curves.perplexities(records, per=unit)
    frame = panels.needed(frame, "fig5", "perplexity", "document_nll_nat")
    sheet = Sheet("Perplexity of held-out documents against model size", records["arm"])
    panels.draw_curves(sheet, frame, "n_params")
    axes.log_sizes(sheet.ours, frame)
    sheet.ours.set(xlabel="model size", ylabel=f"perplexity per {unit}")
    _paper(sheet)
    return sheet.finish(panels.contract(records, "perplexity"))


def _one_tokenizer(records: pd.DataFrame) -> bool:
    return records.loc[records["workload"] == "perplexity", "tokenizer"].nunique() <= 1


def _paper(sheet: Sheet) -> None:
    table = paper.load("fig5")
    title = "Paper: 100B tokens of private data;\nonly order and gaps compare"
    panels.draw_paper(sheet, table, table.frame, "n_params", title)
    axes.log_sizes(sheet.paper, table.frame)
    sheet.paper.set(xlabel="model size", ylabel="perplexity per token")
