"""Latency of a decode step against the position in the sequence."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis import curves
from retnet_bench.figures import panels
from retnet_bench.figures.registry import figure


@figure("decode_position")
def draw(records: pd.DataFrame) -> Figure:
    """Milliseconds of one decode step against position at the longest length, with slopes."""
    frame = curves.latency_by_position(records)
    frame = panels.needed(frame, "decode_position", "decode", "decode_step_s")
    length = _longest(frame)
    frame = frame[frame["length"] == length]
    # A cell that failed has no positions; its mark stands at the last one.
    frame = frame.assign(position=frame["position"].fillna(frame["length"]))
    sheet = panels.Sheet(f"Decode latency against position, sequences of {length} tokens")
    panels.draw_curves(sheet, panels.scaled(frame, 1e3), "position")
    panels.from_zero(sheet.ours)
    sheet.ours.set(xlabel="position (tokens)", ylabel="time of one decode step (ms)")
    slopes = curves.slopes(records)
    _explain_slopes(sheet, slopes[slopes["length"] == length])
    _paper(sheet)
    return sheet.finish(panels.contract(records, "decode"))


def _longest(frame: pd.DataFrame) -> int:
    """The longest length at which most arms have a value."""
    arms = frame[frame["estimate"].notna()].groupby("length")["arm"].nunique()
    return int(arms[arms == arms.max()].index.max())


def _explain_slopes(sheet: panels.Sheet, slopes: pd.DataFrame) -> None:
    """A legend entry per line: its slope in milliseconds per 1000 positions, with interval."""
    per = panels.varying(slopes, "length")
    named = slopes.assign(variant=panels.variants(slopes, per)).dropna(subset="estimate")
    for _, row in named.sort_values([*per, "arm"]).iterrows():
        slope, low, high = (1e3 * row[name] for name in ("estimate", "low", "high"))
        line = f"{row['arm']} {row['variant']}".strip()
        label = f"{line}: {slope:+.3g} [{low:.3g}, {high:.3g}] ms per 1000 positions"
        sheet.rename(line, label)


def _paper(sheet: panels.Sheet) -> None:
    table = paper.load("fig6c")
    frame = table.frame[table.frame["batch"] == 8]
    title = "Paper: 6.7B, A100-80GB, batch 8,\nfp16 (inferred); last positions"
    panels.draw_paper(sheet, table, frame, "length", title)
    panels.from_zero(sheet.paper)
    sheet.paper.set(xlabel="position (tokens)", ylabel="time of one decode step (ms)")
