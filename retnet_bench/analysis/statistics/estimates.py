"""Level, ratio, slope and exponent of blocks, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from retnet_bench.analysis.statistics.intervals import (
    LEVEL,
    Interval,
    exponential,
    interval_of,
    t_quantile,
)
from retnet_bench.analysis.statistics.resampling import (
    N_RESAMPLES,
    SEED,
    TimedBlock,
    medians_of,
    process_ids,
)


def center(
    blocks: Sequence[TimedBlock], n_resamples: int = N_RESAMPLES, seed: int = SEED
) -> Interval:
    """The median over blocks of block medians. Of no blocks at all: nan.

    Between positive values the interval is built on the logarithmic scale, so that it stays
    positive.
    """
    processes, medians = medians_of(blocks)
    positive = medians.size > 0 and bool((medians > 0).all())
    if not positive:
        return interval_of(processes, medians, n_resamples, seed)
    estimate = float(np.median(medians))
    interval = interval_of(processes, np.log(medians), n_resamples, seed, np.log(estimate))
    return exponential(interval)._replace(estimate=estimate)


def log_ratio(
    a_blocks: Sequence[TimedBlock],
    b_blocks: Sequence[TimedBlock],
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """The ratio a / b of paired blocks: exp of the median per-block log-ratio.

    Block i of `a` belongs to block i of `b` (neighbours in the interleaved order), so that drift
    cancels inside a pair. Raises ValueError when the lists differ in length.
    """
    if len(a_blocks) != len(b_blocks):
        raise ValueError(f"{len(a_blocks)} blocks cannot be paired with {len(b_blocks)}")
    processes, a = medians_of(a_blocks)
    _, b = medians_of(b_blocks)
    return exponential(interval_of(processes, np.log(a) - np.log(b), n_resamples, seed))


def slope(
    x: ArrayLike,
    blocks_y: ArrayLike,
    processes: ArrayLike | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """The median over blocks of each block's Theil-Sen slope of y (n_blocks, P) over x (P,).

    Theil-Sen (the median slope over all pairs of points) and not least squares, because one
    disturbed position at an end of the curve would tilt a least-squares line; on quiet curves the
    two agree. All blocks at once, where scipy.stats.theilslopes takes a curve and a millisecond
    each. `processes` names the process of each block; without it all are of one.
    """
    places, y = np.asarray(x, dtype=float), np.atleast_2d(np.asarray(blocks_y, dtype=float))
    first, second = np.triu_indices(len(places), k=1)
    slopes = (y[:, second] - y[:, first]) / (places[second] - places[first])
    return interval_of(process_ids(processes, len(y)), np.median(slopes, axis=1), n_resamples, seed)


def exponent(
    x: ArrayLike,
    blocks_y: ArrayLike,
    processes: ArrayLike | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """The p of y = c x^p: `slope` of log y (n_blocks, P) over log x (P,); both positive."""
    costs = np.atleast_2d(np.asarray(blocks_y, dtype=float))
    assert (costs > 0).all(), "costs must be positive numbers"
    places = np.log(np.asarray(x, dtype=float))
    return slope(places, np.log(costs), processes, n_resamples, seed)


def unpaired_ratio(
    a_blocks: Sequence[TimedBlock],
    b_blocks: Sequence[TimedBlock],
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """The ratio a / b of two sets of blocks taken apart, each side resampled by itself.

    The two sides' standard errors, which their own intervals imply, are joined in quadrature, each
    end from the halves that face it (Zou and Donner 2008), with Welch's degrees of freedom: sides
    with unequal numbers of blocks are no special case. `n` is the smaller number.
    """
    a, b = (center(side, n_resamples, seed) for side in (a_blocks, b_blocks))
    estimate = np.log(a.estimate) - np.log(b.estimate)
    if np.isnan([a.low, b.low]).any():
        return exponential(Interval(estimate, np.nan, np.nan, min(a.n, b.n)))
    below = _joined(np.log(a.estimate / a.low), a.n, np.log(b.high / b.estimate), b.n)
    above = _joined(np.log(a.high / a.estimate), a.n, np.log(b.estimate / b.low), b.n)
    return exponential(Interval(estimate, estimate - below, estimate + above, min(a.n, b.n)))


def _joined(a: float, n_a: int, b: float, n_b: int) -> float:
    """Half-width of the difference of two estimates with half-widths a and b."""
    variances = [(half / t_quantile(LEVEL, n - 1)) ** 2 for half, n in ((a, n_a), (b, n_b))]
    total = sum(variances)
    if total == 0:
        return 0.0
    df = total**2 / (variances[0] ** 2 / (n_a - 1) + variances[1] ** 2 / (n_b - 1))
    return float(t_quantile(LEVEL, df) * np.sqrt(total))
