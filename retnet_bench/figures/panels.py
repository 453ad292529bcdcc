"""What is drawn on a sheet: curves with intervals, failed cells, crossovers, the paper's points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from retnet_bench.analysis.statistics.intervals import FEWEST
from retnet_bench.analysis.tables import captions, curves
from retnet_bench.base import UserError
from retnet_bench.figures import style
from retnet_bench.figures.sheet import OPEN, End, Sheet
from retnet_bench.paper import PaperTable
from retnet_bench.results.schema import EXACT

_PREDICTED: dict[str, Any] = {
    "linestyle": ":",
    "linewidth": 0.7,
    "markersize": 4.5,
    "markerfacecolor": "none",
    "markeredgewidth": 0.6,
}
"""The look of what nobody measured, neither the paper nor we."""


def needed(frame: pd.DataFrame, figure: str, workload: str, metric: str) -> pd.DataFrame:
    """`frame` itself, or UserError naming what the records lack when it is empty."""
    if frame.empty:
        raise UserError(
            f'figure "{figure}" needs metric {metric} of workload {workload}, '
            f"and these records have none; run a study with the workload {workload}"
        )
    return frame


def conditions(records: pd.DataFrame, workload: str) -> str:
    """The caption's first sentence: how `workload`'s records were measured."""
    return captions.conditions(records[records["workload"] == workload])


def memory_note(metric: str) -> str:
    """The caption's sentence on which memory is meant."""
    return f"Memory is {metric}{' (exact)' if metric in EXACT else ''}."


def only_memory(sheet: Sheet, metric: str) -> None:
    """Nothing of ours on the sheet is anything but memory: counted exactly, it has no intervals."""
    if metric in EXACT:
        sheet.intervals = ""


def scaled(frame: pd.DataFrame, factor: float) -> pd.DataFrame:
    """`frame` with estimate, low and high in another unit: multiplied by `factor`."""
    columns = ["estimate", "low", "high"]
    return frame.assign(**{name: frame[name] * factor for name in columns})


def variants(frame: pd.DataFrame, per: Sequence[str], named: bool = False) -> pd.Series:
    """Per row the words for its values of `per`: "512, fp32", or `named`: "length 512, fp32"."""
    # Of no columns pandas 2 has no rows, so they are not taken from itertuples.
    rows = zip(*(frame[name] for name in per), strict=True) if per else [()] * len(frame)
    words = [", ".join(map(_words if named else _word, per, row)) for row in rows]
    return pd.Series(words, index=frame.index, dtype=object)


def _word(_: str, value: object) -> str:
    return f"{value:g}" if isinstance(value, Real) else str(value)


def _words(name: str, value: object) -> str:
    return f"{name} {_word(name, value)}" if isinstance(value, Real) else str(value)


def varying(frame: pd.DataFrame, x: str) -> list[str]:
    """The columns that tell apart the lines of an analysis frame, besides arm and `x`.

    A column that has one value at each x (such as the size at a number of parameters) names the
    point and not a line.
    """
    names = [name for name in curves.separators(frame) if frame[name].nunique() > 1]
    return [name for name in names if frame.groupby(x)[name].nunique().max() > 1]


def longest(frame: pd.DataFrame) -> int:
    """The longest length at which most arms have a value."""
    arms = frame.groupby(["length", "arm"])["estimate"].any().groupby("length").sum()
    return int(arms[arms == arms.max()].index.max())


def draw_curves(sheet: Sheet, frame: pd.DataFrame, x: str, failed_at: str = "top") -> None:
    """Draw `estimate` with its interval against `x`: a line per arm and set of separators.

    Rows without an estimate are cells that failed: open markers at the edge `failed_at` ("top"
    or "bottom"), with the status beside them.
    """
    styles, per = sheet.styles, varying(frame, x)
    for arm in sorted(frame["arm"].unique()):
        sheet.explain(arm, line_handle(styles[arm]))
    frame = frame.sort_values([*per, x]).assign(variant=lambda rows: variants(rows, per))
    steps = list(dict.fromkeys(frame["variant"]))
    ends: list[End] = []
    measured = frame[frame["estimate"].notna()]
    _remark_bare(sheet, measured)
    for keys, line in measured.groupby(["variant", "arm"], sort=False):
        name, arm = map(str, keys)
        color = style.shade(styles[arm].color, steps.index(name), len(steps))
        draw_line(sheet.ours, line, x, styles[arm], color, label=f"{arm} {name}".strip())
        ends += line_end(sheet, line, x, arm, name)
    draw_failures(sheet, frame[frame["estimate"].isna()], x, failed_at, ", ".join(steps))
    name_ends(sheet, ends, per)


def line_end(sheet: Sheet, line: pd.DataFrame, x: str, arm: str, variant: str) -> list[End]:
    """What stands at the end of a line: the arm where there are many, and which variant it is."""
    last, color = line.iloc[-1], sheet.styles[arm].color
    end = End(float(last[x]), float(last["estimate"]), variant, color, arm * sheet.crowded)
    return [end] if end.text or end.arm else []


def name_ends(sheet: Sheet, ends: list[End], per: Sequence[str]) -> None:
    """Let the sheet label the lines' ends, and say in the title what the labels are."""
    if ends:
        sheet.ends.append((sheet.ours, ends))
    if per:
        what = ["arm", *per] if sheet.crowded else per
        sheet.ours.set_title(f"Measured here; line ends: {', '.join(what)}")


def _remark_bare(sheet: Sheet, measured: pd.DataFrame) -> None:
    """Say of points without a bar that they have no interval; what is counted needs none."""
    bare = measured["low"].isna() & measured["reason"].notna()
    if bare.any():
        sheet.remark(
            f"Points without a bar have no interval: fewer than {FEWEST} blocks or documents."
        )


def draw_line(
    ax: Axes, line: pd.DataFrame, x: str, look: style.ArmStyle, color: style.Color, label: str
) -> None:
    """One line with a bar from `low` to `high` at each point."""
    below = (line["estimate"] - line["low"]).clip(lower=0)
    above = (line["high"] - line["estimate"]).clip(lower=0)
    ax.errorbar(
        line[x],
        line["estimate"],
        yerr=[below, above],
        **(look.line | {"color": color}),
        capsize=2,
        elinewidth=0.8,
        label=label,
    )


def draw_part(sheet: Sheet, part: pd.DataFrame, x: str, look: style.Dashes, words: str) -> None:
    """A thin line per arm for a part of what the curves show, such as the weights."""
    thin: dict[str, Any] = {"linestyle": look, "linewidth": 0.8}
    for keys, line in part.sort_values(x).groupby(["arm", *varying(part, x)]):
        arm = str(keys[0])
        color = sheet.styles[arm].color
        sheet.ours.plot(line[x], line["estimate"], color=color, label=f"{arm} {words}", **thin)
    if not part.empty:
        sheet.explain(words, Line2D([], [], color=style.GREY, **thin))


def line_handle(look: style.ArmStyle, alpha: float = 1.0) -> Line2D:
    """The legend's picture of an arm."""
    return Line2D([], [], **look.line, alpha=alpha)


def draw_failures(sheet: Sheet, failed: pd.DataFrame, x: str, edge: str, every: str = "") -> None:
    """Open markers on the top or bottom edge, side by side per `x`, named by their status.

    The words name the variants that failed, unless they are `every` one there is.
    """
    if failed.empty:
        return
    seen = failed.groupby([x, "arm", "status"])["variant"].agg(", ".join).reset_index()
    seen["variant"] = seen["variant"].where(seen["variant"] != every, "")
    size = seen.groupby(x)[x].transform("size")
    dodges = (seen.groupby(x).cumcount() - (size - 1) / 2) * 8
    for dodge, (_, row) in zip(dodges, seen.iterrows(), strict=True):
        _open_marker(sheet.ours, row, x, sheet.styles[row["arm"]], edge, dodge)
    if len(seen):
        sheet.failed[sheet.ours] = edge


def _open_marker(
    ax: Axes, row: pd.Series, x: str, look: style.ArmStyle, edge: str, dodge: float
) -> None:
    height, inward = (0.97, -1) if edge == "top" else (0.03, 1)
    aside = ScaledTranslation(dodge / 72, 0, ax.figure.dpi_scale_trans)
    shape = OPEN | look.points
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


def draw_crossovers(sheet: Sheet, found: pd.DataFrame) -> None:
    """A line at each crossover (tokens) in the band of its interval, named in the legend; none in
    a crowd of arms, where nobody could tell the lines apart (`show` has them all)."""
    if sheet.crowded:
        return
    per = [name for name in curves.separators(found) if found[name].nunique() > 1]
    named = found.assign(variant=variants(found, per, named=True))
    for _, row in named[named["estimate"].notna()].iterrows():
        sheet.ours.axvline(row["estimate"], color=style.GREY, lw=0.9, ls=":", zorder=1)
        if np.isfinite(row["low"]):
            sheet.ours.axvspan(row["low"], row["high"], fc=style.GREY, alpha=0.18, lw=0, zorder=0)
        label = f"crossover {_tokens(row)}" + (f" ({row['variant']})" if per else "")
        sheet.explain(label, Patch(color=style.GREY, alpha=0.35))


def _tokens(row: pd.Series) -> str:
    known = np.isfinite(row["low"])
    interval = f"[{row['low']:,.0f}, {row['high']:,.0f}]" if known else "(no interval)"
    return f"{row['estimate']:,.0f} tokens {interval}"


def draw_paper(
    sheet: Sheet, table: PaperTable, frame: pd.DataFrame, x: str, title: str, per: str = ""
) -> None:
    """The paper's points in the right panel: faded, on grey, under a title that says so."""
    ax = sheet.paper
    styles = style.arm_styles(frame["arm"])
    ends: list[End] = []
    for keys, line in frame.groupby(["arm", per] if per else ["arm"]):
        look, line = styles[str(keys[0])], line.sort_values(x)
        _faint(ax, line[x], line["value"], look, label=" ".join(map(str, ("paper", *keys))))
        ends.append(End(line[x].iloc[-1], line["value"].iloc[-1], str(keys[-1]), look.color))
    for arm in styles:
        if arm not in sheet.entries:
            sheet.explain(f"{arm} (paper)", line_handle(styles[arm], style.PAPER_ALPHA))
    style_paper_axes(sheet, table, title)
    if per:
        sheet.ends.append((ax, ends))


def draw_predicted(sheet: Sheet, points: pd.DataFrame, x: str, what: str) -> str:
    """Our cost model's points for the paper's setting, in the right panel: open, thinly dotted.

    `points` are rows of `paper.predicted`; `what` ("bandwidth ceiling") names them in the legend.
    Returns the sentence that the caption must have about them.
    """
    styles = style.arm_styles(points["arm"])
    for arm, line in points.groupby("arm"):
        look, line = styles[str(arm)], line.sort_values(x)
        shape = look.points | _PREDICTED
        sheet.paper.plot(line[x], line["value"], label=f"predicted {arm}", **shape)
        sheet.explain(f"{arm}, predicted {what}", Line2D([], [], **shape))
    return (
        f"Open markers right: {what} predicted by our cost model for the paper's machine; "
        "not measured."
    )


def style_paper_axes(sheet: Sheet, table: PaperTable, title: str) -> None:
    """Make the right panel the paper's: grey, titled, its source in the caption."""
    ax = sheet.paper
    how = re.split("[:;]", table.method)[0]
    sheet.source = f"{table.source}, {how}; not measured here."
    ax.set_facecolor(style.PAPER_FACE)
    ax.set_title(title, color=style.GREY, style="italic")
    ax.tick_params(colors=style.GREY)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_color(style.GREY)


def _faint(ax: Axes, xs: pd.Series, ys: pd.Series, look: style.ArmStyle, label: str) -> None:
    ax.plot(
        xs,
        ys,
        **(look.line | {"markersize": 3.5}),
        linewidth=0.9,
        alpha=style.PAPER_ALPHA,
        label=label,
    )
