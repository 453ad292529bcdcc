"""Where two curves change order, with an interval of the place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from retnet_bench.analysis.statistics.intervals import (
    Interval,
    exponential,
    percentiles,
    small_sample_factor,
)
from retnet_bench.analysis.statistics.resampling import (
    N_RESAMPLES,
    SEED,
    process_ids,
    resample,
    resamples,
)


class Crossover(NamedTuple):
    """Where one cost passes below another for good, or why there is no such place.

    `fraction` is the share of bootstrap resamples in which the two cross inside the range.
    """

    interval: Interval | None
    fraction: float
    reason: str


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
    ids = process_ids(processes, len(ratios))
    drawn = np.concatenate(
        [np.median(ratios[rows], axis=1) for rows in resamples(ids, n_resamples, seed)]
    )  # (n_resamples, P)
    middle, n = np.median(ratios, axis=0), len(ratios)  # (P,)
    return resampled_crossover(places, middle, drawn, names, n, small_sample_factor(n))


def resampled_crossover(
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
    return Crossover(exponential(clipped), fraction, _open_ends(interval, places, fraction))


def last_crossover(
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
    rows, n = resample(process_ids(processes, len(ratios)), n_resamples, seed), len(ratios)
    middle, drawn = np.median(ratios, axis=0), np.median(ratios[rows], axis=1)
    return resampled_last_crossover(x, middle, drawn, n, small_sample_factor(n))


def resampled_last_crossover(
    x: ArrayLike, middle: np.ndarray, drawn: np.ndarray, n: int, factor: float = 1.0
) -> Interval:
    """`last_crossover` from log-ratios a / b: their estimates (P,) and resamples (R, P). `factor`
    lengthens the interval; where it or the resamples are nan there is none."""
    values = np.asarray(x, dtype=float)
    places, first, last = np.log(values), float(values[0]), float(values[-1])
    estimate = float(_last_crossover_places(places, middle[None])[0])
    if n < 2 or np.isnan(factor) or np.isnan(drawn).any():
        return Interval(float(np.exp(estimate)), np.nan, np.nan, n)
    ends = _last_crossover_places(places, drawn)
    low = np.percentile(ends, 2.5, method="lower")
    high = np.percentile(ends, 97.5, method="higher")
    if np.isfinite(estimate):
        low, high = (estimate + factor * (end - estimate) for end in (low, high))
    low = 0.0 if low <= places[0] else min(float(np.exp(low)), last)
    high = np.inf if high >= places[-1] else max(float(np.exp(high)), first)
    return Interval(float(np.exp(estimate)), low, high, n)


def _last_crossover_places(places: np.ndarray, ratios: np.ndarray) -> np.ndarray:
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
    ends = " and ".join(open_ends) + (" end is" if len(open_ends) == 1 else " ends are")
    reach = f"; the {ends} cut at the measured range" if open_ends else ""
    return f"{fraction:.0%} of resamples cross{reach}"
