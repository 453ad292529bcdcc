"""What a joint law says of compute: the best size and tokens at each, and two laws at equal loss.

A budget of C FLOPs buys D = C / f(N) tokens for a model of N parameters, whose training takes f(N)
FLOPs a token, as recorded of the sizes measured. Hoffmann et al. 2022 have 6 N; small models also
pay for attention and the head. The frontier is the least loss over N at each C.

Resample i of one law belongs to resample i of another: documents are drawn once for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retnet_bench.analysis.statistics.crossings import Crossover, resampled_crossover
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.statistics.power_law import PowerLaw

REACH = 30.0
"""How far past the measured sizes and compute the best ones are looked for: thirty times."""
LITTLE = 0.001
"""Share of f beyond 6 N that is too little to be interpolated by itself."""
_SIZES, _BUDGETS = 81, 65


@dataclass(frozen=True)
class Frontier:
    """The best that each compute buys; row 0 of `loss`, `size` and `tokens` is the estimate, the
    others are resamples (1 + R, C)."""

    name: str
    compute: np.ndarray  # (C,) FLOPs, ascending
    loss: np.ndarray
    size: np.ndarray
    tokens: np.ndarray
    n: int
    """Documents behind the intervals; 1 when there are none."""

    def interval(self, of: str, compute: float) -> Interval:
        """Of `loss`, `size` or `tokens` at one compute."""
        logs = np.log(getattr(self, of))
        values = _at(np.log(self.compute), logs, float(np.log(compute)))
        return _exponential(values, self.n)

    def band(self, of: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Estimate, low and high (C,) of `loss`, `size` or `tokens`."""
        values = getattr(self, of)
        if self.n < 2:
            nothing = np.full(len(self.compute), np.nan)
            return values[0], nothing, nothing
        low, high = np.percentile(values[1:], [2.5, 97.5], axis=0)
        return values[0], np.minimum(low, values[0]), np.maximum(high, values[0])


def frontier(name: str, fitted: PowerLaw, flops: np.ndarray, low: float, high: float) -> Frontier:
    """The frontier of a joint law between REACH times less than `low` and more than `high` FLOPs.
    `flops` (P,) a token are those of the law's points."""
    compute = np.geomspace(low / REACH, high * REACH, _BUDGETS)
    sizes = fitted.x[:, 0]
    logs = np.linspace(np.log(sizes.min() / REACH), np.log(sizes.max() * REACH), _SIZES)
    per_token = log_flops(sizes, flops, logs)
    theta = np.concatenate([fitted.theta[None], fitted.drawn])  # (1 + R, 5)
    center = np.log(fitted.center)
    constant = np.exp(np.clip(theta[:, :1], -60, 60))[..., None]
    by_size = _power(theta[:, 1], theta[:, 2], logs - center[0])  # (1 + R, S)
    middle = np.log(compute).mean()
    by_tokens = _power(theta[:, 3], theta[:, 4], middle - per_token - center[1])  # at that compute
    budget = _power(np.zeros(len(theta)), theta[:, 4], np.log(compute) - middle)  # (1 + R, C)
    total = constant + by_size[:, None] + by_tokens[:, None] * budget[..., None]  # (1 + R, C, S)
    best = total.argmin(axis=2)
    place = logs[best] + _vertex(total, best) * (logs[1] - logs[0])
    least = np.take_along_axis(total, best[..., None], axis=2)[..., 0]
    tokens = np.exp(np.log(compute) - np.interp(place, logs, per_token))
    return Frontier(name, compute, least, np.exp(place), tokens, fitted.n)


def log_flops(sizes: np.ndarray, flops: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """log f at log N = `logs`. What a token costs beyond the 6 N of the body's weights (the head,
    attention) is interpolated between the sizes measured, linear on logarithmic axes, and goes on
    beyond them along the line of the two at the end; so is f itself, where it is hardly more."""
    known, first = np.unique(sizes, return_index=True)
    beyond = flops[first] - 6 * known
    if (beyond > LITTLE * flops[first]).all():
        return np.log(6 * np.exp(logs) + np.exp(_line(np.log(known), np.log(beyond), logs)))
    return _line(np.log(known), np.log(flops[first]), logs)


def _line(places: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Linear between ascending `places`, and on past them."""
    if len(places) < 2:
        return np.full(len(wanted), values[0])
    slopes = np.diff(values) / np.diff(places)
    inside = np.interp(wanted, places, values)
    below = np.minimum(wanted - places[0], 0) * slopes[0]
    return inside + below + np.maximum(wanted - places[-1], 0) * slopes[-1]


def _power(scale: np.ndarray, exponent: np.ndarray, logs: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(scale[:, None] - exponent[:, None] * logs, -300, 300))


def _vertex(total: np.ndarray, best: np.ndarray) -> np.ndarray:
    """How many steps from the least value on the grid the vertex of the parabola through it and its
    neighbours lies; 0 at the ends."""
    inner = np.clip(best, 1, total.shape[2] - 2)
    left, middle, right = (
        np.take_along_axis(total, (inner + step)[..., None], axis=2)[..., 0] for step in (-1, 0, 1)
    )
    bend = left - 2 * middle + right
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(bend > 0, (left - right) / (2 * bend), 0.0)
    return np.where(inner == best, np.clip(found, -0.5, 0.5), 0.0)


def compute_ratio(a: Frontier, b: Frontier, compute: float) -> Interval:
    """Compute that `a` needs over `compute`, at the loss that `b` reaches with it. Infinite where
    `a` does not come so low within the range looked at, 0 where it is lower from its beginning."""
    wanted = _at(np.log(b.compute), np.log(b.loss), float(np.log(compute)))
    curves = np.minimum.accumulate(np.log(a.loss), axis=1)
    logs = np.log(a.compute)
    found = [
        np.interp(-loss, -curve, logs, left=-np.inf, right=np.inf)
        for loss, curve in zip(wanted, curves, strict=True)
    ]
    return _exponential(np.array(found) - np.log(compute), min(a.n, b.n))


def loss_ratio(a: Frontier, b: Frontier, compute: float) -> Interval:
    """Loss of `a` over that of `b`, each at its best size for that compute."""
    place = float(np.log(compute))
    of, over = (_at(np.log(f.compute), np.log(f.loss), place) for f in (a, b))
    return _exponential(of - over, min(a.n, b.n))


def crossing(a: Frontier, b: Frontier, low: float, high: float) -> Crossover:
    """The compute between `low` and `high` from which on the order of the frontiers no longer
    changes."""
    places = np.linspace(np.log(low), np.log(high), 200)
    of, over = (_curve(np.log(f.compute), np.log(f.loss), places) for f in (a, b))
    ratios, n = of - over, min(a.n, b.n)
    drawn = ratios[1:] if n > 1 else ratios[:1]
    return resampled_crossover(places, ratios[0], drawn, (a.name, b.name), n)


def crossing_along(
    a: PowerLaw, b: PowerLaw, path: np.ndarray, column: int, names: tuple[str, str]
) -> Crossover:
    """The same of two joint laws along `path` (P, 2) of sizes and tokens; the place is the value in
    `column`."""
    middle = np.log(a.at(path)) - np.log(b.at(path))
    n = min(a.n, b.n)
    drawn = np.log(a.draws_at(path)) - np.log(b.draws_at(path)) if n > 1 else middle[None]
    return resampled_crossover(np.log(path[:, column]), middle, drawn, names, n)


def _at(places: np.ndarray, curves: np.ndarray, place: float) -> np.ndarray:
    """Each of `curves` (R, C) over `places` at one place (R,)."""
    return _curve(places, curves, np.array([place]))[:, 0]


def _curve(places: np.ndarray, curves: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(wanted, places, curve) for curve in curves])


def _exponential(values: np.ndarray, n: int) -> Interval:
    """exp of the first value, the estimate, and of the 95 % interval of the others, which may be
    infinite."""
    estimate = float(values[0])
    if n < 2 or len(values) < 2:
        return Interval(float(np.exp(estimate)), np.nan, np.nan, n)
    low = min(float(np.percentile(values[1:], 2.5, method="lower")), estimate)
    high = max(float(np.percentile(values[1:], 97.5, method="higher")), estimate)
    return Interval(float(np.exp(estimate)), float(np.exp(low)), float(np.exp(high)), n)
