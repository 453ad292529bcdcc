"""Quantiles of single samples, such as the slowest hundredth of requests, with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    resamples,
)

BEYOND = 5
"""Samples that must lie beyond a quantile, by expectation, for it to have an interval: fewer are so
few of the largest values that resampling them says nothing of larger ones."""
_AT_ONCE = 4_000_000
"""Most counts of samples in resamples that are held at once."""


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
    drawn = np.concatenate(list(resampled(samples, processes, q, n_resamples, seed)))
    factor = small_sample_factor(len(blocks))
    found = exponential(percentiles(float(np.log(estimate)), np.log(drawn), n, factor))
    # The logarithm and back may lose the last digit.
    return Interval(estimate, min(found.low, estimate), max(found.high, estimate), n)


def resampled(
    samples: Sequence[np.ndarray], processes: np.ndarray, q: float, n_resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """The q-quantile of all samples of each resample of blocks, some resamples at a time.

    What `np.quantile` gives of the drawn blocks' samples, but nothing is sorted again: a sample
    stands in a resample as often as its block was drawn.
    """
    values = np.concatenate(samples)
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], np.repeat(np.arange(len(samples)), [*map(len, samples)])[order]
    for rows in resamples(processes, n_resamples, seed):
        for part in np.array_split(rows, -(-len(rows) * len(values) // _AT_ONCE)):
            times = (part[:, :, None] == np.arange(len(samples))).sum(axis=1)  # (some, blocks)
            up_to = np.cumsum(times[:, owner], axis=1)  # drawn samples that are no larger
            at = q * (up_to[:, -1] - 1)
            low, high = (
                ordered[(up_to > rank[:, None]).argmax(axis=1)]
                for rank in (np.floor(at), np.ceil(at))
            )
            yield low + (at - np.floor(at)) * (high - low)


def needed(q: float) -> int:
    """Samples from which the quantile is known at all."""
    return int(np.ceil(1 / min(q, 1 - q) - 1e-9))
