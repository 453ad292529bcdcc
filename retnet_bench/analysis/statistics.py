"""Effects and their 95 % intervals, from blocks of samples.

The unit of replication is the block (process x block), never the single step: steps of one block
share their neighbours' weather. A block counts by the median of its samples. Intervals come from
a hierarchical bootstrap, processes first and then blocks inside them (Davison and Hinkley 1997,
section 3.8), because blocks of one process share its memory layout.

A bootstrap of few blocks is too narrow: it misses a factor sqrt(n / (n - 1)) and uses a normal
quantile where Student's t belongs (Hesterberg 2015, section 4.3). Both ends of every interval are
therefore moved away from the estimate by that formula: `widening(n)`, or `median_widening` where
blocks come from several processes. `nox -s stats` prints the coverage. One process cannot see how
processes differ, and two that differ are two observations, whose interval is wide: more processes,
not more blocks, mend both.

Fewer than FEWEST blocks have no interval: (nan, nan), which says unknown and not certain. The ends
of two or three medians are the extremes of these times 9 or 2.7: a number made of the factor, such
as [1.2e-12, 1.4e12] for a ratio of 1.26, and it covers but 92 to 93 % of normal blocks, 93 to 95 %
of heavy-tailed ones (t2, t1.4). Four cover 95 to 97 %, four to 14 at least 93 %.

A fixed seed makes equal data give equal intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

N_RESAMPLES = 2000
SEED = 0

Block = tuple[int, np.ndarray]
"""The index of a process, and the raw samples of one of its blocks."""

_Z = 1.959964
LEVEL = 0.975
_CHUNK = 2_000_000
"""Most values drawn at once, so that memory stays flat however much there is to resample."""
_MANY = 512
"""From so many blocks on, the median of a resample is drawn by its order statistics."""

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
    interval = _interval(processes, np.log(medians), n_resamples, seed, np.log(estimate))
    return _exp(interval)._replace(estimate=estimate)


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
    ids = _ids(processes, len(ratios))
    drawn = np.concatenate(
        [np.median(ratios[rows], axis=1) for rows in _resamples(ids, n_resamples, seed)]
    )  # (n_resamples, P)
    middle, n = np.median(ratios, axis=0), len(ratios)  # (P,)
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


def overtaking(
    x: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    processes: ArrayLike | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """The x from which on a costs less than b for good; a and b as in `crossover`.

    What lies outside the measured range is not known, only on which side: an end is 0 where a may
    be ahead from below the first x on, and infinite where b may still be ahead at the last.
    """
    ratios = np.log(np.atleast_2d(a)) - np.log(np.atleast_2d(b))  # (n_blocks, P)
    rows, n = _resample(_ids(processes, len(ratios)), n_resamples, seed), len(ratios)
    middle, drawn = np.median(ratios, axis=0), np.median(ratios[rows], axis=1)
    return drawn_overtaking(x, middle, drawn, n, widening(n))


def drawn_overtaking(
    x: ArrayLike, middle: np.ndarray, drawn: np.ndarray, n: int, factor: float = 1.0
) -> Interval:
    """`overtaking` from log-ratios a / b: their estimates (P,) and resamples (R, P). `factor`
    lengthens the interval; where it or the resamples are nan there is none."""
    values = np.asarray(x, dtype=float)
    places, first, last = np.log(values), float(values[0]), float(values[-1])
    estimate = float(_overtaken(places, middle[None])[0])
    if n < 2 or np.isnan(factor) or np.isnan(drawn).any():
        return Interval(float(np.exp(estimate)), np.nan, np.nan, n)
    ends = _overtaken(places, drawn)
    low = np.percentile(ends, 2.5, method="lower")
    high = np.percentile(ends, 97.5, method="higher")
    if np.isfinite(estimate):
        low, high = (estimate + factor * (end - estimate) for end in (low, high))
    low = 0.0 if low <= places[0] else min(float(np.exp(low)), last)
    high = np.inf if high >= places[-1] else max(float(np.exp(high)), first)
    return Interval(float(np.exp(estimate)), low, high, n)


def _overtaken(places: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Per row of (R, P) log-ratios a / b the place from which a is ahead: -inf before the first."""
    place, changes = _last_change(places, ratios)
    return np.where(ratios[:, -1] >= 0, np.inf, np.where(changes, place, -np.inf))


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


def unpaired_ratio(
    a_blocks: Sequence[Block],
    b_blocks: Sequence[Block],
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
        return _exp(Interval(estimate, np.nan, np.nan, min(a.n, b.n)))
    below = _joined(np.log(a.estimate / a.low), a.n, np.log(b.high / b.estimate), b.n)
    above = _joined(np.log(a.high / a.estimate), a.n, np.log(b.estimate / b.low), b.n)
    return _exp(Interval(estimate, estimate - below, estimate + above, min(a.n, b.n)))


def _joined(a: float, n_a: int, b: float, n_b: int) -> float:
    """Half-width of the difference of two estimates with half-widths a and b."""
    variances = [(half / t_quantile(LEVEL, n - 1)) ** 2 for half, n in ((a, n_a), (b, n_b))]
    total = sum(variances)
    if total == 0:
        return 0.0
    df = total**2 / (variances[0] ** 2 / (n_a - 1) + variances[1] ** 2 / (n_b - 1))
    return float(t_quantile(LEVEL, df) * np.sqrt(total))


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
    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])[::-1]]  # from the largest on
    m = len(order)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(p[order] * m / np.arange(m, 0, -1)))
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

    The half-width falls as widening(n) / sqrt(n). None when there is no interval to start from.
    """
    if np.isnan(ratio.low) or ratio.n < FEWEST or not wanted > 0:
        return None
    unit = half_width(ratio) * np.sqrt(ratio.n) / widening(ratio.n)

    def enough(n: int) -> bool:
        return bool(unit * widening(n) / np.sqrt(n) <= wanted)

    low, high = FEWEST - 1, FEWEST
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def t_quantile(level: float, df: float) -> float:
    """Quantile of Student's t."""
    return float(special.stdtrit(df, level))


def z_quantile(level: float) -> float:
    """Quantile of the normal."""
    return float(special.ndtri(level))


def widening(n: int) -> float:
    """How much longer than the plain bootstrap's an interval from n blocks is; it falls with n.

    nan for fewer than FEWEST, and so are the ends of whatever is lengthened by it.
    """
    return float(np.sqrt(n / (n - 1)) * student_factor(n - 1)) if n >= FEWEST else np.nan


def student_factor(df: float) -> float:
    """Student's 97.5 % quantile over the normal's."""
    return t_quantile(LEVEL, df) / _Z


def median_widening(processes: np.ndarray, values: np.ndarray) -> float:
    """`widening` for the median of one value per block, with its processes' differences in it.

    Where processes differ by more than their blocks explain, the degrees of freedom are nearer to
    the number of processes (Satterthwaite 1946) and the bootstrap of few processes is too narrow;
    where they do not, drawing them doubles the scatter that the blocks already have.
    """
    n, n_processes = len(values), len(np.unique(processes))
    if n_processes in (1, n) or n < FEWEST:
        return widening(n)
    between, within = _components(processes, np.clip(values, *np.quantile(values, [0.1, 0.9])))
    if between + within == 0:
        return widening(n)
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


def _medians(blocks: Sequence[Block]) -> tuple[np.ndarray, np.ndarray]:
    """Process and median of each block; blocks of one length are taken together."""
    processes = np.array([process for process, _ in blocks], dtype=int)
    lengths = np.array([len(samples) for _, samples in blocks], dtype=int)
    medians = np.empty(len(blocks))
    for length in np.unique(lengths):
        chosen = np.flatnonzero(lengths == length)
        medians[chosen] = np.median(np.array([blocks[int(i)][1] for i in chosen]), axis=1)
    return processes, medians


def _ids(processes: ArrayLike | None, n: int) -> np.ndarray:
    ids = np.zeros(n, dtype=int) if processes is None else np.asarray(processes, dtype=int)
    assert len(ids) == n, "one process index per block"
    return ids


def _resamples(processes: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
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


def _resample(processes: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """All of `_resamples` in one table (n_resamples, n)."""
    chunks = list(_resamples(processes, n_resamples, seed))
    return np.concatenate(chunks) if len(processes) else np.zeros((n_resamples, 0), dtype=int)


def _drawn_medians(
    processes: np.ndarray, values: np.ndarray, n_resamples: int, seed: int
) -> np.ndarray:
    """The median of each resample."""
    if len(values) >= _MANY:
        return _order_medians(processes, values, n_resamples, seed)
    chunks = _resamples(processes, n_resamples, seed)
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


def _interval(
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
    drawn = _drawn_medians(processes, values, n_resamples, seed)
    return percentiles(middle, drawn, len(values), median_widening(processes, values))


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
