"""Rows that stand twice: in a part that was copied beside itself, or with its whole folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from retnet_bench.base import printable, short_hash, warn_once
from retnet_bench.results.content import DOCUMENTS
from retnet_bench.results.coordinates import COORDINATES

PLACE = ["run_id", "cell_id", "metric", *COORDINATES, "process", "block"]
"""What one row alone has: a cell's run takes one value of a metric in a block, at a position."""


def counted(records: pd.DataFrame, part: np.ndarray, paths: Sequence[Path]) -> np.ndarray:
    """Which rows count, (rows,) bool: one that equals an earlier row does not.

    `part` (rows,) is the index in `paths` of the part each row stands in. A line on stderr reports
    how many rows are left out, and names two of the files.
    """
    first = _first_row(records)
    copy = first < np.arange(len(records))
    if copy.any():
        one, other = (
            printable(paths[part[rows[copy][0]]]) for rows in (first, np.arange(len(part)))
        )
        places = f"in two parts, such as {one} and {other}" if one != other else f"twice in {one}"
        warn_once(f"{copy.sum():,} rows stand {places}: each counts once")
    return ~copy


def _first_row(records: pd.DataFrame) -> np.ndarray:
    """For each row the first one that equals it, but for the name of the run: two runs take no row
    in the same microsecond."""
    numbers = np.arange(len(records))
    place = [name for name in PLACE if name != "run_id"]
    if not records.duplicated([*place, "recorded_at"]).any():  # as written, and much quicker
        return numbers
    return pd.Series(numbers).groupby(_fingerprints(records)).transform("min").to_numpy()


def _fingerprints(records: pd.DataFrame) -> np.ndarray:
    """A 64-bit hash of each whole row but its run and the layout it was written in, samples
    included."""
    samples = [None if values is None else values.tobytes() for values in records["samples"]]
    kept = records.drop(columns=["run_id", "schema_version"])
    kept = kept.assign(**{name: _digests(kept[name]) for name in DOCUMENTS})
    flat = kept.assign(samples=pd.Series(samples, index=records.index, dtype=object))
    return pd.util.hash_pandas_object(flat, index=False).to_numpy()


def _digests(documents: pd.Series) -> pd.Series:
    """A short hash of each text; equal ones, which are one object, are hashed once."""
    texts = documents.to_list()
    once = {id(text): text for text in texts}
    found = {key: short_hash(t) if isinstance(t, str) else None for key, t in once.items()}
    return pd.Series([found[id(text)] for text in texts], index=documents.index, dtype=object)
