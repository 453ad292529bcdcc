"""Records of many runs as trends: a line per cell, metric and machine, and where its level steps.

A step is a change point of the log values (PELT with a squared cost, Killick et al. 2012) that
two runs or more show, so a lone outlier is none. The penalty is in units of the line's own noise
variance, which is the larger of what the intervals say (noise inside a run) and what the
differences of neighbours say (noise between runs; robust, a step is one difference among many).
Before the search each value is drawn in to two deviations of its neighbours' median, because real
noise has heavy tails and a squared cost takes them for levels.

Simulated with the noise estimated from the series itself, on seeds other than those by which the
penalty was chosen (9 to 25 were tried, without and with drawing in; this is the least that stayed
under 5 %): of 1000 series of A/A runs 2.1 % have a false step at 30 runs, 2.4 % at 12 and 3.6 % at
6; with t3 noise 1.3, 2.3 and 1.9 %. A step of 10 % at a noise of 2 % in the middle of the series
is found within one run in 100, 95 and 56 % of 300, one in the last two runs in 92, 76 and 52 %.

Intervals wider than the noise between runs cost power: where they say 5 %, the same step is found
in 100 % at 30 runs, but in 5 % at 12 and never at 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import estimates, replication
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import rows
from retnet_bench.base import UserError
from retnet_bench.results.schema import EXACT, TIMES
from retnet_bench.results.store import read_runs, without_retried

SAMPLED = ("peak_rss_bytes", "cuda_peak_allocated_bytes")
PERPLEXITY = "perplexity_per_byte"

PENALTY = 16.0
"""Noise variances that a change point must gain; see the simulation above."""
FEWEST = 4
"""Runs below which noise and step cannot be told apart."""

_LINE = ["workload", "metric", "phase", "cell_id", "fingerprint"]
_ABOUT = ["arm", "size", "batch", "length", "dtype", "mode", "machine", "cell_json"]


@dataclass(frozen=True)
class Run:
    """The records of one revision in one results folder."""

    label: str
    """The revision's first 7 digits, with + for a changed checkout."""
    records: pd.DataFrame


@dataclass(frozen=True)
class Step:
    """A level that begins at a run: `ratio` is the new level over the one before."""

    run: int
    label: str
    ratio: float


@dataclass(frozen=True)
class Line:
    """One cell's metric on one machine: `points` has run (index), estimate, low, high, n."""

    about: dict[str, object]
    points: pd.DataFrame
    noise: float
    """Standard deviation of the log values from run to run; 0 for what is counted exactly."""
    steps: tuple[Step, ...]


def read(paths: Sequence[Path]) -> list[Run]:
    """The runs under `paths`, results folders or folders of such, by their first record's time.

    Raises UserError when a path holds no records, or all of them hold fewer than two runs.
    """
    folders = [folder for path in paths for folder in _results(path)]
    runs = [run for records in read_runs(folders) for run in _runs(records)]
    runs = _joined(sorted(runs, key=lambda run: run.records["recorded_at"].min()))
    if len(runs) < 2:
        where = ", ".join(map(str, paths))
        raise UserError(
            f"a history needs two runs or more, {where} holds {len(runs)}: give the results "
            "folders of several runs, or a folder that holds them"
        )
    return runs


def _results(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"no results at {path}: no such file or folder")
    if path.is_file() or (path / "records").is_dir() or any(path.glob("*.parquet")):
        return [path]
    found = sorted(part.parent for part in path.glob("**/records") if part.is_dir())
    if not found:
        raise UserError(f"no records in {path}: give results folders, or a folder of such")
    return found


def _runs(records: pd.DataFrame) -> Iterator[Run]:
    keys = ["git_revision", "git_dirty"]
    for _, part in records.groupby(keys, dropna=False):
        revision, dirty = part["git_revision"].iloc[0], part["git_dirty"].iloc[0]
        short = revision[:7] if isinstance(revision, str) else "no revision"
        changed = not pd.isna(dirty) and bool(dirty)
        yield Run(short + ("+" if changed else ""), without_retried(part))


def _joined(runs: Sequence[Run]) -> list[Run]:
    """Neighbours of one revision that share no cell (such as two studies) are one run."""
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        cells = set(run.records["cell_id"])
        if last and last.label == run.label and cells.isdisjoint(last.records["cell_id"]):
            joined[-1] = Run(run.label, pd.concat([last.records, run.records]))
        else:
            joined.append(run)
    return joined


def lines(runs: Sequence[Run]) -> list[Line]:
    """The lines with two runs or more; UserError when there is none."""
    points = [row for index, run in enumerate(runs) for row in _points(index, run.records)]
    table = pd.DataFrame(points, columns=[*_LINE, *_ABOUT, "run", *Interval._fields])
    table = table[table["estimate"].notna()]
    labels = [run.label for run in runs]
    groups = [part.sort_values("run") for _, part in table.groupby(_LINE, dropna=False, sort=False)]
    found = [_line(part, labels) for part in groups if len(part) > 1]
    if not found:
        raise UserError(
            f"no cell was measured on one machine in two of these {len(runs)} runs "
            f"({', '.join(labels)}): give runs of the same study on the same machine"
        )
    return found


def _points(run: int, records: pd.DataFrame) -> Iterator[dict[str, object]]:
    for metric in (*TIMES.values(), *EXACT, *SAMPLED):
        values = rows.measured(records, metric)
        if metric == "decode_step_s":
            values = rows.over_positions(values)
        values = rows.at_last_position(values[values["value"] > 0])
        for _, cell in values.groupby(["cell_id", "phase", "fingerprint"], dropna=False):
            yield _point(run, metric, cell, estimates.center(rows.blocks(cell)))
    for _, cell in rows.documents(records).groupby(["cell_id", "fingerprint"], dropna=False):
        known = cell[cell["document_bytes"] > 0]
        found = replication.perplexity(known["value"], known["document_bytes"])
        yield _point(run, PERPLEXITY, cell, found)


def _point(run: int, metric: str, cell: pd.DataFrame, found: Interval) -> dict[str, object]:
    first = cell.iloc[0]
    known: dict[str, object] = {name: first[name] for name in [*_LINE, *_ABOUT]}
    return {**known, "metric": metric, "run": run, **found._asdict()}


def _line(part: pd.DataFrame, labels: Sequence[str]) -> Line:
    about = {name: part[name].iloc[0] for name in [*_LINE, *_ABOUT]}
    points = part[["run", *Interval._fields]].reset_index(drop=True)
    values = np.log(points["estimate"].to_numpy(dtype=float))
    exact = about["metric"] in EXACT
    noise = 0.0 if exact else _noise(values, _within(points))
    starts = np.flatnonzero(np.diff(values)) + 1 if exact else change_points(values, noise)
    ends = [0, *starts, len(values)]
    levels = [float(np.median(values[a:b])) for a, b in pairwise(ends)]
    places = [int(points["run"].iloc[at]) for at in starts]
    steps = tuple(
        Step(place, labels[place], float(np.exp(after - before)))
        for place, (before, after) in zip(places, pairwise(levels), strict=True)
    )
    return Line(about, points, noise, steps)


def _within(points: pd.DataFrame) -> float:
    """The noise that the intervals tell of: nan where no run has one."""
    widths = np.log(points["high"].clip(lower=1e-300)) - np.log(points["low"].clip(lower=1e-300))
    return float(widths.median() / (2 * 1.96))


def _noise(values: np.ndarray, within: float = np.nan) -> float:
    """Standard deviation from run to run: the larger of `within` and what neighbours differ by."""
    between = np.median(np.abs(np.diff(values))) / (0.6745 * np.sqrt(2))
    return float(np.nanmax([between, within]))


def change_points(values: np.ndarray, noise: float) -> list[int]:
    """Indices at which a new level of `values` (in log) begins; none in fewer than FEWEST."""
    if len(values) < FEWEST or not np.ptp(values):
        return []
    noise = max(noise, 1e-9)  # equal runs but for one step have no noise to speak of
    calm = _drawn_in(values, 2 * noise)
    import ruptures  # here alone: what only runs and plots needs no such package

    search = ruptures.Pelt(model="l2", min_size=2, jump=1).fit(calm[:, None])
    return [int(end) for end in search.predict(pen=PENALTY * noise**2)[:-1]]


def _drawn_in(values: np.ndarray, reach: float) -> np.ndarray:
    """Each value, moved to within `reach` of the median of the five around it."""
    middle = pd.Series(values).rolling(5, center=True, min_periods=1).median().to_numpy()
    return np.clip(values, middle - reach, middle + reach)
