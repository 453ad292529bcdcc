"""Axes that read well: ticks where the points are, plain numbers, zero where it matters, and no
interval that stretches them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.markers import CARETDOWN, CARETLEFT, CARETRIGHT, CARETUP
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from retnet_bench.results.numbers import short

Direction = Literal["x", "y"]


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
    by_points(ax)
    low, high = ax.get_ylim()
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5)
    ax.yaxis.set_major_locator(LogLocator(subs=steps))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))


def plain_x(ax: Axes) -> None:
    """An x axis with few plain ticks (0.5, 20, 20k): logarithmic, unless it spans under 5 times."""
    by_points(ax, "x")
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


def short_ticks(ax: Axes, direction: Direction = "y") -> None:
    """Plain ticks (200k, 1M, 5M) on a logarithmic axis, even when it spans under a decade."""
    by_points(ax, direction)
    axis = ax.xaxis if direction == "x" else ax.yaxis
    low, high = ax.get_xlim() if direction == "x" else ax.get_ylim()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def log_ratios(ax: Axes) -> None:
    """A base-2 logarithmic x axis of ratios, with plain ticks: 0.5, 1, 2, 4."""
    ax.set_xscale("log", base=2)
    by_points(ax, "x")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def from_zero(ax: Axes) -> None:
    """A linear y axis that starts at zero, so that heights can be compared by eye."""
    by_points(ax)
    ax.set_ylim(bottom=0)


CUT = "Arrows: the interval goes on beyond the axis."
"""What a caption says where `mark_cut` marked anything."""


def by_points(ax: Axes, direction: Direction = "y") -> None:
    """Let the points set the limits of an axis: an interval counts as far as half the span of the
    points beyond them, or half their size where that is more (on a logarithmic axis twofold)."""
    points = np.concatenate([np.empty(0), *_points(ax, direction)])
    log = getattr(ax, f"get_{direction}scale")() == "log"
    points = points[np.isfinite(points) & ((points > 0) | (not log))]
    if not points.size:
        return
    scale = getattr(ax, f"{direction}axis").get_transform()
    low, high = np.sort(scale.transform(points))[[0, -1]]
    least = float(scale.transform(2.0)) if log else np.abs(points).max() / 2
    reach = max((high - low) / 2, least)
    ends = scale.inverted().transform(np.array([low - reach, high + reach]))
    name = f"interval{direction}"
    setattr(ax.dataLim, name, np.clip(getattr(ax.dataLim, name), *ends))
    ax.autoscale_view(scalex=direction == "x", scaley=direction == "y")


def _points(ax: Axes, direction: Direction) -> Iterator[np.ndarray]:
    """The data of every line along an axis, but for the ends of bars and lines across the panel."""
    caps = {cap for bars in _bars(ax) for cap in bars.lines[1]}
    for line in ax.lines:
        in_data = line.get_transform().contains_branch_seperately(ax.transData)
        if line not in caps and in_data[direction == "y"]:
            yield np.asarray(getattr(line, f"get_{direction}data")(), dtype=float)


def _bars(ax: Axes) -> list[ErrorbarContainer]:
    return [bars for bars in ax.containers if isinstance(bars, ErrorbarContainer)]


def mark_cut(ax: Axes) -> bool:
    """An arrow at the edge for each interval that goes on beyond the axis; whether there is any.
    To be called when the limits stand."""
    found = [end for bars in _bars(ax) for end in _beyond(ax, bars)]
    for x, y, marker, color in found:
        edge = ax.get_yaxis_transform() if marker in _SIDEWAYS else ax.get_xaxis_transform()
        look: dict[str, Any] = {"marker": marker, "color": color, "markersize": 5}
        ax.plot([x], [y], transform=edge, clip_on=False, linestyle="none", **look)
    return bool(found)


_SIDEWAYS = (CARETLEFT, CARETRIGHT)


def _beyond(ax: Axes, bars: ErrorbarContainer) -> Iterator[tuple[float, float, int, Any]]:
    """Place, in the data of one axis and 0 or 1 in the other, marker and colour of each arrow."""
    color = bars.lines[0].get_color()
    segments = [segment for part in bars.lines[2] for segment in part.get_segments()]
    for segment in filter(len, segments):  # without an interval there is an empty one
        (x, y), sideways = segment[0], bool(np.ptp(segment[:, 0]) > 0)
        low, high = sorted(ax.get_xlim() if sideways else ax.get_ylim())
        across, inverted = (y, ax.xaxis_inverted()) if sideways else (x, ax.yaxis_inverted())
        ends = segment[:, 0] if sideways else segment[:, 1]
        markers = _SIDEWAYS if sideways else (CARETDOWN, CARETUP)
        for at, out in enumerate((ends.min() < low, ends.max() > high)):
            place = float(at != inverted)
            if out:
                where = (place, across) if sideways else (across, place)
                yield *where, markers[int(place)], color
