"""Perplexity against model size (the paper's Figure 5)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import best_rates, curves, law_crossings, rows, scaling
from retnet_bench.base import UserError
from retnet_bench.figures import axes, laws, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet

_Shown = Callable[[np.ndarray], np.ndarray]
_LOSS: dict[str, tuple[str, _Shown]] = {
    "token": ("nat per token", np.exp),
    "byte": ("bits per byte", np.exp2),
}
"""Unit of perplexity -> unit of the loss that is fitted, and what makes one of the other."""


@figure("fig5")
def draw(records: pd.DataFrame) -> Figure:
    """Perplexity of held-out documents against parameters, with scaling laws and their crossover.

    Per token while every model reads the same tokens, else per byte: perplexities per token of
    different tokenizers cannot be compared.
    """
    unit = "token" if _one_tokenizer(records) else "byte"
    records = rows.in_common(best_rates.at_best(records))
    records = records.assign(**{best_rates.RATE: np.nan})  # each arm has its own
    frame = curves.perplexities(records, per=unit)
    frame = panels.needed(frame, "fig5", "perplexity", "document_nll_nat")
    frame, budget = laws.one_line(frame, records)
    sheet = Sheet("Perplexity of held-out documents against model size", records["arm"])
    panels.draw_curves(sheet, frame, "n_params")
    fitted = _fits(sheet, records, frame, unit)
    axes.log_sizes(sheet.ours, frame)
    sheet.ours.set(xlabel="model size", ylabel=f"perplexity per {unit}")
    _paper(sheet)
    contract = panels.conditions(laws.drawn(records, frame), "perplexity")
    return sheet.finish(contract, budget, *fitted, laws.PAIRED)


def _fits(sheet: Sheet, records: pd.DataFrame, frame: pd.DataFrame, unit: str) -> list[str]:
    """Draw the laws of the curves in `frame`, if it has but one an arm. Sentences for the caption.

    Lines between the points would only hide the fits, so they go.
    """
    if panels.varying(frame, "n_params"):
        return []
    loss, shown = _LOSS[unit]
    try:
        found = scaling.fits(laws.drawn(records, frame), loss, variable="parameters")
    except UserError as error:
        return [f"No fit: {error}."]
    for fit in found.fits:
        laws.draw_fit(sheet, fit, shown)
    for container in sheet.ours.containers if found.fits else []:
        assert isinstance(container, ErrorbarContainer)
        container.lines[0].set_linestyle("none")
    for crossing in law_crossings.crossings(records, found):
        laws.draw_crossing(sheet, crossing)
    return [f"No fit: {'; '.join(found.missing)}."] if found.missing else []


def _one_tokenizer(records: pd.DataFrame) -> bool:
    return records.loc[records["workload"] == "perplexity", "tokenizer"].nunique() <= 1


def _paper(sheet: Sheet) -> None:
    table = paper.load("fig5")
    title = "Paper: 100B tokens of private data;\nonly order and gaps compare"
    panels.draw_paper(sheet, table, table.frame, "n_params", title)
    axes.log_sizes(sheet.paper, table.frame)
    sheet.paper.set(xlabel="model size", ylabel="perplexity per token")
