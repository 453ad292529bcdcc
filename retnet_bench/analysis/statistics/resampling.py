"""Hierarchical bootstrap of blocks: processes are drawn, then blocks within each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

N_RESAMPLES = 2000

SEED = 0

_CHUNK = 2_000_000
"""Most values drawn at once, so that memory stays flat however much there is to resample."""

_MANY = 512
"""From so many blocks on, the median of a resample is drawn by its order statistics."""


class TimedBlock(NamedTuple):
    """The raw samples of one block, and which process they were taken in."""

    process: int
    samples: np.ndarray


def of_values(processes: Iterable[int], values: Iterable[float]) -> list[TimedBlock]:
    """Blocks of which one value each is known."""
    return [TimedBlock(int(p), np.array([v])) for p, v in zip(processes, values, strict=True)]


def medians_of(blocks: Sequence[TimedBlock]) -> tuple[np.ndarray, np.ndarray]:
    """Process and median of each block; blocks of one length are taken together."""
    processes = np.array([block.process for block in blocks], dtype=int)
    lengths = np.array([len(block.samples) for block in blocks], dtype=int)
    medians = np.empty(len(blocks))
    for length in np.unique(lengths):
        chosen = np.flatnonzero(lengths == length)
        medians[chosen] = np.median(np.array([blocks[int(i)].samples for i in chosen]), axis=1)
    return processes, medians


def process_ids(processes: ArrayLike | None, n: int) -> np.ndarray:
    ids = np.zeros(n, dtype=int) if processes is None else np.asarray(processes, dtype=int)
    assert len(ids) == n, "one process index per block"
    return ids


def resamples(processes: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Block indices (some, n), in all `n_resamples` rows: draw processes, then as many blocks
    inside each.

    Every process keeps its number of places; a process drawn for them fills them with its blocks.
    """
    random = np.random.default_rng(seed)
    _, slot, counts = np.unique(processes, return_inverse=True, return_counts=True)
    starts, by_process = np.cumsum(counts) - counts, np.argsort(slot, kind="stable")
    at_once = max(1, _CHUNK // max(len(processes), 1))
    for first in range(0, n_resamples, at_once):
        shape = (min(at_once, n_resamples - first), len(counts))
        if len(counts) == 1:
            yield random.integers(len(processes), size=(shape[0], len(processes)), dtype=np.int32)
            continue
        drawn = random.integers(len(counts), size=shape)[:, slot]
        within = (random.random(drawn.shape, dtype=np.float32) * counts[drawn]).astype(np.int32)
        within = np.minimum(within, counts[drawn] - 1)  # float32 can round up to the count itself
        yield by_process[starts[drawn] + within]


def resample(processes: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """All of `_resamples` in one table (n_resamples, n)."""
    chunks = list(resamples(processes, n_resamples, seed))
    return np.concatenate(chunks) if len(processes) else np.zeros((n_resamples, 0), dtype=int)


def resampled_medians(
    processes: np.ndarray, values: np.ndarray, n_resamples: int, seed: int
) -> np.ndarray:
    """The median of each resample."""
    if len(values) >= _MANY:
        return _order_medians(processes, values, n_resamples, seed)
    chunks = resamples(processes, n_resamples, seed)
    return np.concatenate([np.median(values[rows], axis=1) for rows in chunks])


def _order_medians(
    processes: np.ndarray, values: np.ndarray, n_resamples: int, seed: int
) -> np.ndarray:
    """Medians of `_resamples` without drawing these: of a process's places among some values, how
    many fall among the lower half of them is binomial, so a median is found by halving."""
    random, n = np.random.default_rng(seed), len(values)
    _, slot, counts = np.unique(processes, return_inverse=True, return_counts=True)
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], slot[order]
    below = np.zeros((len(counts), n + 1), dtype=np.int32)  # of each process, among the i smallest
    for process in range(len(counts)):
        np.cumsum(owner == process, out=below[process, 1:])
    drawn = random.integers(len(counts), size=(n_resamples, len(counts)))
    whole = _Part(
        low=np.zeros(n_resamples, dtype=int),
        high=np.full(n_resamples, n),
        places=np.broadcast_to(counts, drawn.shape),
    )
    found, above = _descend(random, below, drawn, whole, np.full(n_resamples, (n + 1) // 2))
    lower = ordered[found.low]
    if n % 2:
        return lower
    least, _ = _descend(random, below, drawn, above, np.ones(n_resamples, dtype=int))
    return (lower + ordered[least.low]) / 2


class _Part(NamedTuple):
    """Of each resample: a range of the sorted values, and the places that hold values of it."""

    low: np.ndarray
    high: np.ndarray
    places: np.ndarray  # (n_resamples, processes)

    def where(self, chosen: np.ndarray, other: _Part) -> _Part:
        """These where `chosen`, and `other` elsewhere."""
        return _Part(
            np.where(chosen, self.low, other.low),
            np.where(chosen, self.high, other.high),
            np.where(chosen[:, None], self.places, other.places),
        )


def _descend(
    random: np.random.Generator,
    below: np.ndarray,
    drawn: np.ndarray,
    part: _Part,
    rank: np.ndarray,
) -> tuple[_Part, _Part]:
    """The single value that holds the rank-th smallest place of `part` (from 1), and the part in
    which the next smallest is: the nearest one above that holds any, or the value itself where
    further places hold it."""
    above = part
    while (part.high - part.low > 1).any():
        middle = (part.low + part.high) // 2
        at_low, at_middle, at_high = (
            below[drawn, at[:, None]] for at in (part.low, middle, part.high)
        )
        share = (at_middle - at_low) / np.maximum(at_high - at_low, 1)
        left = random.binomial(part.places, share)
        lower = _Part(part.low, middle, left)
        upper = _Part(middle, part.high, part.places - left)
        total = left.sum(axis=1)
        in_lower = rank <= total
        nearer = in_lower & (upper.places.sum(axis=1) > 0)
        above = upper.where(nearer, above)
        rank = np.where(in_lower, rank, rank - total)
        part = lower.where(in_lower, upper)
    return part, part.where(part.places.sum(axis=1) > rank, above)
