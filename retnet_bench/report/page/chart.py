"""One chart of the page: what it reads of a results folder, and the same as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.tables import curves
from retnet_bench.base import UserError
from retnet_bench.figures import laws, panels
from retnet_bench.report.page.keys import Cells, word
from retnet_bench.report.page.sides import Side
from retnet_bench.results.numbers import quantity
from retnet_bench.results.quantities import Quantity

_DIGITS = 5
"""Of the coordinates of fitted curves: more cannot be seen."""


@dataclass(frozen=True)
class Curve:
    """A fitted curve with its band, in the units of the records."""

    arm: str
    x: np.ndarray  # (P,) ascending
    y: np.ndarray  # (P,)
    low: np.ndarray  # (P,) nan where there is no interval
    high: np.ndarray  # (P,)
    inside: np.ndarray  # (P,) whether the measured range has it; it is dashed elsewhere
    variant: str = ""
    """Which of its arm's curves it is."""
    keys: dict[str, str] = field(default_factory=dict)
    """What it can be filtered by, beside its arm."""
    first: bool = True
    """Whether it is shown until the reader chooses another line (`Chart.line`)."""


@dataclass(frozen=True)
class Place:
    """A place on the x axis with its interval, such as a crossover."""

    x: float
    low: float
    high: float
    text: str
    arms: tuple[str, ...]
    """It goes with any of them."""
    keys: dict[str, str] = field(default_factory=dict)
    first: bool = True


@dataclass(frozen=True)
class Drawn:
    """What a chart shows of one results folder.

    `points` has the columns of `analysis.tables.curves`: arm, x, what tells lines apart, SUMMARY;
    and any of these behind them: `x_low` and `x_high`, `label` (stands beside the mark), `hollow`
    (an open mark), `order` (in which a line joins the points), `variant` and `first` (see `Curve`),
    and what else it can be filtered by.
    """

    points: pd.DataFrame
    curves: Sequence[Curve] = ()
    places: Sequence[Place] = ()
    notes: Sequence[str] = ()
    remark: str = ""
    """Which line is shown first, where `first` leaves out any point."""


Read = Callable[[Side], Drawn]


@dataclass(frozen=True)
class Chart:
    """One chart: which table it draws, and how."""

    figure: str
    """The figure that shows the same on paper."""
    title: str
    workload: str
    """Empty where it is of several."""
    x: str
    """Column of the points; of kind `rows` the one that names the row."""
    x_label: str
    read: Read
    shown: Quantity
    kind: str = "line"
    """`line`, `points` (no line joins them), `band` (curves of many points) or `rows` (a row for
    each value of x, along which the estimate runs)."""
    counted: str = "blocks"
    """What `n` of a point counts."""
    x_factor: float = 1.0
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False
    guides: tuple[float, ...] = ()
    """Values of the estimate that have a line of their own, such as chance."""
    at_best: bool = False
    """Whether each arm stands at its own best learning rate, where several were tried."""
    narrowed: tuple[str, ...] = ()
    """Keys of which the chart shows one value (`_narrowed`) until the reader chooses."""
    across: bool = False
    """Whether folders that belong together are read as one (`sides.across`)."""
    line: str = ""
    """A key: until the reader chooses a value of it, only what is `first` is shown."""


def plain(
    chart: Chart, sides: Sequence[Side], cells: Sequence[Cells], swept: str
) -> dict[str, Any]:
    """The chart of all sides as plain data. `swept` says which learning rates were tried, and which
    of them each arm is shown at."""
    found: dict[str, list[Any]] = {"points": [], "curves": [], "places": [], "notes": []}
    narrowed: dict[str, str] = {}
    remarks = []
    for side, known in zip(sides, cells, strict=True):
        drawn = _drawn(chart, side)
        found["points"] += _points(chart, drawn.points, side.label, known)
        found["curves"] += [_curve(chart, one, side.label, known) for one in drawn.curves]
        found["places"] += [_place(chart, one, side.label, known) for one in drawn.places]
        found["notes"] += [note for note in drawn.notes if note not in found["notes"]]
        remarks += [drawn.remark] if drawn.remark else []
        for key, value in _narrowed(chart, drawn.points, side.records).items():
            narrowed.setdefault(key, value)
    notes = [*found["notes"], *([swept] if chart.at_best and swept else [])]
    return {**_axes(chart), **found, "narrowed": narrowed, "notes": notes} | {
        "line": chart.line if remarks else "",
        "remark": " ".join(dict.fromkeys(remarks)),
    }


def _axes(chart: Chart) -> dict[str, Any]:
    shown = chart.shown
    return {
        "name": chart.figure,
        "title": chart.title,
        "kind": chart.kind,
        "xLabel": chart.x_label,
        "yLabel": f"{shown.name} {shown.unit}" if shown.unit[:4] == "per " else shown.label(),
        "logX": chart.log_x,
        "logY": chart.log_y,
        "fromZero": chart.from_zero,
        "guides": list(chart.guides),
        "counted": chart.counted,
    }


def no_points(x: str) -> pd.DataFrame:
    return pd.DataFrame(columns=["arm", x, *curves.SUMMARY])


def _drawn(chart: Chart, side: Side) -> Drawn:
    """What the side shows; nothing where its records can't be read as one table."""
    if not chart.workload or chart.workload in side.workloads:
        with suppress(UserError):  # `show` says what is wrong with them
            return chart.read(side)
    return Drawn(no_points(chart.x))


def _narrowed(chart: Chart, frame: pd.DataFrame, records: pd.DataFrame) -> dict[str, str]:
    """Where a chart would show several sizes, budgets or lengths at once, the one that the figure
    draws: the largest size, the budget of most sizes, the longest length."""
    ways: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
        "size": lambda rows: laws.largest(rows, records),
        "token_budget": lambda rows: laws.one_budget(rows)[0],
        "length": lambda rows: rows[rows["length"] == panels.longest(rows)],
    }
    chosen = {}
    for key in chart.narrowed:
        if key in frame and frame[key].nunique() > 1:
            frame = ways[key](frame)
            chosen[key] = word(frame[key].iloc[0])
    return chosen


def _points(
    chart: Chart, frame: pd.DataFrame, label: str, cells: Cells
) -> Iterator[dict[str, Any]]:
    if not frame.empty:  # what failed before its x was known has no place; tables say why
        frame = frame[frame[chart.x].notna()]
    if frame.empty:
        return
    per = [name for name in panels.varying(frame, chart.x) if name != "arm"]
    if "variant" not in frame:
        frame = frame.assign(variant=panels.variants(frame, per, named=True))
    for _, line in frame.iterrows():
        row = {str(name): value for name, value in line.items()}
        said = {name: word(value) for name, value in row.items()}
        said["workload"] = said.get("workload") or chart.workload
        if chart.x == "position":  # a failed cell has none of the positions
            said.pop("position", None)
        yield _point(chart, row) | {
            "results": label,
            "variant": row["variant"],
            "keys": cells.keys(said),
        }


def _point(chart: Chart, row: dict[str, Any]) -> dict[str, Any]:
    x, shown = row[chart.x], chart.shown
    values = {name: _number(row[name], shown.factor) for name in ("estimate", "low", "high")}
    size = word(row.get("size")) if chart.x == "n_params" else ""
    return {
        "arm": row["arm"],
        "x": x if isinstance(x, str) else _number(x, chart.x_factor),
        "name": size,
        "y": values["estimate"],
        "low": values["low"],
        "high": values["high"],
        "text": f"{shown.interval(pd.Series(row))} {shown.unit}".strip(),
        "at": x if isinstance(x, str) else quantity(float(x) * chart.x_factor),
        "n": int(row["n"]),
        "status": row["status"],
        "reason": row["reason"] if isinstance(row["reason"], str) else "",
        **_beside(chart, row),
    }


def _beside(chart: Chart, row: dict[str, Any]) -> dict[str, Any]:
    """What few charts have of a point: only what says something."""
    found: dict[str, Any] = {}
    if "x_low" in row:
        found = {end: _number(row[f"x_{end}"], chart.x_factor) for end in ("low", "high")}
        found = {"xLow": found["low"], "xHigh": found["high"]}
    if row.get("label"):
        found["mark"] = word(row["label"])
    if row.get("hollow"):
        found["hollow"] = True
    if "order" in row:
        found["order"] = _number(row["order"], 1.0)
    if not row.get("first", True):
        found["first"] = False
    return found


def _curve(chart: Chart, curve: Curve, label: str, cells: Cells) -> dict[str, Any]:
    y = chart.shown.factor
    return {
        "arm": curve.arm,
        "variant": curve.variant,
        "results": label,
        "keys": _keys(chart, {"arm": curve.arm, **curve.keys}, cells),
        "first": curve.first,
        "x": _rounded(curve.x, chart.x_factor),
        "y": _rounded(curve.y, y),
        "low": _rounded(curve.low, y),
        "high": _rounded(curve.high, y),
        "inside": [bool(inside) for inside in curve.inside],
    }


def _place(chart: Chart, place: Place, label: str, cells: Cells) -> dict[str, Any]:
    values = {name: _number(getattr(place, name), chart.x_factor) for name in ("x", "low", "high")}
    return values | {
        "text": place.text,
        "arms": list(place.arms),
        "results": label,
        "keys": _keys(chart, place.keys, cells),
        "first": place.first,
    }


def _keys(chart: Chart, said: dict[str, str], cells: Cells) -> dict[str, str]:
    return cells.keys({"workload": chart.workload} | said) | said


def _rounded(values: np.ndarray, factor: float) -> list[float | None]:
    found = (_number(value, factor) for value in values)
    return [None if value is None else float(f"{value:.{_DIGITS}g}") for value in found]


def _number(value: Any, factor: float) -> float | None:
    """For JSON: None for what is not finite."""
    number = math.nan if value is None or value is pd.NA else float(value)
    return number * factor if math.isfinite(number) else None
