"""The parts figures are made of: a sheet of two panels, curves with intervals, marks, captions.

The left panel is ours. The right panel is the paper's: grey ground, faded colours, no intervals
and its own axes, so that the paper's points cannot be taken for measurements made here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator

from retnet_bench.analysis import curves
from retnet_bench.base import UserError
from retnet_bench.figures import style
from retnet_bench.paper import PaperTable

_CAPTION_CHARACTERS = 140
_LINE_IN = 0.115
_LABEL_HEIGHT = 0.06  # of the panel
_PANEL_HEIGHT_IN = 2.0
_OURS_IN = (0.6, 3.2)  # left edge and width
_PAPER_IN = (4.8, 1.8)

_OPEN: dict[str, Any] = {"marker": "o", "linestyle": "none", "markerfacecolor": "white"}

End = tuple[float, float, str, str]  # x, y, text and colour of the label at the end of a line


@dataclass
class Sheet:
    """A figure with our panel on the left, the paper's on the right and a legend above both.

    The panels have the same size in every figure; title, legend and caption grow around them.
    """

    title: str
    figure: Figure = field(init=False)
    ours: Axes = field(init=False)
    paper: Axes = field(init=False)
    entries: dict[str, Artist] = field(init=False, default_factory=dict)
    ends: list[tuple[Axes, list[End]]] = field(init=False, default_factory=list)
    source: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.figure = Figure()
        self.ours, self.paper = self.figure.subplots(1, 2)
        self.ours.set_title("Measured here")

    def explain(self, label: str, handle: Artist) -> None:
        """Add an entry to the legend, once."""
        self.entries.setdefault(label, handle)

    def finish(self, *sentences: str) -> Figure:
        """Write the line ends, title, legend and caption, and give everything its place."""
        for ax, ends in self.ends:
            label_ends(ax, ends)
        told = [*sentences, f"Left: bars are 95 % intervals. Right: {self.source}"]
        caption = "\n".join(textwrap.fill(s, _CAPTION_CHARACTERS) for s in told if s)
        below_in = 0.52 + _LINE_IN * (caption.count("\n") + 1)
        longest = max(len(label) for label in self.entries)
        columns = max(1, min(4, _CAPTION_CHARACTERS // (longest + 12)))
        above_in = 0.57 + 0.16 * math.ceil(len(self.entries) / columns)
        height_in = below_in + _PANEL_HEIGHT_IN + above_in
        self.figure.set_size_inches(style.WIDTH_IN, height_in)
        for ax, (left, width) in ((self.ours, _OURS_IN), (self.paper, _PAPER_IN)):
            box = (left, below_in, width, _PANEL_HEIGHT_IN)
            size = (style.WIDTH_IN, height_in, style.WIDTH_IN, height_in)
            ax.set_position([a / b for a, b in zip(box, size, strict=True)])
        self._write(caption, height_in, columns)
        return self.figure

    def _write(self, caption: str, height_in: float, columns: int) -> None:
        left, top = 0.1 / style.WIDTH_IN, 1 - 0.07 / height_in
        self.figure.text(left, top, self.title, va="top", fontsize=9, fontweight="bold")
        self.figure.legend(
            list(self.entries.values()),
            list(self.entries),
            loc="upper left",
            bbox_to_anchor=(left, 1 - 0.22 / height_in),
            borderaxespad=0,
            borderpad=0,
            ncols=columns,
        )
        bottom = 0.05 / height_in
        self.figure.text(left, bottom, caption, va="bottom", fontsize=6.5, color=style.GREY)


def needed(frame: pd.DataFrame, figure: str, workload: str, metric: str) -> pd.DataFrame:
    """`frame` itself, or UserError naming what the records lack when it is empty."""
    if frame.empty:
        raise UserError(
            f'figure "{figure}" needs metric {metric} of workload {workload}, '
            f"and these records have none; run a study with the workload {workload}"
        )
    return frame


def contract(records: pd.DataFrame, workload: str) -> str:
    """The caption's first sentence: machine, dtype, mode and kernels of `workload`'s records."""
    return curves.contract_text(records[records["workload"] == workload])


def scaled(frame: pd.DataFrame, factor: float) -> pd.DataFrame:
    """`frame` with estimate, low and high in another unit: multiplied by `factor`."""
    columns = ["estimate", "low", "high"]
    return frame.assign(**{name: frame[name] * factor for name in columns})


def variants(frame: pd.DataFrame, per: Sequence[str]) -> pd.Series:
    """Per row the words for its values of `per`, such as "512, fp32"; "" without any `per`."""
    words = [frame[name].map("{:g}".format if _is_number(frame[name]) else str) for name in per]
    empty = pd.Series("", index=frame.index, dtype=object)
    return words[0].str.cat(words[1:], sep=", ") if words else empty


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def varying(frame: pd.DataFrame, x: str) -> list[str]:
    """The columns that tell apart the lines of an analysis frame, besides arm and `x`.

    A column that has one value at each x (such as the size at a number of parameters) names the
    point and not a line.
    """
    names = [name for name in curves.separators(frame) if frame[name].nunique() > 1]
    return [name for name in names if frame.groupby(x)[name].nunique().max() > 1]


def draw_curves(sheet: Sheet, frame: pd.DataFrame, x: str, failed_at: str = "top") -> None:
    """Draw `estimate` with its interval against `x`: a line per arm and set of separators.

    Rows without an estimate are cells that failed: open markers at the edge `failed_at` ("top"
    or "bottom"), with the status beside them.
    """
    styles, per = style.arm_styles(frame["arm"]), varying(frame, x)
    for arm, look in styles.items():
        sheet.explain(arm, line_handle(look))
    frame = frame.sort_values([*per, x]).assign(variant=lambda rows: variants(rows, per))
    steps = list(dict.fromkeys(frame["variant"]))
    ends = []
    for (name, arm), line in frame[frame["estimate"].notna()].groupby(
        ["variant", "arm"], sort=False
    ):
        color = style.shade(styles[arm].color, steps.index(name), len(steps))
        draw_line(sheet.ours, line, x, styles[arm], color, label=f"{arm} {name}".strip())
        last = line.iloc[-1]
        ends.append((last[x], last["estimate"], name, styles[arm].color))
    draw_failures(sheet, frame[frame["estimate"].isna()], x, failed_at)
    if per:
        sheet.ends.append((sheet.ours, ends))
        sheet.ours.set_title(f"Measured here; line ends: {', '.join(per)}")


def draw_line(
    ax: Axes, line: pd.DataFrame, x: str, look: style.ArmStyle, color: object, label: str
) -> None:
    """One line with a bar from `low` to `high` at each point."""
    below = (line["estimate"] - line["low"]).clip(lower=0)
    above = (line["high"] - line["estimate"]).clip(lower=0)
    ax.errorbar(
        line[x],
        line["estimate"],
        yerr=[below, above],
        color=color,
        marker=look.marker,
        linestyle=look.linestyle,
        capsize=2,
        elinewidth=0.8,
        label=label,
    )


def draw_part(
    sheet: Sheet, part: pd.DataFrame, x: str, look: str | tuple[float, ...], words: str
) -> None:
    """A thin line per arm for a part of what the curves show, such as the weights."""
    styles = style.arm_styles(part["arm"])
    thin: dict[str, Any] = {"linestyle": look, "linewidth": 0.8}
    for arm, line in part.sort_values(x).groupby("arm"):
        color = styles[str(arm)].color
        sheet.ours.plot(line[x], line["estimate"], color=color, label=f"{arm} {words}", **thin)
    if not part.empty:
        sheet.explain(words, Line2D([], [], color=style.GREY, **thin))


def line_handle(look: style.ArmStyle, alpha: float = 1.0) -> Line2D:
    """The legend's picture of an arm."""
    return Line2D(
        [], [], color=look.color, marker=look.marker, linestyle=look.linestyle, alpha=alpha
    )


def draw_failures(sheet: Sheet, failed: pd.DataFrame, x: str, edge: str) -> None:
    """Open markers on the top or bottom edge, side by side per `x`, named by their status."""
    if failed.empty:
        return
    styles = style.arm_styles(failed["arm"])
    seen = failed.groupby([x, "arm", "status"])["variant"].agg(", ".join).reset_index()
    size = seen.groupby(x)[x].transform("size")
    dodges = (seen.groupby(x).cumcount() - (size - 1) / 2) * 8
    for dodge, (_, row) in zip(dodges, seen.iterrows(), strict=True):
        _open_marker(sheet.ours, row, x, styles[row["arm"]], edge, dodge)
    sheet.ours.margins(y=0.3)
    sheet.explain("open marker: no value, and why", Line2D([], [], **_OPEN, color=style.GREY))


def _open_marker(
    ax: Axes, row: pd.Series, x: str, look: style.ArmStyle, edge: str, dodge: float
) -> None:
    height, inward = (0.97, -1) if edge == "top" else (0.03, 1)
    aside = ScaledTranslation(dodge / 72, 0, ax.figure.dpi_scale_trans)
    shape = _OPEN | {"marker": look.marker, "color": look.color}
    label = f"{row['arm']} {row['status']}"
    # The shifted transform hides x from autoscaling.
    ax.update_datalim([(row[x], 0)], updatey=False)
    at = ax.get_xaxis_transform() + aside
    ax.plot([row[x]], [height], transform=at, clip_on=False, label=label, **shape)
    ax.annotate(
        f"{row['status']} ({row['variant']})" if row["variant"] else row["status"],
        (row[x], height),
        xycoords=ax.get_xaxis_transform(),
        xytext=(dodge, 5 * inward),
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="top" if edge == "top" else "bottom",
        fontsize=6.5,
        color=look.color,
    )


def label_ends(ax: Axes, ends: Iterable[End]) -> None:
    """Write each text at the right end (x, y) of its line, moved up where two would touch.

    Neighbours of one colour that would touch share one text, "512-8192".
    """
    ax.autoscale_view()
    to_axes = (ax.transScale + ax.transLimits).transform
    at = sorted((to_axes((x, y))[1], i, end) for i, end in enumerate(ends) for x, y in [end[:2]])
    groups: list[list[tuple[float, int, End]]] = []
    for item in at:
        if groups and _touch(groups[-1][-1], item):
            groups[-1].append(item)
        else:
            groups.append([item])
    placed = -1.0
    for group in groups:
        placed = max(group[0][0], placed + _LABEL_HEIGHT)
        _label_end(ax, [end for _, _, end in sorted(group, key=lambda item: item[1])], placed)


def _touch(lower: tuple[float, int, End], upper: tuple[float, int, End]) -> bool:
    same_place_and_color = lower[2][0] == upper[2][0] and lower[2][3] == upper[2][3]
    return same_place_and_color and upper[0] - lower[0] < _LABEL_HEIGHT


def _label_end(ax: Axes, ends: Sequence[End], height: float) -> None:
    first, last = ends[0], ends[-1]
    ax.annotate(
        first[2] if len(ends) == 1 else f"{first[2]}\N{EN DASH}{last[2]}",
        (last[0], height),
        xycoords=ax.get_xaxis_transform(),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=6.5,
        color=last[3],
    )


def draw_crossovers(sheet: Sheet, found: pd.DataFrame) -> str:
    """A line at each crossover (tokens) in the band of its interval, named in the legend.

    Returns a sentence on the comparisons that have none, for the caption.
    """
    per = [name for name in curves.separators(found) if found[name].nunique() > 1]
    named = found.assign(variant=variants(found, per))
    for _, row in named[named["estimate"].notna()].iterrows():
        sheet.ours.axvspan(row["low"], row["high"], color=style.GREY, alpha=0.18, lw=0, zorder=0)
        sheet.ours.axvline(row["estimate"], color=style.GREY, lw=0.9, ls=":", zorder=1)
        words = "crossover {estimate:,.0f} tokens [{low:,.0f}, {high:,.0f}]".format(**row)
        label = f"{words} ({row['variant']})" if row["variant"] else words
        sheet.explain(label, Patch(color=style.GREY, alpha=0.35))
    none = named[named["estimate"].isna()]
    reasons = none["reason"].where(none["variant"] == "", none["variant"] + ": " + none["reason"])
    return f"No crossover: {'; '.join(reasons)}." if len(reasons) else ""


def draw_paper(
    sheet: Sheet, table: PaperTable, frame: pd.DataFrame, x: str, title: str, per: str = ""
) -> None:
    """The paper's points in the right panel: faded, on grey, under a title that says so."""
    ax = sheet.paper
    styles = style.arm_styles(frame["arm"])
    ends = []
    for keys, line in frame.groupby(["arm", per] if per else ["arm"]):
        look, line = styles[keys[0]], line.sort_values(x)
        _faint(ax, line[x], line["value"], look, label=" ".join(map(str, ("paper", *keys))))
        ends.append((line[x].iloc[-1], line["value"].iloc[-1], str(keys[-1]), look.color))
    for arm in styles:
        if arm not in sheet.entries:
            sheet.explain(f"{arm} (paper)", line_handle(styles[arm], style.PAPER_ALPHA))
    sheet.source = f"{table.source}, {table.method.split(':')[0]}; not measured here."
    ax.set_facecolor(style.PAPER_FACE)
    ax.set_title(title, color=style.GREY, style="italic")
    ax.tick_params(colors=style.GREY)
    if per:
        sheet.ends.append((ax, ends))


def _faint(ax: Axes, xs: pd.Series, ys: pd.Series, look: style.ArmStyle, label: str) -> None:
    ax.plot(
        xs,
        ys,
        color=look.color,
        marker=look.marker,
        linestyle=look.linestyle,
        linewidth=0.9,
        markersize=3.5,
        alpha=style.PAPER_ALPHA,
        label=label,
    )


def log_lengths(ax: Axes, lengths: Iterable[float]) -> None:
    """A base-2 logarithmic x axis with a tick at each of `lengths` (tokens)."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(lengths))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def log_sizes(ax: Axes, sizes: pd.DataFrame) -> None:
    """A logarithmic x axis in parameters, with a tick named `size` at each of `n_params`."""
    ticks = sizes.drop_duplicates("n_params").sort_values("n_params")
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks["n_params"].tolist(), ticks["size"].tolist())


def log_rates(ax: Axes) -> None:
    """A logarithmic y axis with plain ticks (20k, 50k, ...) even when it spans under a decade."""
    ax.set_yscale("log")
    ax.autoscale_view()
    low, high = ax.get_ylim()
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5)
    ax.yaxis.set_major_locator(LogLocator(subs=steps))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))


def from_zero(ax: Axes) -> None:
    """A linear y axis that starts at zero, so that heights can be compared by eye."""
    ax.autoscale_view()
    ax.set_ylim(bottom=0)


def byte_unit(largest: float) -> tuple[float, str]:
    """Factor and name of the unit to draw `largest` bytes in: GB (1e9), or MB (1e6) under 0.5 GB."""
    return (1e-9, "GB") if largest >= 0.5e9 else (1e-6, "MB")
