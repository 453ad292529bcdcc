"""Rows that stand in two parts: a part that was copied beside itself, or with its whole folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from retnet_bench.base import printable

_CELL = ["run_id", "cell_id"]


def counted(records: pd.DataFrame, part: np.ndarray, paths: Sequence[Path]) -> np.ndarray:
    """Which rows count, (rows,) bool: one that equals a row of an earlier part does not.

    `part` (rows,) is the index in `paths` of the part each row stands in. A line on stderr tells
    how many rows are left out, and names two of the files.
    """
    first = _first_part(records, part)
    copy = first < part
    if copy.any():
        one, other = (printable(paths[index[copy][0]]) for index in (first, part))
        _say(f"{copy.sum():,} rows stand in two parts, such as {one} and {other}: each counts once")
    return ~copy


def _first_part(records: pd.DataFrame, part: np.ndarray) -> np.ndarray:
    """For each row the first part that has an equal one."""
    if len(np.unique(part)) < 2:
        return part
    cells = records[_CELL].assign(part=part).drop_duplicates()
    if not cells.duplicated(_CELL).any():  # as written: what a run has of a cell is one part
        return part
    return pd.Series(part).groupby(_fingerprints(records)).transform("min").to_numpy()


def _fingerprints(records: pd.DataFrame) -> np.ndarray:
    """A 64-bit hash of each whole row, samples included."""
    samples = [None if values is None else values.tobytes() for values in records["samples"]]
    flat = records.assign(samples=pd.Series(samples, index=records.index, dtype=object))
    return pd.util.hash_pandas_object(flat, index=False).to_numpy()


@cache
def _say(words: str) -> None:
    """Once, however often the records are read."""
    logging.getLogger("retnet_bench").warning(words)
