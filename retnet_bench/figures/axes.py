"""Axes that read well: ticks where the points are, plain numbers, zero where it matters."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)


def log_lengths(ax: Axes, lengths: Iterable[float]) -> None:
    """A base-2 logarithmic x axis with ticks at the `lengths` (tokens), at most eight."""
    ticks = sorted(set(lengths))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(ticks[:: math.ceil(len(ticks) / 8)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def log_sizes(ax: Axes, sizes: pd.DataFrame) -> None:
    """A logarithmic x axis in parameters, with a tick named `size` at its (first) `n_params`."""
    ticks = sizes.dropna(subset="n_params").sort_values("n_params").drop_duplicates("size")
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks["n_params"].tolist(), ticks["size"].tolist())


def log_rates(ax: Axes) -> None:
    """A logarithmic y axis with plain ticks (20k, 50k, ...) even when it spans under a decade.

    Without any value, where every cell failed, no axis at all: a scale would be made up.
    """
    if not np.isfinite(ax.dataLim.intervaly).all():
        ax.yaxis.set_major_locator(NullLocator())
        return
    ax.set_yscale("log")
    ax.autoscale_view()
    low, high = ax.get_ylim()
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5)
    ax.yaxis.set_major_locator(LogLocator(subs=steps))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))


def plain_x(ax: Axes) -> None:
    """An x axis with few plain ticks (0.5, 20, 20k): logarithmic, unless it spans under 5 times."""
    ax.autoscale_view()
    low, high = ax.dataLim.intervalx
    thousands = EngFormatter(sep="")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    if high >= 5 * low > 0:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value < 1000 else thousands(value))
    )


def from_zero(ax: Axes) -> None:
    """A linear y axis that starts at zero, so that heights can be compared by eye."""
    ax.autoscale_view()
    ax.set_ylim(bottom=0)


def byte_unit(largest: float) -> tuple[float, str]:
    """Factor and name of the unit to draw `largest` bytes in: GB (1e9), or MB (1e6) below 0.5."""
    return (1e-9, "GB") if largest >= 0.5e9 else (1e-6, "MB")
