"""Perplexity against the learning rate: does the rate that both arms share favour one?"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench.analysis.tables import curves
from retnet_bench.base import UserError
from retnet_bench.figures import laws, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import ALONE, Sheet
from retnet_bench.results.quantities import TOKENS_SEEN


@figure("learning_rate")
def draw(records: pd.DataFrame) -> Figure:
    """Held-out perplexity per byte against the peak learning rate, per arm, size and budget."""
    found = curves.perplexities(records)
    frame = panels.needed(found, "learning_rate", "perplexity", "document_nll_nat")
    lines = curves.separators(frame)
    if "learning_rate" not in lines:
        raise UserError(
            'figure "learning_rate" needs several learning rates, and these records have one; '
            "run the study learning_rate, or a study with the axis learning_rate"
        )
    places = zip(frame["size"], frame["token_budget"], strict=True)
    words = [f"{size}, {TOKENS_SEEN.of(budget):g}M" for size, budget in places]
    others = [name for name in lines if name not in ("size", "token_budget", "learning_rate")]
    frame = frame[["arm", "learning_rate", *others, *curves.SUMMARY]]
    frame.insert(2, "size and tokens", words)
    sheet = Sheet("Perplexity against the learning rate", records["arm"], ALONE)
    panels.draw_curves(sheet, frame, "learning_rate")
    rates = sorted(frame["learning_rate"].unique())
    sheet.ours.set_xscale("log")
    sheet.ours.set_xticks(rates, [f"{rate:g}" for rate in rates])
    sheet.ours.minorticks_off()
    sheet.ours.set(xlabel="peak learning rate", ylabel="perplexity per byte")
    return sheet.finish(panels.conditions(records, "perplexity"), laws.PAIRED)
