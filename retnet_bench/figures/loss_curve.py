"""Training loss against tokens seen."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench.analysis.tables import best_rates, curves
from retnet_bench.figures import laws, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import ALONE, Sheet
from retnet_bench.results.quantities import TOKENS_SEEN


@figure("loss_curve")
def draw(records: pd.DataFrame) -> Figure:
    """Training loss against tokens seen, per arm and size: mean over seeds, band of seeds; of
    several learning rates each arm's best."""
    every, records = records, best_rates.at_best(records)
    frame = panels.needed(curves.loss_curve(records), "loss_curve", "perplexity", "train_loss_nat")
    frame, budget = laws.one_budget(frame)
    swept = best_rates.said(laws.drawn(every, frame))
    sheet = Sheet("Training loss against tokens seen", records["arm"], ALONE)
    seen = TOKENS_SEEN.factor * frame["tokens_seen"]
    laws.draw_bands(sheet, frame.assign(tokens_seen=seen), "tokens_seen")
    sheet.ours.set_yscale("log")
    sheet.ours.yaxis.set_major_formatter("{x:g}")
    sheet.ours.yaxis.set_minor_formatter("{x:g}")
    sheet.ours.tick_params(which="minor", labelsize=7)
    sheet.ours.set(xlabel=TOKENS_SEEN.label(), ylabel="training loss (nat per token)")
    sheet.intervals, remark = _seeds(int(frame["seeds"].min()), int(frame["seeds"].max()))
    contract = panels.conditions(laws.drawn(records, frame), "perplexity")
    return sheet.finish(contract, budget, remark, swept)


def _seeds(low: int, high: int) -> tuple[str, str]:
    """What the bands are, and of how many seeds a line is the mean."""
    if high == 1:
        return "", "One seed: no bands."
    many = f"{high}" if low == high else f"{low} to {high}"
    return "Bands: 95 % intervals of seeds.", f"Mean of {many} seeds."
