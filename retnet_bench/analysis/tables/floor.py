"""The noise floor: how far apart two equal things come out on this machine.

A self-test runs a study's plan against itself. Its records lie in `<results>/selftest/records`, in
the same schema, with arms in twos that are equal but for the name: `X` and `X~again`, interleaved
and in one pair. Whatever ratio they show is noise, differences between processes included, which
no interval from one process can see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import intervals
from retnet_bench.analysis.tables import rows
from retnet_bench.results.schema import TIMES
from retnet_bench.results.store import read_records

TWIN_SUFFIX = "~again"
FOLDER = "selftest"


@dataclass(frozen=True)
class Floor:
    """A workload's noise floor: `value` is relative (0.02 is 2 %), null with a `reason`."""

    value: float | None
    n: int
    """A/A ratios behind it."""
    reason: str | None = None


Floors = Mapping[str, Floor]
"""By metric."""


def read_floors(results: Path, fingerprints: set[str] | None = None) -> Floors:
    """The floors of the self-test beside `results` (a study's folder).

    Of another machine than one of `fingerprints`, or without a self-test: unknown, and why.
    """
    folder = Path(results) / FOLDER
    if not (folder / "records").is_dir() or not any((folder / "records").glob("*.parquet")):
        return unknown(f"no self-test in {folder}")
    records = read_records(folder)
    if fingerprints is not None:
        records = records[records["fingerprint"].isin(fingerprints)]
        if records.empty:
            return unknown(f"the self-test in {folder} was made on another machine")
    return floors(records)


def read_all_floors(results: Sequence[Path], fingerprints: set[str]) -> Floors:
    """The floors of several results folders together: of each metric the largest that is known."""
    found = [read_floors(folder, fingerprints) for folder in results]
    return {
        metric: max((floors[metric] for floors in found), key=lambda floor: floor.value or -1.0)
        for metric in TIMES.values()
    }


def unknown(reason: str) -> Floors:
    return {metric: Floor(None, 0, reason) for metric in TIMES.values()}


def floors(records: pd.DataFrame) -> Floors:
    """A floor per timed metric of a self-test's records.

    It is the 95 % prediction bound for the next log-ratio of two equal things: t(0.975, k) times
    the root mean square of the k A/A log-ratios about 0, which is what they are known to be about.
    """
    return {metric: _floor(log_ratios(records, metric)) for metric in TIMES.values()}


def _floor(found: np.ndarray) -> Floor:
    if len(found) < 2:
        return Floor(None, len(found), f"the self-test has {len(found)} A/A ratios, needs 2")
    bound = intervals.t_quantile(0.975, len(found)) * np.sqrt(np.mean(found**2))
    return Floor(float(np.expm1(bound)), len(found))


def log_ratios(records: pd.DataFrame, metric: str) -> np.ndarray:
    """One log-ratio per cell and its twin, over the blocks that both have."""
    return np.array(list(_log_ratios(records, metric)))


def _log_ratios(records: pd.DataFrame, metric: str) -> Iterator[float]:
    values = rows.per_block(records, metric)
    twin = values["arm"].str.endswith(TWIN_SUFFIX)
    again = values[twin].assign(arm=values.loc[twin, "arm"].str.removesuffix(TWIN_SUFFIX))
    keys = ["pair_id", "arm", *rows.BLOCK_KEYS]
    both = values[~twin].merge(again[[*keys, "median"]], on=keys, suffixes=("", "_b"))
    for _, cell in both.groupby(["pair_id", "arm"]):
        yield float(np.median(np.log(cell["median"]) - np.log(cell["median_b"])))
