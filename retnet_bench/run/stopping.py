"""When the blocks of a pair end: the interval is narrow enough, or the budget is spent.

The rule looks at the interval's width and never at where it lies: stopping because a difference
"is there" would find differences that are not (optional stopping).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from retnet_bench.analysis.statistics import estimates
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.statistics.resampling import TimedBlock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.results.schema import PARTS
from retnet_bench.workloads import Sample

Blocks = Sequence[Sequence[TimedBlock]]
"""For each of the interleaved cells, its blocks so far."""


@dataclass(frozen=True)
class Stop:
    """Why the blocks ended, how wide the interval then was, and what they took."""

    reason: str
    half_width: float
    """Of the 95 % interval, relative: 0.02 is plus or minus 2 %. nan when there is none."""
    spent_s: float


Rule = Callable[[int, float, Blocks], Stop | None]
"""(rounds done, seconds spent in blocks, blocks of all processes so far) -> whether to stop."""


def by_protocol(protocol: Protocol) -> Rule:
    """The usual rule. A round is one block of each cell; only even rounds end a comparison, for
    then every A B has its B A."""

    def rule(rounds: int, spent_s: float, blocks: Blocks) -> Stop | None:
        last = rounds >= protocol.most_blocks
        if not last and rounds % 2:
            return None
        half_width = relative_half_width(blocks)
        reason = _reason(protocol, rounds, spent_s, half_width, last)
        return None if reason is None else Stop(reason, half_width, spent_s)

    return rule


def in_round(protocol: Protocol, budget_s: float, last_word: bool) -> Rule:
    """The rule for one of several processes that share a budget: this one may spend `budget_s`.
    Without `last_word` its interval, however narrow, does not end it."""
    usual = by_protocol(replace(protocol, budget_s=budget_s))

    def spend(rounds: int, spent_s: float, blocks: Blocks) -> Stop | None:
        if spent_s < budget_s or rounds % 2:
            return None
        return usual(rounds, spent_s, blocks)

    return usual if last_word else spend


def _reason(
    protocol: Protocol, rounds: int, spent_s: float, half_width: float, last: bool
) -> str | None:
    wanted = protocol.precision
    if wanted is not None and rounds >= protocol.blocks and half_width <= wanted:
        return f"interval within {wanted:.3g} after {rounds} blocks"
    if last:
        return f"all {rounds} blocks done"
    if spent_s >= protocol.budget_s:
        return f"budget_s = {protocol.budget_s:g} spent after {rounds} blocks"
    return None


def relative_half_width(blocks: Blocks) -> float:
    """Half the 95 % interval of the log-ratio of the first two cells; of the only one's level."""
    first, *others = [cell_run for cell_run in blocks if cell_run]
    interval = estimates.log_ratio(first, others[0]) if others else estimates.center(first)
    return _half(interval)


def _half(interval: Interval) -> float:
    if not (interval.low > 0 and interval.high > 0):
        return math.nan
    return float(np.log(interval.high) - np.log(interval.low)) / 2


def block_value(samples: Sequence[Sample]) -> float | None:
    """One number for a block: the mean over positions of its samples' medians, in seconds. Parts of
    what is timed do not count."""
    timed = (s for s in samples if s.unit == "s" and s.metric not in PARTS)
    medians = [np.median(s.values) for s in timed if s.values]
    return float(np.mean(medians)) if medians else None
