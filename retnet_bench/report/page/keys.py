"""What a row of a table or a point of a chart can be filtered by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd

from retnet_bench.base import natural

NAMES = (
    *("workload", "size", "length", "batch", "new_tokens", "dtype", "mode"),
    *("token_budget", "learning_rate", "arm"),
)
"""The filters of a page, columns of the records, in the order they stand in its filter row."""


def word(value: Any) -> str:
    """A value as tables and filters write it; empty where there is none."""
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:g}"
    return str(value)


class Cells:
    """The cells of a results folder by their keys: what a row does not say of itself follows from
    what the cells that it can be of have in common."""

    def __init__(self, records: pd.DataFrame) -> None:
        frame = records[list(NAMES)].drop_duplicates()
        self._rows = [
            {name: word(value) for name, value in zip(NAMES, row, strict=True)}
            for row in frame.itertuples(index=False)
        ]
        self._known: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}

    def keys(self, said: Mapping[str, str]) -> dict[str, str]:
        """All keys of a row that says some of them; a key is missing where its cells differ."""
        given = {name: said[name] for name in NAMES if said.get(name)}
        place = tuple(given.items())
        if place not in self._known:
            self._known[place] = given | self._shared(given)
        return self._known[place]

    def _shared(self, given: Mapping[str, str]) -> dict[str, str]:
        alike = [row for row in self._rows if all(row[name] == given[name] for name in given)]
        values = {name: {row[name] for row in alike} for name in NAMES}
        return {
            name: found.pop() for name, found in values.items() if len(found) == 1 and any(found)
        }

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        """Per key the values there are, numbers by size."""
        found = {name: {row[name] for row in self._rows} - {""} for name in NAMES}
        return {name: sorted(values, key=natural) for name, values in found.items()}
