"""How the gate decides on a ratio: no tables here, so that simulation can put it to proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retnet_bench.analysis.statistics import intervals, testing
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables.floor import Floor
from retnet_bench.base import UserError

PASS, REGRESSION, IMPROVEMENT = "pass", "regression", "improvement"
INCONCLUSIVE, NOT_COMPARABLE = "inconclusive", "not comparable"
VERDICTS = (REGRESSION, INCONCLUSIVE, NOT_COMPARABLE, IMPROVEMENT, PASS)
"""Worst first."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the gate asks for."""

    limit: float = 0.05
    """The slow-down that must not be missed; relative."""
    least_floor: float = 0.01
    """Noise floor where no self-test says a larger one."""
    apart_floor: float = 0.02
    """The same for two sets of records that were not interleaved: what a machine does between two
    sessions is not in their blocks."""
    q: float = 0.01
    """False-alarm rate per study: level of the adjusted p-values."""
    power: float = 0.95
    """Probability with which `blocks` would find the limit."""
    exact_only: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise UserError(f"--limit is {self.limit:g}, must be between 0 and 1: 0.05 is 5 %")


@dataclass(frozen=True)
class Bounds:
    """Differences up to `tau` are noise, those from `limit` on must not be missed."""

    tau: float
    limit: float
    remark: str = ""


@dataclass(frozen=True)
class Decision:
    """What became of one ratio. `blocks` would settle it; null unless it is inconclusive."""

    verdict: str
    p: float
    p_adjusted: float
    detectable: float
    blocks: int | None = None


def bounds(floor: Floor | None, paired: bool, policy: Policy) -> Bounds:
    """The thresholds of one comparison, and words where they are not what was asked for."""
    least = policy.least_floor if paired else policy.apart_floor
    known = floor.value if floor else None
    tau = max(least, known or 0.0)
    reasons = [] if paired else [f"not interleaved: differences up to {tau:.1%} are noise"]
    if paired and known is None:
        reasons.append(f"noise floor unknown ({floor.reason if floor else 'no self-test'})")
    if policy.limit > tau:
        return Bounds(tau, policy.limit, "; ".join(reasons))
    reasons.append(f"limit {policy.limit:.1%} is within the noise: {2 * tau:.1%} is used")
    return Bounds(tau, 2 * tau, "; ".join(reasons))


def decide(ratios: Sequence[Interval], within: Sequence[Bounds], policy: Policy) -> list[Decision]:
    """A decision for each ratio candidate / baseline of one study.

    pass: the interval ends below 1 + limit (improvement: below 1 - tau). regression: "the ratio is
    at most 1 + tau" is rejected at `q` over all cells (Benjamini-Hochberg), and it is no pass.
    Else inconclusive, and so is a ratio without an interval.
    """
    p = [testing.p_at_most(r, 1 + b.tau) for r, b in zip(ratios, within, strict=True)]
    adjusted = testing.benjamini_hochberg(p)
    level = policy.q / max(len(ratios), 1)
    return [
        _decision(*each, level, policy) for each in zip(ratios, within, p, adjusted, strict=True)
    ]


def _decision(
    ratio: Interval, within: Bounds, p: float, adjusted: float, level: float, policy: Policy
) -> Decision:
    verdict = _verdict(ratio, within, adjusted, policy)
    detectable = testing.minimum_detectable(ratio, within.tau, level, policy.power)
    blocks = blocks_to_settle(ratio, within, level, policy) if verdict == INCONCLUSIVE else None
    return Decision(verdict, p, float(adjusted), detectable, blocks)


def _verdict(ratio: Interval, within: Bounds, adjusted: float, policy: Policy) -> str:
    if ratio.high < 1 + within.limit:
        return IMPROVEMENT if ratio.high < 1 - within.tau else PASS
    return REGRESSION if adjusted < policy.q else INCONCLUSIVE


def half_width_wanted(floor: Floor | None, n_cells: int, policy: Policy) -> float:
    """Half-width of the 95 % interval of the log-ratio at which a comparison of `n_cells`
    interleaved cells is conclusive: a slow-down of the limit is then found with the power."""
    return _half_width(bounds(floor, True, policy), policy.q / max(n_cells, 1), policy)


def _half_width(within: Bounds, level: float, policy: Policy) -> float:
    """Between tau and the limit must lie the test's quantile and the power's (of the normal, as
    there are then many blocks): with one cell about twice the half-width, with many more."""
    steps = -intervals.z_quantile(level) + intervals.z_quantile(policy.power)
    room = float(np.log1p(within.limit) - np.log1p(within.tau))
    return intervals.z_quantile(intervals.LEVEL) * room / steps


def blocks_to_settle(ratio: Interval, within: Bounds, level: float, policy: Policy) -> int | None:
    """Blocks at which a slow-down of the limit would be found with the policy's power."""
    return testing.blocks_needed(ratio, _half_width(within, level, policy))
