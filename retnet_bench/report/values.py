"""Chosen values as a table, CSV, JSON or Markdown; and two results side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from retnet_bench.analysis.tables import values
from retnet_bench.analysis.tables.captions import contract_text
from retnet_bench.base import UserError, did_you_mean, printable, quoted
from retnet_bench.report import layout
from retnet_bench.results.markdown import markdown_table
from retnet_bench.results.quantities import Quantity, of_unit

FORMATS = ("table", "csv", "json", "markdown")


def check_format(name: str) -> str:
    if name not in FORMATS:
        raise UserError(f'unknown format "{quoted(name)}"{did_you_mean(name, FORMATS)}')
    return name


def chosen(records: pd.DataFrame, columns: Sequence[str] | None, kind: str) -> Table | str:
    """The values of `records`, a row each: the columns that are named, or those that tell them
    apart; as a table for the terminal, or the text of CSV, JSON (a list of objects) or Markdown."""
    frame = values.values(records)
    named = values.columns_of(columns) if columns else values.shown_columns(frame)
    if kind == "table" and not columns:
        return _for_reading(frame, named)
    return written(frame[named], kind)


def _for_reading(frame: pd.DataFrame, named: list[str]) -> Table:
    """With one column for a value and its interval, in the unit that it is shown in."""
    keys = [name for name in named if name not in (*values.RESULT, "unit", "status")]
    head = [name if name in _WORDS else f">{name.replace('_', ' ')}" for name in keys]
    rows = (
        [*(_text(row[key]) for key in keys), *_value(row, frame), _text(row["status"])]
        for _, row in frame.iterrows()
    )
    columns = "|".join([*head, ">value [95 % interval]", "unit", ">blocks", "status"])
    return layout.table("Values", columns, rows)


_WORDS = ("arm", "workload", "metric", "size", "phase", "check")
"""Columns of words, which begin at the left."""


def _value(row: pd.Series[Any], frame: pd.DataFrame) -> tuple[str, str, str]:
    shown = of_unit(str(row["unit"]))
    return _interval(row, shown), shown.unit, str(row["blocks"])


def _interval(row: pd.Series[Any], shown: Quantity) -> str:
    if pd.isna(row["estimate"]):
        return ""
    if pd.isna(row["low"]) and row["blocks"] <= 1:  # one reading, which has none
        return shown.interval(row).partition(" ")[0]
    return shown.interval(row)


def written(frame: pd.DataFrame, kind: str) -> Table | str:
    """A frame as it is, in one of FORMATS."""
    if kind == "csv":
        return frame.map(_plain).to_csv(index=False).rstrip("\n")
    if kind == "json":
        rows = [dict(zip(frame, map(_json, row), strict=True)) for row in frame.to_numpy(object)]
        return "[" + ",\n ".join(json.dumps(row, ensure_ascii=False) for row in rows) + "]"
    cells = [[_text(value) for value in row] for row in frame.to_numpy(object)]
    if kind == "markdown":
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        return markdown_table([str(name) for name in frame], escaped).rstrip("\n")
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame]
    head = [f"{'>' * right}{name}" for name, right in zip(frame, numeric, strict=True)]
    return layout.table("Values", "|".join(head), cells)


def _json(value: Any) -> Any:
    """A value as JSON has it; null where there is none."""
    if value is None or value is pd.NA or value != value:
        return None
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int | float | str | bool) else _plain(value)


def _plain(value: Any) -> Any:
    """A value as data: text on one line, times by their ISO form."""
    if hasattr(value, "isoformat"):
        return "" if pd.isna(value) else value.isoformat()
    return printable(value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    """A value for reading."""
    plain = _json(value)
    if plain is None:
        return ""
    return f"{plain:.6g}" if isinstance(plain, float) else printable(plain)


# --- two results side by side ---------------------------------------------------------------------


def compared(
    names: tuple[str, str], results: tuple[pd.DataFrame, pd.DataFrame], kind: str = "table"
) -> Iterator[Table | str]:
    """Two results side by side: where they were taken, their values, and the ratios that each has
    inside its own pairs. As data, the values alone."""
    both = values.side_by_side(*results)
    if kind != "table":
        yield written(both[[*_cell_columns(both), *_result_columns(both)]], kind)
        return
    for number, (name, records) in enumerate(zip(names, results, strict=True), 1):
        yield f"{number}: {name}: {contract_text(records)}"
    yield _pairs_of_columns("Values, side by side (decode: at the last position)", both)
    ratios = values.ratios_side_by_side(*results)
    if len(ratios):
        yield _ratios(ratios)
    yield "Each interval is of its own results. What was not measured side by side has no ratio."


def _cell_columns(both: pd.DataFrame) -> list[str]:
    known = [name for name in values.shown_columns(both.assign(**_FILLER)) if name in both]
    return [name for name in known if name not in ("device", "threads", "machine", "kernel")]


_FILLER: dict[str, Any] = dict.fromkeys([*values.RESULT, "status"], 0)


def _result_columns(both: pd.DataFrame) -> list[str]:
    return [
        f"{name} {number}" for number in (1, 2) for name in (*values.RESULT, "status", "reason")
    ]


def _pairs_of_columns(title: str, both: pd.DataFrame) -> Table:
    keys = [name for name in _cell_columns(both) if name not in (*values.RESULT, "unit", "status")]
    head = [name if name in _WORDS else f">{name.replace('_', ' ')}" for name in keys]
    rows = (
        [*(_text(row[key]) for key in keys), *_sides(row, of_unit(str(row["unit"])))]
        for _, row in both.iterrows()
    )
    return layout.table(title, "|".join([*head, "unit", ">1 [95 %]", ">2 [95 %]"]), rows)


def _sides(row: pd.Series[Any], shown: Quantity) -> Iterable[str]:
    yield shown.unit
    for number in (1, 2):
        own = row[[f"{name} {number}" for name in values.RESULT]].set_axis(values.RESULT)
        status = row[f"status {number}"]
        yield _interval(own, shown) or (_text(status) or "not there")


def _ratios(both: pd.DataFrame) -> Table:
    keys = ["metric", "phase", "a", "b", "size", "length", "batch"]
    keys = [name for name in keys if both[name].notna().any()]
    rows = ([*(_text(row[key]) for key in keys), *_ratio_sides(row)] for _, row in both.iterrows())
    head = [name if name in ("metric", "phase", "a", "b", "size") else f">{name}" for name in keys]
    title = "Ratios a / b inside each pair, of each results' own"
    return layout.table(title, "|".join([*head, ">1 [95 %]", ">2 [95 %]"]), rows)


def _ratio_sides(row: pd.Series[Any]) -> Iterable[str]:
    for number in (1, 2):
        own = row[[f"{name} {number}" for name in values.RESULT]].set_axis(values.RESULT)
        yield _interval(own, Quantity("ratio", "", "")) or "not there"
