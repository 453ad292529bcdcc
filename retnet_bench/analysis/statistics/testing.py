"""From an interval to a decision: p-values, false discovery, detectable differences."""

from __future__ import annotations

import sys
from bisect import bisect_left

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from retnet_bench.analysis.statistics.intervals import (
    FEWEST,
    LEVEL,
    Interval,
    small_sample_factor,
    t_quantile,
)


def p_at_most(ratio: Interval, bound: float) -> float:
    """One-sided p-value of "the true ratio is at most `bound`": small when it is surely above.

    Student's t with n - 1 degrees of freedom and the standard error that the interval implies, so
    that p < 0.025 only where the interval lies above the bound. Without an interval nothing is
    known: nan, which is never below any threshold.
    """
    if np.isnan(ratio.low):
        return float("nan")
    distance = np.log(ratio.estimate / bound)
    error = standard_error(ratio)
    if error == 0:
        return float(distance <= 0)
    return float(special.stdtr(ratio.n - 1, -distance / error))


def standard_error(ratio: Interval) -> float:
    """Of the logarithm of a ratio, from the longer half of its 95 % interval: of few blocks either
    half may be short by luck."""
    return half_width(ratio) / t_quantile(LEVEL, ratio.n - 1)


def half_width(ratio: Interval) -> float:
    """The longer half of a ratio's interval, on the logarithmic scale."""
    return float(max(np.log(ratio.high / ratio.estimate), np.log(ratio.estimate / ratio.low)))


def benjamini_hochberg(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted so that those below q have a false discovery rate of at most q.

    Benjamini and Hochberg 1995. A nan stays nan and does not count as a test.
    """
    from scipy.stats import false_discovery_control  # half a second that only the gate spends

    adjusted = np.array(p_values, dtype=float)
    known = ~np.isnan(adjusted)
    adjusted[known] = false_discovery_control(adjusted[known])
    return adjusted


def minimum_detectable(ratio: Interval, tau: float, alpha: float, power: float = 0.95) -> float:
    """The slow-down (0.05 is 5 %) that a test of "at most 1 + tau" at level `alpha` finds with
    probability `power`, at the number and the scatter of the blocks behind `ratio`."""
    if np.isnan(ratio.low):
        return float("nan")
    steps = t_quantile(1 - alpha, ratio.n - 1) + t_quantile(power, ratio.n - 1)
    return float((1 + tau) * np.exp(steps * standard_error(ratio)) - 1)


def blocks_needed(ratio: Interval, wanted: float) -> int | None:
    """How many blocks like those behind `ratio` would make its half-width (log) at most `wanted`.

    The half-width falls as small_sample_factor(n) / sqrt(n). None when there is no interval to
    start from.
    """
    if np.isnan(ratio.low) or ratio.n < FEWEST or not wanted > 0:
        return None
    unit = half_width(ratio) * np.sqrt(ratio.n) / small_sample_factor(ratio.n)

    def enough(n: int) -> bool:
        return bool(unit * small_sample_factor(n) / np.sqrt(n) <= wanted)

    return FEWEST + bisect_left(range(FEWEST, sys.maxsize), True, key=enough)
