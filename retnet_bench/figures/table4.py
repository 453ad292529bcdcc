"""Training throughput and memory against model size (the paper's Table 4)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import curves
from retnet_bench.figures import axes, panels, throughput, train_memory
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet
from retnet_bench.results import quantities

_PER = ("n_params", "size")


@figure("table4")
def draw(records: pd.DataFrame) -> Figure:
    """Tokens per second and peak bytes of a training step against model size, at one length."""
    rates = panels.needed(curves.throughput(records, _PER), "table4", "train", "train_step_s")
    length = panels.longest(rates)
    metric = curves.memory_metric(records, "train")
    memory = curves.memory_by_length(records, "train", metric, _PER)
    sheet = Sheet("Training against model size", records["arm"], rows=2)
    _rates(sheet, rates[rates["length"] == length])
    throughput.paper_panel(sheet)
    predicted = _ceilings(sheet)
    sheet.turn(1)
    _memory(sheet, memory[memory["length"] == length])
    train_memory.paper_panel(sheet)
    notes = (_length_said(rates, length), panels.memory_note(metric), predicted)
    return sheet.finish(panels.conditions(records[records["length"] == length], "train"), *notes)


def _rates(sheet: Sheet, rates: pd.DataFrame) -> None:
    panels.draw_curves(sheet, rates, "n_params", failed_at="bottom")
    axes.log_sizes(sheet.ours, rates)
    axes.log_rates(sheet.ours)
    sheet.ours.set(xlabel="model size", ylabel="tokens/s")


def _memory(sheet: Sheet, memory: pd.DataFrame) -> None:
    if memory.empty:
        sheet.ours.text(0.5, 0.5, "not measured", transform=sheet.ours.transAxes, ha="center")
        return
    shown = quantities.memory(memory["estimate"].max())
    panels.draw_curves(sheet, panels.scaled(memory, shown.factor), "n_params")
    axes.log_sizes(sheet.ours, memory)
    axes.from_zero(sheet.ours)
    sheet.ours.set(xlabel="model size", ylabel=shown.label())


def _ceilings(sheet: Sheet) -> str:
    """The most that the paper's 8 GPUs could do, in its panel; returns the caption's sentence."""
    sizes = paper.load("table4").frame[["size", "n_params"]].drop_duplicates()
    points = paper.predicted("table4").merge(sizes, on="size")
    remark = panels.draw_predicted(sheet, points, "n_params", "compute ceiling")
    axes.log_rates(sheet.paper)
    return remark


def _length_said(rates: pd.DataFrame, length: int) -> str:
    at = rates[(rates["length"] == length) & rates["estimate"].notna()]
    which = "all" if set(at["arm"]) == set(rates["arm"]) else "most"
    trained_length = paper.load("table4").frame["length"].iloc[0]
    return (
        f"Left at length {length}, the longest that {which} arms have; right at {trained_length}."
    )
