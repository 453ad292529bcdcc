"""Scaling laws of the held-out loss: fits with bands, and where two arms' fits cross.

The law is L(x) = E + A x^-alpha with an irreducible loss E, against parameters (at one token
budget), tokens (at one size) or training compute (along the frontier: no other model of the arm is
better for less compute); and L(N, D) = E + A N^-alpha + B D^-beta where both vary (Hoffmann et al.
2022, section 3.3). Fitted in the logarithm of the loss, because errors are relative, with a robust
loss (soft L1 beyond 1 %) from several starts; of these the best is kept.

Intervals and bands refit the resampled losses of `replication.draw`: documents are drawn once for
all arms and sizes, seeds for each model by itself. The refits start from the estimate and keep its
robust weights. E, A and alpha are strongly correlated: with few sizes each is known badly while the
curve between the points is known well. Outside the points' range everything is extrapolation, and
rests on the law being true there, which no interval here includes.

Coverage in our simulation (5 sizes, 3 seeds, noise of 0.5 %, 150 data sets): 0.96 for E, 0.97 for
alpha, 0.96 for the curve between the points and 0.98 at three times the largest size, where the law
was true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from retnet_bench.analysis.statistics import replication
from retnet_bench.analysis.statistics.crossings import Crossover, resampled_crossover
from retnet_bench.analysis.statistics.intervals import Interval, percentiles
from retnet_bench.analysis.tables import ratios, rows
from retnet_bench.base import UserError
from retnet_bench.results.numbers import millions

N_REFITS = 500
LEAST_POINTS = 4
"""Distinct values of x; the law has three free numbers, and one point must be left to err."""
ROBUST_AT = 0.01
"""Relative error from which on a point loses weight."""
REACH = 10.0
"""How far past the largest x fits are followed: ten times."""
NO_FLOOR = 1e-6
"""An irreducible loss below this is none."""
UNITS = {"bits per byte": ("bytes", np.log(2)), "nat per token": ("tokens", 1.0)}
"""Unit of the loss -> what it is counted per, and nat in one of it."""
_STARTS = (0.1, 0.4, 1.2)
_EXPONENTS = ("alpha", "beta")
_CONTRACT = ["length", "dtype", "corpus", "tokenizer", "machine", "context"]


@dataclass(frozen=True)
class Fit:
    """A law fitted to one arm's losses. x is (n,), or (n, 2) for the joint law."""

    arm: str
    variable: str
    """parameters, tokens, compute or both."""
    at: str
    """What was held, in words: a token budget, a size."""
    unit: str
    x: np.ndarray  # (P, 1) or (P, 2)
    loss: np.ndarray  # (P,)
    seeds: int
    center: np.ndarray  # (V,) geometric mean of x, where theta's scales are taken
    theta: np.ndarray  # log E, then log A and its exponent for each variable
    drawn: np.ndarray  # (R, 1 + 2 V)
    n: int
    """Documents behind the interval; 1 when there is none."""

    @property
    def low(self) -> float:
        return float(self.x[:, 0].min())

    @property
    def high(self) -> float:
        return float(self.x[:, 0].max())

    def at_x(self, x: np.ndarray) -> np.ndarray:
        """The fitted loss at x (n,)."""
        return _law(self.theta[None], self._logs(x))[0]

    def draws_at(self, x: np.ndarray) -> np.ndarray:
        """Resampled losses (R, n) at x (n,)."""
        return _law(self.drawn, self._logs(x))

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % interval of the fitted loss at x (n,)."""
        if self.n < 2:
            return np.full(len(x), np.nan), np.full(len(x), np.nan)
        low, high = np.percentile(self.draws_at(x), [2.5, 97.5], axis=0)
        middle = self.at_x(x)
        return np.minimum(low, middle), np.maximum(high, middle)

    def coefficients(self) -> dict[str, Interval]:
        """E (the irreducible loss), alpha, for the joint law beta, and the scales A and B: the loss
        above E at one unit of x. In the unit of the loss. E is 0 where the points show no floor."""
        floors = np.exp(np.append(self.drawn[:, 0], self.theta[0]))
        floors[floors < NO_FLOOR] = 0.0  # its logarithm runs off
        found = {"E": self._interval(floors[-1], floors[:-1])}
        for i, exponent in enumerate(_EXPONENTS[: self.x.shape[1]]):
            found[exponent] = self._interval(self.theta[2 + 2 * i], self.drawn[:, 2 + 2 * i])
            scale, scales = (
                np.exp(t[..., 1 + 2 * i] + t[..., 2 + 2 * i] * np.log(self.center[i]))
                for t in (self.theta, self.drawn)
            )
            found["AB"[i]] = self._interval(scale, scales)
        return found

    def _interval(self, estimate: float, drawn: np.ndarray) -> Interval:
        return percentiles(float(estimate), drawn, self.n)

    def _logs(self, x: np.ndarray) -> np.ndarray:
        return np.log(np.reshape(x, (len(x), -1)) / self.center)


def fit_law(x: np.ndarray, loss: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, ...]:
    """Fit E + sum of A_v x_v^-alpha_v to `loss` (P,) at x (P, V), and again to each row of `drawn`.

    Returns the geometric mean of x (V,), theta (1 + 2 V,) and the refits' (R, 1 + 2 V): log E, then
    log A at that mean and alpha for each variable.
    """
    center = np.exp(np.log(x).mean(axis=0))
    logs, target = np.log(x / center), np.log(loss)
    theta = _best_start(logs, target)
    error = (np.log(_law(theta[None], logs)[0]) - target) / ROBUST_AT
    weights = (1 + error**2) ** -0.25  # the square root of soft L1's weight
    return center, theta, _refit(logs, np.log(drawn), theta, weights)


def _best_start(logs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The best robust fit over starts that differ in the exponent and in the share of E."""
    found = []
    for share in (0.3, 0.8):
        for exponent in _STARTS:
            level = target.mean() + np.log(share)
            rest = target.mean() + np.log((1 - share) / logs.shape[1])
            start = np.array([level, *[rest, exponent] * logs.shape[1]])
            args: dict[str, Any] = {"loss": "soft_l1", "f_scale": ROBUST_AT, "max_nfev": 300}
            found.append(least_squares(_residual, start, _slopes, args=(logs, target), **args))
    return min(found, key=lambda fit: fit.cost).x


def _refit(
    logs: np.ndarray, targets: np.ndarray, start: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Weighted least squares for each row of `targets` (R, P), all at once: Levenberg-Marquardt.

    The same as scipy's on each row, which would take seconds for what this does in milliseconds.
    """
    theta = np.tile(start, (len(targets), 1))  # (R, K)
    damping = np.full(len(targets), 1e-3)
    error = weights * (np.log(_law(theta, logs)) - targets)  # (R, P)
    cost = (error**2).sum(axis=1)
    for _ in range(60):
        slopes = weights[:, None] * _gradient(theta, logs)  # (R, P, K)
        square = np.einsum("rpk,rpl->rkl", slopes, slopes)
        diagonal = np.einsum("rkk->rk", square)
        square[:, range(len(start)), range(len(start))] += damping[:, None] * diagonal + 1e-12
        step = np.linalg.solve(square, np.einsum("rpk,rp->rk", slopes, error)[..., None])[..., 0]
        tried = weights * (np.log(_law(theta - step, logs)) - targets)
        better = (tried**2).sum(axis=1) < cost
        theta = np.where(better[:, None], theta - step, theta)
        error = np.where(better[:, None], tried, error)
        cost = (error**2).sum(axis=1)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        if np.abs(step).max(initial=0.0) < 1e-6:
            break
    return theta


def _terms(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Terms (R, 1 + V, P) of the law for theta (R, 1 + 2 V) at centred logs (P, V)."""
    powers = theta[:, 1::2, None] - theta[:, 2::2, None] * logs.T
    constant = np.broadcast_to(theta[:, :1, None], (len(theta), 1, len(logs)))
    return np.exp(np.clip(np.concatenate([constant, powers], axis=1), -60, 60))


def _law(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    return _terms(theta, logs).sum(axis=1)  # (R, P)


def _gradient(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Derivatives (R, P, 1 + 2 V) of the law's logarithm by theta (R, 1 + 2 V)."""
    terms = _terms(theta, logs)  # (R, 1 + V, P)
    shares = terms / terms.sum(axis=1, keepdims=True)
    columns = [shares[:, 0]]
    for i, log in enumerate(logs.T, start=1):
        columns += [shares[:, i], -log * shares[:, i]]
    return np.stack(columns, axis=-1)


def _residual(theta: np.ndarray, logs: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.log(_law(theta[None], logs)[0]) - target


def _slopes(theta: np.ndarray, logs: np.ndarray, target: np.ndarray) -> np.ndarray:
    return _gradient(theta[None], logs)[0]


# --- from records ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """One arm at one size and token budget, with what its seeds scored."""

    arm: str
    size: str
    n_params: float
    tokens: float
    compute: float
    scored: pd.DataFrame


@dataclass(frozen=True)
class Scaling:
    """Every fit the records have models for, and why the others are not there."""

    fits: list[Fit]
    missing: list[str]


def fits(records: pd.DataFrame, unit: str = "bits per byte", variable: str = "") -> Scaling:
    """Laws of the loss in `unit` (a key of UNITS), for every arm: against parameters, tokens,
    compute, and jointly; or the one named `variable`. Fits of one kind share their resamples, so
    that they can be compared resample by resample."""
    models = _models(records)
    found: list[Fit] = []
    missing: list[str] = []
    for kind, at, group in _groups(models):
        if variable not in ("", kind):
            continue
        fitted = _fit_arms(kind, at, group, unit)
        found += [fit for fit in fitted if isinstance(fit, Fit)]
        missing += [why for why in fitted if isinstance(why, str)]
    return Scaling(found, missing)


def _models(records: pd.DataFrame) -> list[_Model]:
    scored = rows.documents(records)
    keys = ["arm", "size", "n_params", "token_budget"]
    _one_contract(scored, keys)
    return [_model(group) for _, group in scored.groupby(keys)]


def _model(group: pd.DataFrame) -> _Model:
    first = group.iloc[0]
    n_params, tokens = float(first["n_params"]), float(first["token_budget"])
    flops = float(group["flops_per_token"].astype(float).iloc[0])  # nan where not recorded
    return _Model(first["arm"], first["size"], n_params, tokens, flops * tokens, group)


def _one_contract(scored: pd.DataFrame, keys: list[str]) -> None:
    for name in _CONTRACT:
        if scored[name].nunique() > 1:
            values = ", ".join(map(str, sorted(scored[name].dropna().unique())))
            raise UserError(
                f"scaling laws need one {name}, these records have {values}; fit them apart"
            )


def _groups(models: list[_Model]) -> Iterator[tuple[str, str, list[_Model]]]:
    """(kind, what is held, the models of all arms) for each family of fits."""
    for tokens in sorted({m.tokens for m in models}):
        yield "parameters", f"{tokens:,.0f} tokens", [m for m in models if m.tokens == tokens]
    sizes = sorted({(m.n_params, m.size) for m in models})
    for name in dict.fromkeys(size for _, size in sizes):
        group = [m for m in models if m.size == name]
        if len({m.tokens for m in group}) > 1:
            yield "tokens", f"size {name}", group
    if models:
        yield "compute", "frontier", models
    if len({m.tokens for m in models}) > 1:
        yield "both", "all models", models


def _fit_arms(kind: str, at: str, group: list[_Model], unit: str) -> list[Fit | str]:
    """A Fit for each arm, or why there is none; the arms share their draws."""
    per, nats = UNITS[unit]
    scores = rows.scores([model.scored for model in group], per)
    if not scores[0].units.size:
        return [f"loss against {kind}, {at}: no document that every model scored"]
    draws = replication.draw(scores, N_REFITS)
    level, drawn = draws.level / nats, draws.drawn / nats
    fitted: list[Fit | str] = []
    reasons: dict[str, list[str]] = {}
    for arm in sorted({model.arm for model in group}):
        members = np.array([i for i, model in enumerate(group) if model.arm == arm])
        if kind == "compute":
            compute = np.array([group[i].compute for i in members])
            members = members[_frontier(compute, level[members])]
        x = np.array([_place(kind, group[i]) for i in members])
        if why := _why_not(kind, x):
            reasons.setdefault(why, []).append(arm)
            continue
        center, theta, refits = fit_law(
            x, level[members], drawn[:, members] if draws.known else drawn[:0]
        )
        seeds = min(len(scores[i].nll) for i in members)
        n = draws.n if draws.known else 1
        fit = Fit(arm, kind, at, unit, x, level[members], seeds, center, theta, refits, n)
        fitted.append(fit)
    return [*fitted, *(f"{', '.join(a)}, {kind}, {at}: {why}" for why, a in reasons.items())]


def _place(kind: str, model: _Model) -> list[float]:
    places = {"parameters": [model.n_params], "tokens": [model.tokens], "compute": [model.compute]}
    return places.get(kind, [model.n_params, model.tokens])


def _why_not(kind: str, x: np.ndarray) -> str | None:
    if not np.isfinite(x).all():
        return "x is not recorded"
    distinct = [len(np.unique(column)) for column in x.T]
    if kind == "both":
        if min(distinct) < 3 or len(x) < 6:
            return f"{distinct[0]} sizes and {distinct[1]} budgets; it needs 3 of each and 6 models"
    elif distinct[0] < LEAST_POINTS:
        return f"{distinct[0]} values of {kind}; a fit needs {LEAST_POINTS}"
    return None


def _frontier(compute: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Which models no other one of the arm beats with at most as much compute."""
    dominated = (compute[None] <= compute[:, None]) & (loss[None] < loss[:, None])
    return np.asarray(~dominated.any(axis=1))


# --- where arms cross ------------------------------------------------------------------------


@dataclass(frozen=True)
class Crossing:
    """Where two arms' fits cross: inside the range both were measured in, and past it."""

    a: str
    b: str
    at: str
    inside: Crossover
    beyond: Crossover | None
    """Extrapolated to REACH times the largest size; None where they cross inside."""

    @property
    def text(self) -> str:
        """One line that says all of it."""
        found = f"{self.a} and {self.b} at {self.at}: {self._inside()}"
        return f"{found}; {self._beyond()}" if self.beyond else found

    def _inside(self) -> str:
        place = self.inside.interval
        reason = self.inside.reason if place else _better(self.inside.reason)
        return f"{_size(place)}, {reason}" if place else reason

    def _beyond(self) -> str:
        assert self.beyond is not None
        if self.beyond.interval is None:
            return f"nor up to {REACH:g} x the largest (extrapolated)"
        return f"extrapolated, the fits cross at {_size(self.beyond.interval)}"


def _better(reason: str) -> str:
    """Ahead in cost is a lower loss: say so."""
    return reason.replace("is ahead throughout", "has the lower loss throughout")


def _size(place: Interval) -> str:
    known = np.isfinite(place.low)
    ends = f" [{millions(place.low)}, {millions(place.high)}]" if known else " [no interval]"
    return f"{millions(place.estimate)} parameters{ends}"


def crossings(records: pd.DataFrame, found: Scaling) -> list[Crossing]:
    """For each token budget and pair of arms: from which size on their order no longer changes."""
    laws = {(f.arm, f.at): f for f in found.fits if f.variable == "parameters"}
    budgets = dict.fromkeys(at for _, at in laws)
    return [
        crossing(laws[a, at], laws[b, at])
        for at in budgets
        for a, b in ratios.sides(records)
        if (a, at) in laws and (b, at) in laws
    ]


def crossing(a: Fit, b: Fit) -> Crossing:
    """Where the fits of a and b cross; resample i of one belongs to resample i of the other."""
    low, high = max(a.low, b.low), min(a.high, b.high)
    inside = _crossover(a, b, np.geomspace(low, high, 200))
    beyond = None
    if inside.interval is None:
        beyond = _crossover(a, b, np.geomspace(high, REACH * high, 200))
    return Crossing(a.arm, b.arm, a.at, inside, beyond)


def _crossover(a: Fit, b: Fit, x: np.ndarray) -> Crossover:
    middle = np.log(a.at_x(x)) - np.log(b.at_x(x))
    n = min(a.n, b.n)
    drawn = np.log(a.draws_at(x)) - np.log(b.draws_at(x)) if n > 1 else middle[None]
    return resampled_crossover(np.log(x), middle, drawn, (a.arm, b.arm), n)
