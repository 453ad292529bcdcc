"""Power laws of a loss with an irreducible part: E + A x^-alpha, and E + A N^-alpha + B D^-beta.

Hoffmann et al. 2022, section 3.3 and App. D.3 ("approach 3"), for plain numbers. Fitted in the
logarithm of the loss, because errors are relative, under a smooth Huber loss (soft L1 beyond
ROBUST_AT) from a grid of starts; of these the best is kept. What a grid of points cannot tell apart
is refused with the reason (`why_not`).

Intervals and bands refit resampled losses, all at once, from the estimate on and with its robust
weights; these lie LONGER times as far from the estimate as they were drawn. E, the scales and the
exponents are strongly correlated: of few points each is known badly while the curve between the
points is known well. Outside the points' range everything is extrapolation, and rests on the law
being true there, which no interval here includes.

Coverage in our simulation (120 studies of 8 models, three seeds each but for the largest): 0.97 to
0.99 for every coefficient of the joint law, the curve between the points, the frontier, and the
compute for equal loss. `nox -s stats` asserts at least 0.95.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from retnet_bench.analysis.statistics.intervals import Interval, percentiles

LEAST_POINTS = 4
"""Distinct values of one x; the law has three free numbers, and one point must be left to err."""
LEAST_LEVELS, LEAST_JOINT = 3, 6
"""Of the joint law: distinct values of each x, and points; it has five free numbers."""
TOGETHER = 0.95
"""Squared correlation of log N and log D from which on nobody can tell one's part from the
other's: every model at the same tokens a parameter."""
ROBUST_AT = 0.01
"""Relative error from which on a point loses weight."""
LONGER = 1.1
"""How much farther from the estimate losses are refitted than they were drawn: of few points and a
law that bends, plain resamples give intervals that are a little short."""
NO_FLOOR = 1e-6
"""An irreducible loss below this is none."""
NAMES = ("N", "D")
"""The two variables of the joint law: parameters and tokens."""
SCALES, EXPONENTS = ("A", "B"), ("alpha", "beta")
_FLOORS = (0.3, 0.6, 0.9)  # shares of the loss that a start takes for irreducible
_STARTS = (0.1, 0.4, 1.0)
_POLISHED = 2  # of the starts, by the robust loss


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law, and its refits to resampled losses. V is 1, or 2 for the joint law."""

    x: np.ndarray  # (P, V)
    loss: np.ndarray  # (P,)
    center: np.ndarray  # (V,) geometric mean of x, where theta's scales are taken
    theta: np.ndarray  # (1 + 2 V,) log E, then log A and its exponent for each variable
    drawn: np.ndarray  # (R, 1 + 2 V)
    n: int
    """Documents behind the interval; 1 when there is none."""

    def at(self, x: np.ndarray) -> np.ndarray:
        """The fitted loss at x (n,) or (n, V)."""
        return law(self.theta[None], self._logs(x))[0]

    def draws_at(self, x: np.ndarray) -> np.ndarray:
        """Resampled losses (R, n) at x (n,) or (n, V)."""
        return law(self.drawn, self._logs(x))

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % interval of the fitted loss at x (n,) or (n, V)."""
        if self.n < 2:
            return np.full(len(x), np.nan), np.full(len(x), np.nan)
        low, high = np.percentile(self.draws_at(x), [2.5, 97.5], axis=0)
        middle = self.at(x)
        return np.minimum(low, middle), np.maximum(high, middle)

    def coefficients(self) -> dict[str, Interval]:
        """E (the irreducible loss), the exponents, and the scales A and B: the loss above E at one
        unit of x. In the unit of the loss. E is 0 where the points show no floor."""
        floors = np.exp(np.append(self.drawn[:, 0], self.theta[0]))
        floors[floors < NO_FLOOR] = 0.0  # its logarithm runs off
        found = {"E": percentiles(float(floors[-1]), floors[:-1], self.n)}
        for i in range(self.x.shape[1]):
            scale, scales = (self._scale(theta, i) for theta in (self.theta, self.drawn))
            found[SCALES[i]] = percentiles(float(scale), scales, self.n)
            drawn = self.drawn[:, 2 + 2 * i]
            found[EXPONENTS[i]] = percentiles(float(self.theta[2 + 2 * i]), drawn, self.n)
        return found

    def _scale(self, theta: np.ndarray, i: int) -> np.ndarray:
        """The term of variable `i` at one unit of it."""
        log = theta[..., 1 + 2 * i] + theta[..., 2 + 2 * i] * np.log(self.center[i])
        return np.exp(np.clip(log, -700, 700))

    def _logs(self, x: np.ndarray) -> np.ndarray:
        return np.log(np.reshape(x, (len(x), -1)) / self.center)


def why_not(x: np.ndarray) -> str | None:
    """Why no law can be fitted at x (P, V); None if one can."""
    if not np.isfinite(x).all():
        return "x is not recorded"
    distinct = [len(np.unique(column)) for column in x.T]
    if len(distinct) == 1:
        few = distinct[0] < LEAST_POINTS
        return f"{distinct[0]} values; a fit needs {LEAST_POINTS}" if few else None
    several = len(x) >= LEAST_POINTS and min(distinct) > 1
    if several and np.corrcoef(np.log(x).T)[0, 1] ** 2 > TOGETHER:
        ratio = np.exp(np.log(x[:, 1] / x[:, 0]).mean())
        return (
            f"parameters and tokens rise together (about {ratio:.3g} tokens a parameter), so that "
            "their parts cannot be told apart; it needs some sizes at several budgets"
        )
    if min(distinct) < LEAST_LEVELS or len(x) < LEAST_JOINT:
        return (
            f"{distinct[0]} sizes and {distinct[1]} budgets in {len(x)} models; it needs "
            f"{LEAST_LEVELS} of each and {LEAST_JOINT} models"
        )
    return None


def fit(x: np.ndarray, loss: np.ndarray, drawn: np.ndarray, n: int) -> PowerLaw:
    """The law of `loss` (P,) at x (P, V), and again of each row of `drawn` (R, P); `n` documents
    are behind the resamples. The same numbers are fitted once in a process, whoever asks."""
    x = np.reshape(x, (len(loss), -1)).astype(float)
    drawn = loss + LONGER * (np.reshape(drawn, (-1, len(loss))) - loss)
    key = (x.tobytes(), loss.astype(float).tobytes(), drawn.tobytes())
    center, theta, refits = _fitted(*key, len(loss))
    return PowerLaw(x, loss, center, theta, refits, n)


@lru_cache(maxsize=64)
def _fitted(x: bytes, loss: bytes, drawn: bytes, points: int) -> tuple[np.ndarray, ...]:
    places = np.frombuffer(x).reshape(points, -1)
    center = np.exp(np.log(places).mean(axis=0))
    logs, target = np.log(places / center), np.log(np.frombuffer(loss))
    theta = best_start(logs, target)
    error = (np.log(law(theta[None], logs)[0]) - target) / ROBUST_AT
    weights = (1 + error**2) ** -0.25  # the square root of soft L1's weight
    return (
        center,
        theta,
        refit(logs, np.log(np.frombuffer(drawn)).reshape(-1, points), theta, weights),
    )


def best_start(logs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The best robust fit over starts that differ in the exponents and in the share of E: plain
    least squares from all of them at once, and from the best of these the robust loss."""
    starts = []
    for share, exponents in product(_FLOORS, product(_STARTS, repeat=logs.shape[1])):
        level = target.mean() + np.log(share)
        rest = target.mean() + np.log((1 - share) / logs.shape[1])
        starts.append([level, *(part for exponent in exponents for part in (rest, exponent))])
    targets = np.tile(target, (len(starts), 1))
    found = refit(logs, targets, np.array(starts), np.ones(len(target)))
    error = ((np.log(law(found, logs)) - target) / ROBUST_AT) ** 2  # (S, P)
    cost = (np.sqrt(1 + error) - 1).sum(axis=1)  # soft L1's
    args: dict[str, Any] = {"loss": "soft_l1", "f_scale": ROBUST_AT, "max_nfev": 300}
    polished = [
        least_squares(residual, start, slopes, args=(logs, target), **args)
        for start in found[np.argsort(cost)[:_POLISHED]]
    ]
    return min(polished, key=lambda fit: fit.cost).x


def refit(
    logs: np.ndarray, targets: np.ndarray, start: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Weighted least squares for each row of `targets` (R, P), all at once: Levenberg-Marquardt
    from one start (K,), or from one for each row (R, K).

    The same as scipy's on each row, which would take seconds for what this does in milliseconds.
    """
    theta = np.array(np.broadcast_to(start, (len(targets), start.shape[-1])))  # (R, K)
    damping = np.full(len(targets), 1e-3)
    error = weights * (np.log(law(theta, logs)) - targets)  # (R, P)
    cost = (error**2).sum(axis=1)
    for _ in range(60):
        steep = weights[:, None] * _gradient(theta, logs)  # (R, P, K)
        square = np.einsum("rpk,rpl->rkl", steep, steep)
        diagonal = np.einsum("rkk->rk", square)
        square[:, range(theta.shape[1]), range(theta.shape[1])] += (
            damping[:, None] * diagonal + 1e-12
        )
        step = np.linalg.solve(square, np.einsum("rpk,rp->rk", steep, error)[..., None])[..., 0]
        tried = weights * (np.log(law(theta - step, logs)) - targets)
        better = (tried**2).sum(axis=1) < cost
        theta = np.where(better[:, None], theta - step, theta)
        error = np.where(better[:, None], tried, error)
        cost = (error**2).sum(axis=1)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        if np.abs(step).max(initial=0.0) < 1e-6:
            break
    return theta


def law(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Losses (R, P) by theta (R, 1 + 2 V) at centred logs (P, V)."""
    return _terms(theta, logs).sum(axis=1)


def _terms(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Terms (R, 1 + V, P) of the law."""
    powers = theta[:, 1::2, None] - theta[:, 2::2, None] * logs.T
    constant = np.broadcast_to(theta[:, :1, None], (len(theta), 1, len(logs)))
    return np.exp(np.clip(np.concatenate([constant, powers], axis=1), -60, 60))


def _gradient(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Derivatives (R, P, 1 + 2 V) of the law's logarithm by theta (R, 1 + 2 V)."""
    terms = _terms(theta, logs)  # (R, 1 + V, P)
    shares = terms / terms.sum(axis=1, keepdims=True)
    columns = [shares[:, 0]]
    for i, log in enumerate(logs.T, start=1):
        columns += [shares[:, i], -log * shares[:, i]]
    return np.stack(columns, axis=-1)


def residual(theta: np.ndarray, logs: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.log(law(theta[None], logs)[0]) - target


def slopes(theta: np.ndarray, logs: np.ndarray, target: np.ndarray) -> np.ndarray:
    return _gradient(theta[None], logs)[0]
