"""Estimates with their intervals, and the factors that widen those of few blocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from retnet_bench.analysis.statistics.resampling import resampled_medians

LEVEL = 0.975

_Z = 1.959964
"""The normal's quantile at LEVEL, to the digits by which the figures in results/ were drawn: all of
them would shift their last decimals."""

FEWEST = 4
"""Blocks below which there is no interval; see above."""


class Interval(NamedTuple):
    """An estimate with the ends of its 95 % interval and the number of blocks behind it."""

    estimate: float
    low: float
    high: float
    n: int


UNKNOWN = Interval(np.nan, np.nan, np.nan, 0)
"""Of nothing measured, or nothing that can be compared."""


def why_no_interval(n: int, of: str = "block") -> str:
    """What is said of a value of n blocks (or documents) that has no interval."""
    return f"no interval from {n} {of}{'s' if n != 1 else ''}, needs {FEWEST}"


def t_quantile(level: float, df: float) -> float:
    """Quantile of Student's t."""
    return float(special.stdtrit(df, level))


def z_quantile(level: float) -> float:
    """Quantile of the normal."""
    return float(special.ndtri(level))


def small_sample_factor(n: int) -> float:
    """How much longer than the plain bootstrap's an interval from n blocks is; it falls with n.

    nan for fewer than FEWEST, and so are the ends of whatever is lengthened by it.
    """
    return float(np.sqrt(n / (n - 1)) * student_factor(n - 1)) if n >= FEWEST else np.nan


def student_factor(df: float) -> float:
    """Student's 97.5 % quantile over the normal's."""
    return t_quantile(LEVEL, df) / _Z


def median_small_sample_factor(processes: np.ndarray, values: np.ndarray) -> float:
    """`small_sample_factor` for the median of one value per block, with the differences of its
    processes in it.

    Where processes differ by more than their blocks explain, the degrees of freedom are nearer to
    the number of processes (Satterthwaite 1946) and the bootstrap of few processes is too narrow;
    where they do not, drawing them doubles the scatter that the blocks already have.
    """
    n, n_processes = len(values), len(np.unique(processes))
    if n_processes in (1, n) or n < FEWEST:
        return small_sample_factor(n)
    between, within = _components(processes, np.clip(values, *np.quantile(values, [0.1, 0.9])))
    if between + within == 0:
        return small_sample_factor(n)
    m = n / n_processes
    true = between / n_processes + within / n
    drawn = (1 - 1 / n_processes) * (between + within / m) / n_processes
    drawn += (1 - 1 / m) * within / n
    shared, rest = between / n_processes, within / n
    apart = shared**2 / (n_processes - 1) + rest**2 / (n - n_processes)
    df = (shared + rest) ** 2 / apart if between > 0 else n - 1
    return float(np.sqrt(true / drawn) * student_factor(df) * _few_in_processes(n))


def _few_in_processes(n: int) -> float:
    """Medians of up to ten blocks in several processes are so coarse a lattice that the formula's
    intervals cover 96 to 98 %; this fades out until 20."""
    return float(np.interp(n, [10, 20], [0.95, 1.0]))


def _components(processes: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Variances between processes and between the blocks of one, by the analysis of variance."""
    _, slot, counts = np.unique(processes, return_inverse=True, return_counts=True)
    means = np.bincount(slot, values) / counts
    within = ((values - means[slot]) ** 2).sum() / (len(values) - len(counts))
    between = means.var(ddof=1) - within * np.mean(1 / counts)
    return max(float(between), 0.0), float(within)


def interval_of(
    processes: np.ndarray,
    values: np.ndarray,
    n_resamples: int,
    seed: int,
    estimate: float | None = None,
) -> Interval:
    """The median of one value per block (or the `estimate` given), with its interval."""
    if values.size == 0:
        return UNKNOWN
    middle = float(np.median(values)) if estimate is None else float(estimate)
    if len(values) < FEWEST:
        return Interval(middle, np.nan, np.nan, len(values))
    drawn = resampled_medians(processes, values, n_resamples, seed)
    return percentiles(middle, drawn, len(values), median_small_sample_factor(processes, values))


def percentiles(estimate: float, drawn: np.ndarray, n: int, factor: float = 1.0) -> Interval:
    """The 2.5 and 97.5 % percentiles of `drawn`, moved away from the estimate by `factor`."""
    if n < 2:
        return Interval(estimate, np.nan, np.nan, n)
    low, high = np.percentile(drawn, [2.5, 97.5])
    above, below = max(high - estimate, 0.0), max(estimate - low, 0.0)
    return Interval(estimate, float(estimate - factor * below), float(estimate + factor * above), n)


def exponential(interval: Interval) -> Interval:
    """The interval of exp(value)."""
    estimate, low, high = (float(np.exp(part)) for part in interval[:3])
    return Interval(estimate, low, high, interval.n)
