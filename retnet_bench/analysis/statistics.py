"""Effects and their 95 % intervals, from blocks of samples.

The unit of replication is the block (process x block), never the single step: steps of one block
share their neighbours' weather. A block counts by the median of its samples. Intervals come from
a hierarchical bootstrap, processes first and then blocks inside them (Davison and Hinkley 1997,
section 3.8), because blocks of one process share its memory layout.

A bootstrap of few blocks is too narrow: it misses a factor sqrt(n / (n - 1)) and uses a normal
quantile where Student's t belongs (Hesterberg 2015, section 4.3). Both ends of every interval are
therefore moved away from the estimate by `widening(n)`.

Coverage in our simulation (600 data sets each, lognormal or heavy-tailed t2 blocks, one process):
0.98 at n = 6, 0.96 at n = 8, 0.94 at n = 12, and between 0.91 and 0.99 for every n from 2 to 20;
without the widening 0.94, 0.92, 0.93, and 0.86 at n = 4. With few processes that differ as much as
their blocks do, it falls (0.86 for 2 processes of 6 blocks), and one process cannot see such
differences at all: more processes, not more blocks, mend that.

A fixed seed makes equal data give equal intervals. One block has no interval: (nan, nan), which
says unknown and not certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

N_RESAMPLES = 2000
SEED = 0

Block = tuple[int, np.ndarray]
"""The index of a process, and the raw samples of one of its blocks."""

# 97.5 % quantiles of Student's t for 1, 2, ... 30 degrees of freedom.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_Z = 1.960


class Interval(NamedTuple):
    """An estimate with the ends of its 95 % interval and the number of blocks behind it."""

    estimate: float
    low: float
    high: float
    n: int


class Crossover(NamedTuple):
    """Where one cost passes below another for good, or why there is no such place.

    `fraction` is the share of bootstrap resamples in which the two cross inside the range.
    """

    interval: Interval | None
    fraction: float
    reason: str


def center(blocks: Sequence[Block], n_resamples: int = N_RESAMPLES, seed: int = SEED) -> Interval:
    """The median over blocks of block medians. Of no blocks at all: nan.

    Between positive values the interval is built on the logarithmic scale, so that it stays
    positive.
    """
    processes, medians = _medians(blocks)
    positive = medians.size > 0 and bool((medians > 0).all())
    if not positive:
        return _interval(processes, medians, n_resamples, seed)
    estimate = float(np.median(medians))
    logs = np.log(np.median(medians[_resample(processes, n_resamples, seed)], axis=1))
    return _exp(_widened(np.log(estimate), logs, len(medians)))._replace(estimate=estimate)


def log_ratio(
    a_blocks: Sequence[Block],
    b_blocks: Sequence[Block],
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """The ratio a / b of paired blocks: exp of the median per-block log-ratio.

    Block i of `a` belongs to block i of `b` (neighbours in the interleaved order), so that drift
    cancels inside a pair. Raises ValueError when the lists differ in length.
    """
    if len(a_blocks) != len(b_blocks):
        raise ValueError(f"{len(a_blocks)} blocks cannot be paired with {len(b_blocks)}")
    processes, a = _medians(a_blocks)
    _, b = _medians(b_blocks)
    return _exp(_interval(processes, np.log(a) - np.log(b), n_resamples, seed))


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
    two agree. `processes` names the process of each block; without it all are of one.
    """
    places, y = np.asarray(x, dtype=float), np.atleast_2d(np.asarray(blocks_y, dtype=float))
    first, second = np.triu_indices(len(places), k=1)
    slopes = (y[:, second] - y[:, first]) / (places[second] - places[first])
    return _interval(_ids(processes, len(y)), np.median(slopes, axis=1), n_resamples, seed)


def crossover(
    x: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    processes: ArrayLike | None = None,
    names: tuple[str, str] = ("a", "b"),
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Crossover:
    """The x from which on the order of the costs a and b, both (n_blocks, P), no longer changes.

    Row i of `a` is paired with row i of `b`. The log-ratio is interpolated linearly in log x
    (x > 0, ascending) and its last change of sign is the crossover. A resample that does not
    change sign inside the range counts as crossing at the end where its order disagrees.
    """
    places = np.log(np.asarray(x, dtype=float))
    ratios = np.log(np.atleast_2d(a)) - np.log(np.atleast_2d(b))  # (n_blocks, P)
    assert np.isfinite(ratios).all(), "costs must be positive numbers"
    rows = _resample(_ids(processes, len(ratios)), n_resamples, seed)
    drawn = np.median(ratios[rows], axis=1)  # (n_resamples, P)
    middle = np.median(ratios, axis=0)  # (P,)
    n = len(ratios)
    return drawn_crossover(places, middle, drawn, names, n, widening(n))


def drawn_crossover(
    places: np.ndarray,
    middle: np.ndarray,
    drawn: np.ndarray,
    names: tuple[str, str],
    n: int,
    factor: float = 1.0,
) -> Crossover:
    """Where log-ratios a / b at `places` (P,), log x, change sign for good: estimate `middle` (P,)
    and resamples `drawn` (R, P). `factor` lengthens the interval."""
    place, crosses = _last_change(places, middle[None])
    drawn_place, drawn_crosses = _last_change(places, drawn)
    fraction = float(drawn_crosses.mean())
    if not crosses[0]:
        return Crossover(None, fraction, _none_in_range(middle, names, fraction))
    same_end = (drawn[:, -1] > 0) == (middle[-1] > 0)
    drawn_place[~drawn_crosses] = places[0]
    drawn_place[~same_end] = places[-1]
    interval = percentiles(place[0], drawn_place, n, factor)
    clipped = interval._replace(
        low=np.clip(interval.low, *places[[0, -1]]), high=np.clip(interval.high, *places[[0, -1]])
    )
    return Crossover(_exp(clipped), fraction, _open_ends(interval, places, fraction))


def _last_change(places: np.ndarray, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per row of (R, P) log-ratios: where the sign last changes, and whether it does at all."""
    above = ratios > 0
    changes = above[:, 1:] != above[:, :-1]  # (R, P - 1)
    left = changes.shape[1] - 1 - np.argmax(changes[:, ::-1], axis=1)
    row = np.arange(len(ratios))
    before, after = ratios[row, left], ratios[row, left + 1]
    step = np.where(changes.any(axis=1), before - after, 1.0)
    return places[left] + before / step * (places[left + 1] - places[left]), changes.any(axis=1)


def _none_in_range(middle: np.ndarray, names: tuple[str, str], fraction: float) -> str:
    if not middle.any():
        return "none in range: no difference anywhere"
    ahead = names[int(middle[-1] > 0)]
    return f"none in range: {ahead} is ahead throughout; {fraction:.0%} of resamples cross"


def _open_ends(interval: Interval, places: np.ndarray, fraction: float) -> str:
    open_ends = [
        *(["lower"] if interval.low <= places[0] else []),
        *(["upper"] if interval.high >= places[-1] else []),
    ]
    reach = f"; the {' and '.join(open_ends)} end is cut at the measured range" if open_ends else ""
    return f"{fraction:.0%} of resamples cross{reach}"


def widening(n: int) -> float:
    """How much longer than the plain bootstrap's an interval from n blocks must be.

    One block has no interval, so nothing to lengthen: 1.
    """
    if n < 2:
        return 1.0
    return float(np.sqrt(n / (n - 1)) * student_factor(n - 1))


def student_factor(degrees: int) -> float:
    """Student's 97.5 % quantile for so many degrees of freedom over the normal's."""
    return (_T[degrees - 1] if degrees <= len(_T) else _Z + 2.4 / degrees) / _Z


def _medians(blocks: Sequence[Block]) -> tuple[np.ndarray, np.ndarray]:
    processes = np.array([process for process, _ in blocks], dtype=int)
    return processes, np.array([np.median(samples) for _, samples in blocks], dtype=float)


def _ids(processes: ArrayLike | None, n: int) -> np.ndarray:
    ids = np.zeros(n, dtype=int) if processes is None else np.asarray(processes, dtype=int)
    assert len(ids) == n, "one process index per block"
    return ids


def _resample(processes: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Block indices (n_resamples, n): draw processes, then as many blocks inside each.

    Every process keeps its number of places; a process drawn for them fills them with its blocks.
    """
    if len(processes) == 0:
        return np.zeros((n_resamples, 0), dtype=int)
    random = np.random.default_rng(seed)
    _, slot, counts = np.unique(processes, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    drawn = random.integers(len(counts), size=(n_resamples, len(counts)))[:, slot]
    within = (random.random(drawn.shape) * counts[drawn]).astype(int)
    return np.argsort(slot, kind="stable")[starts[drawn] + within]


def _interval(processes: np.ndarray, values: np.ndarray, n_resamples: int, seed: int) -> Interval:
    """The median of one value per block, with its interval."""
    if values.size == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    drawn = np.median(values[_resample(processes, n_resamples, seed)], axis=1)
    return _widened(float(np.median(values)), drawn, len(values))


def _widened(estimate: float, drawn: np.ndarray, n: int) -> Interval:
    return percentiles(estimate, drawn, n, widening(n))


def percentiles(estimate: float, drawn: np.ndarray, n: int, factor: float = 1.0) -> Interval:
    """The 2.5 and 97.5 % percentiles of `drawn`, moved away from the estimate by `factor`."""
    if n < 2:
        return Interval(estimate, np.nan, np.nan, n)
    low, high = np.percentile(drawn, [2.5, 97.5])
    above, below = max(high - estimate, 0.0), max(estimate - low, 0.0)
    return Interval(estimate, float(estimate - factor * below), float(estimate + factor * above), n)


def _exp(interval: Interval) -> Interval:
    """The interval of exp(value)."""
    estimate, low, high = (float(np.exp(part)) for part in interval[:3])
    return Interval(estimate, low, high, interval.n)
