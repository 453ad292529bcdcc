"""Interleaved timing for the bench: blocks A B B A, ratios from neighbouring blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from rich.table import Table

from retnet_bench.analysis.statistics.estimates import center, log_ratio
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.statistics.resampling import TimedBlock
from retnet_bench.measure.clock import WallClock
from retnet_bench.measure.protocol import (
    Protocol,
    palindromic,
    run_block,
    samples_per_block,
    warm_up,
)

CLOCK = WallClock("cpu")
Steps = Mapping[str, Callable[[], object]]
Times = dict[str, list[TimedBlock]]
"""Seconds of each step: samples of every block, by name."""


def interleaved(steps: Steps, protocol: Protocol) -> Times:
    """Warm each step up, then time `protocol.blocks` blocks of each, in palindromic order."""
    samples = {
        name: samples_per_block(protocol, warm_up(CLOCK, step, protocol).step_s)
        for name, step in steps.items()
    }
    times: Times = {name: [] for name in steps}
    for name in palindromic(list(steps), protocol.blocks):
        times[name].append(TimedBlock(0, np.array(run_block(CLOCK, steps[name], samples[name]))))
    return times


def fastest(times: Times, work: Mapping[str, float]) -> str:
    """The name that does most of its `work` a second."""
    return max(work, key=lambda name: work[name] / center(times[name]).estimate)


def text(interval: Interval, scale: float = 1.0, digits: int = 2) -> str:
    """`estimate [low, high]`; without an interval (too few blocks) it says so."""
    value, low, high = (
        f"{end * scale:.{digits}f}" for end in (interval.estimate, interval.low, interval.high)
    )
    return f"{value} (no interval)" if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def milliseconds(blocks: list[TimedBlock]) -> str:
    return text(center(blocks), 1e3)


def speed_ratio(times: Times, ours: str, other: str) -> str:
    """How many times as fast `ours` is as `other`."""
    return text(log_ratio(times[other], times[ours]))


def rate(work: float, times: Times, name: str) -> str:
    """Billions of `work` a second."""
    return f"{work / center(times[name]).estimate / 1e9:.1f}"


def table(title: str, columns: str, rows: Iterable[Sequence[str]]) -> Table:
    """`columns` are separated by bars."""
    shown = Table(title=title, title_justify="left")
    for i, column in enumerate(columns.split("|")):
        shown.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    return shown
