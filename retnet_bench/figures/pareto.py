"""Quality against speed: bits per byte beside tokens/s, decode latency and memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retnet_bench.analysis.tables import best_rates, captions, quality
from retnet_bench.base import UserError
from retnet_bench.figures import axes, panels
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import THREE, Sheet
from retnet_bench.results.quantities import DECODE_STEP, MEMORY, RATE

_PANELS = (  # column, factor, words of the axis, which way is better
    ("tokens_per_s", RATE.factor, RATE.label("training"), "right"),
    ("decode_s", DECODE_STEP.factor, DECODE_STEP.label("decode step"), "left"),
    ("memory_bytes", MEMORY.factor, MEMORY.label("peak memory"), "left"),
)


@figure("pareto")
def draw(records: pd.DataFrame) -> Figure:
    """Bits per byte against training tokens/s, decode latency and memory: a point per model."""
    found = quality.joined(records)
    if found.frame.empty:
        raise UserError(
            'figure "pareto" needs metric document_nll_nat of workload perplexity and speed of '
            "the same arm and size; give the folders of both studies"
        )
    sheet = Sheet("Quality against speed", records["arm"], THREE)
    for ax, (name, factor, words, better) in zip(sheet.axes, _PANELS, strict=True):
        _panel(sheet, ax, found.frame, name, factor)
        ax.set(xlabel=words)
        ax.set_title(f"better: down and {better}")
    sheet.ours.set_ylabel("bits per byte")
    names = {name: words for name, _, words, _ in _PANELS}
    notes = [f"{names.get(name, 'bits per byte')}: {note}." for name, note in found.notes.items()]
    models = records["arm"].isin(found.frame["arm"]) & records["size"].isin(found.frame["size"])
    notes.append(best_rates.said(records))
    return sheet.finish(captions.conditions(records[models]), *notes)


def _panel(sheet: Sheet, ax: Axes, frame: pd.DataFrame, name: str, factor: float) -> None:
    if name not in frame or frame[name].isna().all():
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", fontsize=7)
        return
    for arm, line in frame.dropna(subset=name).groupby("arm"):
        look = sheet.styles[str(arm)]
        line = line.sort_values("n_params")
        bars: dict[str, Any] = {
            "xerr": _bars(line, name, f"{name}_low", f"{name}_high") * factor,
            "yerr": _bars(line, "bits_per_byte", "bits_low", "bits_high"),
        }
        x = line[name] * factor
        ax.errorbar(
            x, line["bits_per_byte"], **bars, **look.line, lw=0.9, elinewidth=0.8, label=arm
        )
        sheet.explain(str(arm), panels.line_handle(look))
        words: dict[str, Any] = {"fontsize": 6, "color": look.color, "textcoords": "offset points"}
        for place, bits, size in zip(x, line["bits_per_byte"], line["size"], strict=True):
            if frame["size"].nunique() > 1:
                ax.annotate(size, (place, bits), xytext=(3, 3), **words)
    axes.plain_x(ax)


def _bars(line: pd.DataFrame, middle: str, low: str, high: str) -> np.ndarray:
    ends = [line[middle] - line[low], line[high] - line[middle]]
    return np.clip(np.array(ends, dtype=float), 0, None)
