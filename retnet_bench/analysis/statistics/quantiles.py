"""Quantiles of single samples, such as the slowest hundredth of requests, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retnet_bench.analysis.statistics.intervals import (
    FEWEST,
    UNKNOWN,
    Interval,
    exponential,
    percentiles,
    small_sample_factor,
)
from retnet_bench.analysis.statistics.resampling import (
    N_RESAMPLES,
    SEED,
    TimedBlock,
    process_ids,
    resample,
)

BEYOND = 5
"""Samples that must lie beyond a quantile, by expectation, for it to have an interval: fewer are so
few of the largest values that resampling them says nothing of larger ones."""


def quantile(
    blocks: Sequence[TimedBlock], q: float, n_resamples: int = N_RESAMPLES, seed: int = SEED
) -> Interval:
    """The q-quantile of all samples together; `n` counts samples.

    nan where not one sample lies beyond it by expectation. The interval is of the hierarchical
    bootstrap of whole blocks, widened for few of them as a median's is, on the logarithmic scale;
    none with fewer than FEWEST blocks or BEYOND samples beyond.
    """
    samples = [np.asarray(block.samples, dtype=float) for block in blocks]
    n = sum(map(len, samples))
    share = min(q, 1 - q)
    if n * share < 1 - 1e-9:
        return UNKNOWN._replace(n=n)
    estimate = float(np.quantile(np.concatenate(samples), q))
    if len(blocks) < FEWEST or n * share < BEYOND - 1e-9 or estimate <= 0:
        return Interval(estimate, np.nan, np.nan, n)
    processes = process_ids([block.process for block in blocks], len(blocks))
    drawn = [
        np.quantile(np.concatenate([samples[int(i)] for i in row]), q)
        for row in resample(processes, n_resamples, seed)
    ]
    factor = small_sample_factor(len(blocks))
    found = exponential(percentiles(float(np.log(estimate)), np.log(drawn), n, factor))
    # The logarithm and back may lose the last digit.
    return Interval(estimate, min(found.low, estimate), max(found.high, estimate), n)


def needed(q: float) -> int:
    """Samples from which the quantile is known at all."""
    return int(np.ceil(1 / min(q, 1 - q) - 1e-9))
