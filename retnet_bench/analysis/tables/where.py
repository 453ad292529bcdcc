"""Choosing rows by what they say: `arm=retnet,length>=4096`."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.base import UserError, did_you_mean, located, natural, quoted
from retnet_bench.results.schema import NAMES

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
OUTCOMES = ("value", "samples", "block")
"""Columns of what was measured: to choose rows by them would choose blocks by their outcome."""
_CONDITION = re.compile(r"\s*([^<>=!\s]+)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*")


@dataclass(frozen=True)
class Condition:
    """A column or setting, how it is compared, and the values of which one must fit."""

    key: str
    operator: str
    values: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.key}{self.operator}{'|'.join(self.values)}"


def conditions(words: Sequence[str]) -> list[Condition]:
    """What `--where` says: conditions with commas between them, all of which must hold; `|` between
    values of which one must fit. UserError for what is none."""
    found = []
    for word in (part for text in words for part in text.split(",")):
        matched = _CONDITION.fullmatch(word)
        if matched is None or not all(value.strip() for value in matched[3].split("|")):
            raise UserError(
                f'--where: "{quoted(word)}" is no condition, such as arm=retnet, length>=4096 or '
                f"arm=retnet|transformer"
            )
        values = tuple(value.strip() for value in matched[3].split("|"))
        if len(values) > 1 and matched[2] not in ("=", "!="):
            raise UserError(f'--where: "{quoted(word)}": {matched[2]} takes one value')
        found.append(Condition(matched[1], matched[2], values))
    return found


def chosen(records: pd.DataFrame, wanted: Sequence[Condition]) -> pd.DataFrame:
    """The rows that fit all conditions. UserError for a key that no row has, a value of another
    type, and where nothing is left, with the condition that leaves nothing."""
    for condition in wanted:
        with located(f"--where {quoted(condition.text)}"):
            _refuse_outcome(condition)
            column = _column(records, condition.key)
            fits = _fitting(column, condition)
            if not fits.any():
                raise UserError(f"no row fits{_values_of(column, condition)}")
            records = records[fits]
    return records


def _refuse_outcome(condition: Condition) -> None:
    if condition.key in OUTCOMES:
        words = "says which block it was, or how it came out"
        raise UserError(
            f"{condition.key} {words}: estimates of rows chosen by it would be biased; choose by "
            "metric, status or a setting, and filter the values of --columns ... --format csv"
        )
    if condition.operator == "=" and condition.values[0].startswith("="):
        raise UserError(f"give one =: {condition.key}={condition.values[0].lstrip('=')}")


def _column(records: pd.DataFrame, key: str) -> pd.Series[Any]:
    """A column of the records, or a setting of their cells that has none."""
    if key in records:
        return records[key]
    settings = records["cell_json"].map(_settings(records))
    known = sorted({name for one in settings for name in one})
    if key not in known:
        raise UserError(f'unknown key "{quoted(key)}"{did_you_mean(key, {*NAMES, *known})}')
    return settings.map(lambda one: one.get(key)).astype(object)


def _settings(records: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What each cell's JSON says, by its text."""
    return {text: json.loads(text) for text in records["cell_json"].unique()}


def _fitting(column: pd.Series[Any], condition: Condition) -> pd.Series[bool]:
    """Rows that fit. Of a row without a value only `!=` holds."""
    known = column.notna()
    compare = OPERATORS[condition.operator]
    sample = next(iter(column[known]), None)
    wanted = [_read(value, sample, condition) for value in condition.values]
    as_read = column.map(_shown) if not _is_number(sample) else column
    each = [as_read[known].map(lambda value, one=one: bool(compare(value, one))) for one in wanted]
    unlike = condition.operator == "!="
    fits = np.full(len(column), unlike)
    if each:
        together = np.logical_and if unlike else np.logical_or
        fits[known] = together.reduce([one.to_numpy(dtype=bool) for one in each])
    return pd.Series(fits, index=column.index)


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, str | bool) and not _is_flag(value)


def _is_flag(value: Any) -> bool:
    return str(type(value).__name__).startswith("bool")


def _shown(value: Any) -> str:
    """A text as it is, a flag as YAML has it, a time by its ISO form."""
    if _is_flag(value):
        return str(bool(value)).lower()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _read(value: str, sample: Any, condition: Condition) -> Any:
    """A value as the column's own are."""
    if _is_number(sample):
        try:
            return float(value)
        except ValueError:
            raise UserError(f"{condition.key} is a number, {quoted(value)} is none") from None
    ordered = condition.operator not in ("=", "!=")
    if ordered and not hasattr(sample, "isoformat") and sample is not None:
        raise UserError(f"{condition.key} is no number: take = or !=")
    return value


def _values_of(column: pd.Series[Any], condition: Condition) -> str:
    known = [_shown(value) for value in column.dropna().unique()[:1000]]
    if not known:
        return f"; {condition.key} is empty in all of them"
    if condition.operator == "=":
        return did_you_mean(condition.values[0], known)
    return f"; {condition.key} is {', '.join(sorted(known, key=natural)[:10])}"
