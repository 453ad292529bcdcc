"""How time and memory grow with length: measured exponents (the paper's Table 1 states them)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench import paper
from retnet_bench.analysis.tables import captions, curves
from retnet_bench.base import UserError
from retnet_bench.figures import axes, laws, panels, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import NAMES_BESIDE_PAPER, OPEN, Sheet
from retnet_bench.results.schema import OK_STATUSES

ROWS = {  # workload and what it costs, from the top
    ("train", "time"): "training time",
    ("train", "memory"): "training memory",
    ("prefill", "time"): "prefill time",
    ("prefill", "memory"): "prefill memory",
    ("decode", "time"): "decode step time",
    ("decode", "memory"): "decode memory",
    ("decode", "state"): "state or KV cache",
}
_STATED = {"long_sequence_memory": ("train", "memory"), "inference_cost": ("decode", "time")}
"""The rows in which Table 1 says something."""
POWERS = {"O(1)": 0, "O(N)": 1, "O(N^2)": 2}
_ASIDE = 0.22
"""Rows between two arms' marks, at most."""
_NOTE = (
    "Time is a step's over its batch, of decode at the last position. What is fixed (weights, "
    "calls) keeps exponents at such lengths below the asymptotic ones. Counted bytes have no "
    "interval."
)


@figure("table1")
def draw(records: pd.DataFrame) -> Figure:
    """The exponent p of cost ~ length^p, a point an arm: training, prefill and decoding."""
    chosen = needed(records)
    size = chosen["size"].iloc[0]
    sheet = Sheet("How time and memory grow with length", records["arm"], NAMES_BESIDE_PAPER)
    _marks(sheet, chosen)
    _paper(sheet)
    _frame(sheet)
    workloads = {workload for workload, _ in ROWS}
    timed = records[records["workload"].isin(workloads) & (records["size"] == size)]
    return sheet.finish(captions.conditions(timed), remark(chosen), _NOTE)


def needed(records: pd.DataFrame) -> pd.DataFrame:
    """The exponents of the largest size (`curves.exponents`), each cost at one batch; `variant`
    tells contracts of one arm and cost apart."""
    found = curves.exponents(records)
    found = found.loc[[cost in ROWS for cost in zip(found["workload"], found["what"], strict=True)]]
    if found["estimate"].isna().all():
        raise UserError(
            'figure "table1" needs times or memory of workload train, prefill or decode at two '
            "lengths of one contract; run a study with an axis length"
        )
    size = laws.largest(found[found["estimate"].notna()], records)["size"].iloc[0]
    chosen = pd.concat(_at_one_batch(found[found["size"] == size]))
    return chosen.assign(variant=_variants(chosen))


def remark(chosen: pd.DataFrame) -> str:
    """Of which size and lengths the exponents are."""
    return f"Size {chosen['size'].iloc[0]}, lengths: {'; '.join(_ranges(chosen))}."


def _at_one_batch(found: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each cost at the largest batch that most arms have an exponent for."""
    for _, cost in found.groupby(["workload", "what"], sort=False):
        batch = cost["batch"].fillna(0)
        arms = cost["arm"].where(cost["estimate"].notna()).groupby(batch).nunique()
        yield cost[batch == arms.index[arms == arms.max()].max()]


def _ranges(chosen: pd.DataFrame) -> list[str]:
    """The lengths behind each row, and the batch where it is one; rows that share them together."""
    alike: dict[str, list[str]] = {}
    known = chosen[chosen["estimate"].notna()].assign(batch=chosen["batch"].fillna(0))
    for (workload, what, batch), cost in known.groupby(["workload", "what", "batch"], sort=False):
        lengths = f"{cost['shortest'].min():,.0f} to {cost['longest'].max():,.0f}"
        at = f" at batch {batch:g}" if batch else ""
        alike.setdefault(lengths + at, []).append(ROWS[str(workload), str(what)])
    return [f"{', '.join(names)} {lengths}" for lengths, names in alike.items()]


# --- our panel ----------------------------------------------------------------------------------


def _marks(sheet: Sheet, chosen: pd.DataFrame) -> None:
    """A lane in each row for every arm and, where contracts differ, for each of these."""
    variants, arms = sorted(chosen["variant"].unique()), list(sheet.styles)
    lanes = [(arm, name) for arm in arms for name in variants]
    apart = min(_ASIDE, 0.7 / len(lanes))
    for _, row in chosen.iterrows():
        name, lane = row["variant"], lanes.index((row["arm"], row["variant"]))
        look = sheet.styles[row["arm"]]
        color = style.shade(look.color, variants.index(name), len(variants))
        shape: dict[str, Any] = {"color": color, "marker": look.marker, "linestyle": "none"}
        place = list(ROWS).index((row["workload"], row["what"]))
        _mark(sheet, row, place + apart * (lane - (len(lanes) - 1) / 2), shape)
        sheet.explain(f"{row['arm']} {name}".strip(), Line2D([], [], **shape))
    measured = set(zip(chosen["workload"], chosen["what"], strict=True))
    for place, cost in enumerate(ROWS):
        if cost not in measured:
            _at_the_edge(sheet.ours, "not measured", place, style.GREY)


def _variants(chosen: pd.DataFrame) -> list[str]:
    """Per row the words for what tells its contract from others of the same arm and cost."""
    given = ("what", "size", "batch")
    names = [name for name in curves.separators(chosen) if name not in given]
    varying = [name for name in names if chosen[name].nunique() > 1]
    rows = chosen[varying].to_numpy(dtype=object)
    return [", ".join(str(value) for value in row if pd.notna(value)) for row in rows]


def _mark(sheet: Sheet, row: pd.Series, place: float, shape: dict[str, Any]) -> None:
    middle, low, high = (float(row[name]) for name in ("estimate", "low", "high"))
    label = f"{row['arm']} {row['variant']}".strip()
    if np.isnan(middle):
        _open_mark(sheet, row, place, shape, label)
        return
    bar = [[max(middle - low, 0.0)], [max(high - middle, 0.0)]] if high > low else None
    sheet.ours.errorbar(
        [middle], [place], xerr=bar, capsize=2, elinewidth=0.8, label=label, **shape
    )


def _open_mark(
    sheet: Sheet, row: pd.Series, place: float, shape: dict[str, Any], label: str
) -> None:
    """No exponent: an open marker at the right edge, where no axis reads it, and why."""
    why = "too few lengths" if row["status"] in OK_STATUSES else row["status"]
    where = sheet.ours.get_yaxis_transform()
    sheet.ours.plot([0.97], [place], transform=where, label=label, **(OPEN | shape))
    _at_the_edge(sheet.ours, str(why), place, shape["color"])
    sheet.explain_open()


def _at_the_edge(ax: Axes, words: str, place: float, color: style.Color) -> None:
    at: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
    look: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 5.5, "color": color}
    ax.annotate(words, (0.97, place), xytext=(-5, 0), **at, **look)


def _frame(sheet: Sheet) -> None:
    """Rows, and one scale for both panels, with guides at flat, linear and quadratic."""
    axes.by_points(sheet.ours, "x")
    low, high = sheet.ours.dataLim.intervalx
    ends = min(low - 0.1, -0.25), max(high + 0.1, 2.25)
    for ax in (sheet.ours, sheet.paper):
        ax.set_xlim(*ends)
        ax.set_xticks(range(math.ceil(ends[0]), math.floor(ends[1]) + 1))
        for power in POWERS.values():
            ax.axvline(power, color=style.GREY, lw=0.6, ls=":", zorder=1)
        ax.set_xlabel("exponent p of cost ~ length^p")
        _rows(ax)
    sheet.paper.set_yticklabels([])


def _rows(ax: Axes) -> None:
    ax.set_yticks(range(len(ROWS)), list(ROWS.values()))
    ax.set_ylim(len(ROWS) - 0.5, -0.5)


# --- the paper's panel --------------------------------------------------------------------------


def _paper(sheet: Sheet) -> None:
    """Table 1's statements as faint marks; those that are no power of N are left out."""
    table = paper.load("table1")
    frame = table.frame[table.frame["arm"].isin({"retnet", "transformer", *sheet.styles})]
    frame = frame[frame["metric"].isin(_STATED) & frame["value"].isin(POWERS)]
    styles = style.arm_styles(frame["arm"])
    for arm, metric, value in frame[["arm", "metric", "value"]].itertuples(index=False):
        look, power = styles[arm], POWERS[value]
        place = list(ROWS).index(_STATED[metric])
        shape: dict[str, Any] = {
            "color": look.color,
            "marker": look.marker,
            "linestyle": "none",
            "alpha": style.PAPER_ALPHA,
        }
        sheet.paper.plot([power], [place], label=f"paper {arm} {metric}", **shape)
        growth = value.replace("^2", "\N{SUPERSCRIPT TWO}")
        words: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6.5, "ha": "center"}
        words["bbox"] = {"facecolor": style.PAPER_FACE, "edgecolor": "none", "pad": 0.5}
        sheet.paper.annotate(growth, (power, place), xytext=(0, 6), color=look.color, **words)
        if arm not in sheet.styles:
            sheet.explain(f"{arm} (paper)", Line2D([], [], **shape))
    panels.style_paper_axes(
        sheet, table, "Paper: stated, not measured,\nand in these two rows only"
    )
