"""The page of a figure: two panels (or rows of them), a legend above and a caption below.

The left panel is ours. The right panel is the paper's: grey ground, faded colours, no intervals
and its own axes, so that the paper's points cannot be taken for measurements made here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench.figures import axes, style

_CAPTION_CHARACTERS = 140
_LINE_IN = 0.115
_LABEL_HEIGHT = 0.06  # of the panel
_LABEL_WIDTH = 24  # characters
_INK = "#333333"
_PANEL_HEIGHT_IN = 2.0
_BETWEEN_ROWS_IN = 0.95

# Left edge and width of each panel, in inches.
BESIDE_PAPER = ((0.6, 3.2), (4.8, 1.8))
NAMES_BESIDE_PAPER = ((1.55, 2.55), (4.5, 2.2))
ALONE = ((0.6, 5.6),)
THREE = ((0.6, 1.75), (2.8, 1.75), (5.0, 1.75))
_WITH_NAMES = {BESIDE_PAPER: ((0.6, 2.75), (5.0, 1.75)), ALONE: ((0.6, 5.2),)}
"""The layouts of lines, with room for names of arms at the ends of these."""
CROWD = 4
"""Of more arms than this, lines have their names at their ends: a legend alone makes readers go
back and forth, and a grey printer leaves them but markers and dashes."""


class End(NamedTuple):
    """The label at the end of a line."""

    x: float
    y: float
    text: str
    """Which line of its arm it is; empty where there is one."""
    color: str
    arm: str = ""
    """Said in front of the text. Such a label is joined to its line, from which it may be far."""


INTERVALS = "Bars and bands: 95 % intervals."

OPEN: dict[str, Any] = {"marker": "o", "linestyle": "none", "markerfacecolor": "white"}
"""The look of a point that has no value."""


class Sheet:
    """A figure in the making. The panels have the same size in every figure.

    `arms` are all arms of the records, so that an arm looks the same in all of their figures.
    `layout` is BESIDE_PAPER or, where the paper has nothing to show, panels that are all ours. Of
    several `rows` the panels of the first are `ours` and `paper` until `turn`.
    """

    def __init__(
        self,
        title: str,
        arms: Iterable[str],
        layout: Sequence[tuple[float, float]] = BESIDE_PAPER,
        rows: int = 1,
    ) -> None:
        self.title = title
        self.styles = style.arm_styles(arms)
        self.figure = Figure()
        self.crowded = len(self.styles) > CROWD
        self.layout = _WITH_NAMES.get(tuple(layout), layout) if self.crowded else layout
        self.rows = rows
        self.axes: list[Axes] = list(self.figure.subplots(rows, len(layout), squeeze=False).flat)
        self.turn(0)
        self.source = ""
        self.failed: dict[Axes, str] = {}
        self.entries: dict[str, Artist] = {}
        self.ends: list[tuple[Axes, list[End]]] = []
        self.remarks: dict[str, None] = {}
        self.intervals = INTERVALS

    def turn(self, row: int) -> None:
        """Let `ours` and `paper` be the first and the last panel of a row (from 0)."""
        panels = self.axes[row * len(self.layout) :][: len(self.layout)]
        self.ours, self.paper = panels[0], panels[-1]
        self.ours.set_title("Measured here")

    def explain(self, label: str, handle: Artist) -> None:
        """Add an entry to the legend, once."""
        self.entries.setdefault(label, handle)

    def remark(self, sentence: str) -> None:
        """Add a sentence to the caption, once."""
        self.remarks[sentence] = None

    def explain_open(self) -> None:
        """Say in the legend what an open marker of ours means."""
        mark = Line2D([], [], **OPEN, color=style.GREY)
        self.explain("open marker: no value, and why", mark)

    def finish(self, conditions: str, *notes: str) -> Figure:
        """Write the line ends, title, legend and caption, and give everything its place.

        `conditions` says how our points were measured; `notes` are the further sentences that a
        reader of this picture needs. Crossings and verdicts stand in the tables and the page.
        """
        for ax in self.axes:
            axes.by_points(ax)
        for ax, edge in self.failed.items():
            _make_room(ax, edge, max(len(text.get_text()) for text in ax.texts))
            self.explain_open()
        for ax, ends in self.ends:
            label_ends(ax, ends)
        cut = [axes.mark_cut(ax) for ax in self.axes]
        if any(cut):
            self.remark(axes.CUT)
        beside = f"Right: {self.source}" if self.source else ""
        sentences = [f"{conditions}.", self.intervals, *notes, *self.remarks, beside]
        caption = textwrap.fill(" ".join(filter(None, sentences)), _CAPTION_CHARACTERS)
        columns = _legend_columns(list(self.entries))
        below_in = 0.52 + _LINE_IN * (caption.count("\n") + 1)
        above_in = 0.57 + 0.16 * math.ceil(len(self.entries) / columns)
        self._place(below_in, below_in + self._panels_in() + above_in)
        self._write(caption, columns)
        return self.figure

    def _panels_in(self) -> float:
        return self.rows * _PANEL_HEIGHT_IN + (self.rows - 1) * _BETWEEN_ROWS_IN

    def _place(self, below_in: float, height_in: float) -> None:
        self.figure.set_size_inches(style.WIDTH_IN, height_in)
        for i, ax in enumerate(self.axes):
            row, column = divmod(i, len(self.layout))
            left_in, width_in = self.layout[column]
            rows_below = self.rows - 1 - row
            bottom_in = below_in + rows_below * (_PANEL_HEIGHT_IN + _BETWEEN_ROWS_IN)
            x, width = left_in / style.WIDTH_IN, width_in / style.WIDTH_IN
            ax.set_position((x, bottom_in / height_in, width, _PANEL_HEIGHT_IN / height_in))

    def _write(self, caption: str, columns: int) -> None:
        left, inch = 0.1 / style.WIDTH_IN, 1 / self.figure.get_figheight()
        top = 1 - 0.07 * inch
        self.figure.text(left, top, self.title, va="top", fontsize=9, fontweight="bold")
        self.figure.text(left, 0.05 * inch, caption, va="bottom", fontsize=6.5, color=style.GREY)
        self.figure.legend(
            list(self.entries.values()),
            list(self.entries),
            loc="upper left",
            bbox_to_anchor=(left, 1 - 0.25 * inch),
            borderaxespad=0,
            borderpad=0,
            ncols=columns,
        )


def _legend_columns(labels: Sequence[str]) -> int:
    """As few rows as fit the width of the page, and no more columns than these need."""
    for columns in range(min(5, len(labels)), 1, -1):
        widest = [max(map(len, part)) for part in np.array_split(np.array(labels), columns)]
        if sum(0.052 * characters + 0.55 for characters in widest) < style.WIDTH_IN - 0.2:
            return math.ceil(len(labels) / math.ceil(len(labels) / columns))
    return 1


def _make_room(ax: Axes, edge: str, characters: int) -> None:
    """Widen the y axis at `edge` by a strip for open markers with words of that length."""
    if not np.isfinite(ax.dataLim.intervaly).all():
        return  # nothing was measured: the whole panel is free
    share = min((12 + 3.8 * characters) / (72 * _PANEL_HEIGHT_IN), 0.6)
    ax.autoscale_view()
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.array(ax.get_ylim()))
    strip = share / (1 - share) * (high - low)
    ends = (low, high + strip) if edge == "top" else (low - strip, high)
    ax.set_ylim(*scale.inverted().transform(np.array(ends)))


def label_ends(ax: Axes, ends: Sequence[End]) -> None:
    """Write each text at the right end of its line, moved where two would touch.

    Neighbours of one colour that would touch share one text: "512-8192" where all lines of the
    colour between these two are among them, else "512, 8192", or "512 and 3 more" where that would
    leave the page.
    """
    ax.autoscale_view()
    for x in sorted({end.x for end in ends}):
        here = [end for end in ends if end.x == x]
        groups = _neighbours(ax, here)
        places = _apart([height for height, _ in groups])
        for place, (height, group) in zip(places, groups, strict=True):
            _label_end(ax, group, (height, place), _shared_text(group, here))


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending `heights` (0 to 1) moved as little as lets labels there not touch, and inside the
    panel: labels that would touch lie around their mean."""
    free = [height - i * _LABEL_HEIGHT for i, height in enumerate(heights)]
    blocks: list[list[float]] = []
    for place in free:
        blocks.append([place])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    means = [float(np.mean(block)) for block in blocks for _ in block]
    bottom = _LABEL_HEIGHT / 2  # the lowest stands above the axis
    top = 1 - (len(free) - 1) * _LABEL_HEIGHT
    return [max(bottom, min(mean, top)) + i * _LABEL_HEIGHT for i, mean in enumerate(means)]


def _shared_text(group: Sequence[End], ends: Sequence[End]) -> str:
    line = [end for end in ends if _line(end) == _line(group[0])]
    first, last = line.index(group[0]), line.index(group[-1])
    whole = len(group) > 1 and last - first + 1 == len(group)
    texts = [end.text for end in group]
    if group[0].arm:
        named = f"{group[0].arm} {texts[0] if len(texts) == 1 else ''}".strip()
        cut = f"{named[: _LABEL_WIDTH - 1]}\N{HORIZONTAL ELLIPSIS}"
        return named if len(named) <= _LABEL_WIDTH else cut
    joined = f"{texts[0]}\N{EN DASH}{texts[-1]}" if whole else ", ".join(texts)
    if len(joined) <= _LABEL_WIDTH or len(texts) == 1:
        return joined
    return f"{texts[0]} and {len(texts) - 1} more"


def _neighbours(ax: Axes, ends: Sequence[End]) -> list[tuple[float, list[End]]]:
    """Ends upwards, with their height in the panel (0 to 1); those that share a text together."""
    to_panel = ax.transScale + ax.transLimits
    heights = {end: float(to_panel.transform((end.x, end.y))[1]) for end in ends}
    groups: list[list[End]] = []
    for end in sorted(ends, key=lambda end: heights[end]):
        near = groups and heights[end] - heights[groups[-1][-1]] < _LABEL_HEIGHT
        if near and _line(end) == _line(groups[-1][-1]):
            groups[-1].append(end)
        else:
            groups.append([end])
    return [(heights[group[0]], sorted(group, key=ends.index)) for group in groups]


def _line(end: End) -> tuple[str, str]:
    """What the ends of one arm's variants have in common."""
    return end.color, end.arm


def _label_end(ax: Axes, ends: Sequence[End], heights: tuple[float, float], text: str) -> None:
    """The text at the second of `heights`, joined to the end of its line at the first where it
    names an arm and stands elsewhere."""
    last, (height, place) = ends[-1], heights
    at: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "va": "center", "fontsize": 6.5}
    if last.arm:
        gap = (place - height) * _PANEL_HEIGHT_IN * 72
        joint = {"arrowstyle": "-", "lw": 0.5, "color": last.color, "relpos": (0, 0.5)}
        joint |= {"shrinkA": 0, "shrinkB": 3}
        at |= {"xytext": (12, gap), "arrowprops": joint, "color": style.dark(last.color)}
        ax.annotate(text, (last.x, height), textcoords="offset points", **at)
        return
    ax.annotate(
        text, (last.x, place), xytext=(6, 0), textcoords="offset points", color=last.color, **at
    )
