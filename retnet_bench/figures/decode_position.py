"""Latency of a decode step against the position in the sequence."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import curves, ratios
from retnet_bench.figures import axes, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import Sheet
from retnet_bench.results.quantities import DECODE_STEP, SLOPE


@figure("decode_position")
def draw(records: pd.DataFrame) -> Figure:
    """Milliseconds of one decode step against position at the longest length, with slopes."""
    frame = curves.latency_by_position(records)
    frame = panels.needed(frame, "decode_position", "decode", "decode_step_s")
    length = panels.longest(frame)
    frame = frame[frame["length"] == length]
    title = f"Decode latency against position, to {length} tokens; slopes in {SLOPE.unit}"
    sheet = Sheet(title, records["arm"])
    panels.draw_curves(sheet, panels.scaled(frame, DECODE_STEP.factor), "position")
    axes.from_zero(sheet.ours)
    sheet.ours.set(xlabel="position (tokens)", ylabel=DECODE_STEP.label())
    _paper(sheet)
    slopes = curves.slopes(records)
    per = panels.varying(frame, "position")
    _name_slopes(sheet, slopes[slopes["length"] == length], per)
    decoded = records[(records["workload"] == "decode") & (records["length"] == length)]
    panels.draw_crossovers(sheet, ratios.crossovers(decoded))
    return sheet.finish(panels.conditions(records, "decode"))


def _name_slopes(sheet: Sheet, slopes: pd.DataFrame, per: list[str]) -> None:
    """Name each line in the legend by its slope."""
    handles, labels = sheet.ours.get_legend_handles_labels()
    drawn = dict(zip(labels, handles, strict=True))
    slopes = slopes.dropna(subset="estimate").sort_values(["arm", *per])
    slopes = slopes.assign(short=panels.variants(slopes, per))
    slopes = slopes.assign(long=panels.variants(slopes, per, named=True))
    for _, row in slopes.iterrows():
        words = _as_sure(*(SLOPE.of(row[name]) for name in ("estimate", "low", "high")))
        sheet.entries.pop(row["arm"], None)
        handle = drawn[f"{row['arm']} {row['short']}".strip()]
        sheet.explain(f"{row['arm']} {row['long']}".strip() + f": {words}", handle)


def _as_sure(slope: float, low: float, high: float) -> str:
    """`+0.292 [+0.265, +0.321]`: as many decimals as its interval has two digits for, and more
    where an end would else become 0."""
    if low != low:
        return f"{slope:+.3g} [no interval]"
    ends = (low, high)
    decimals = max(2, 1 - math.floor(math.log10(max(high - low, 1e-9))))
    while decimals < 6 and any(end and not round(end, decimals) for end in ends):
        decimals += 1
    return f"{slope:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"


def _paper(sheet: Sheet) -> None:
    table = paper.load("fig6c")
    frame = table.frame[table.frame["batch"] == 8]
    title = "Paper: 6.7B, A100-80GB, batch 8,\nfp16 (inferred); last positions"
    panels.draw_paper(sheet, table, frame, "length", title)
    axes.from_zero(sheet.paper)
    sheet.paper.set(xlabel="position (tokens)", ylabel=DECODE_STEP.label())
