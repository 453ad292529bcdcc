"""Scaling laws of the held-out loss, fitted to records.

The law is L(x) = E + A x^-alpha with an irreducible loss E, against parameters (at one token
budget, or at one number of tokens a parameter), tokens (at one size) or training compute (along the
frontier: no other model of the arm is better for less compute); and L(N, D) = E + A N^-alpha +
B D^-beta over all models, N being the body's parameters. How they are fitted, and what their
intervals hold: `statistics.power_law`. The losses are resampled by `replication.draw`: documents
are drawn once for all arms and sizes, seeds for each model by itself from the scatter of the seeds
of its arm, which is taken to be alike at all sizes and budgets, relative to the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import power_law, replication
from retnet_bench.analysis.statistics.intervals import Interval, percentiles
from retnet_bench.analysis.statistics.power_law import PowerLaw
from retnet_bench.analysis.tables import best_rates, rows
from retnet_bench.base import UserError
from retnet_bench.results.numbers import short

T = TypeVar("T")
N_REFITS = 500
UNITS = {"bits per byte": ("bytes", np.log(2)), "nat per token": ("tokens", 1.0)}
"""Unit of the loss -> what it is counted per, and nat in one of it."""
JOINT = "both"
"""The variable of the law in parameters and tokens."""
ALIKE = 1.05
"""Budgets (or compute) whose ratio is smaller count as one: arms are matched, not equal, and
trainings have whole steps."""
_CONTRACT = ["length", "dtype", "corpus", "tokenizer", "machine", "context"]


@dataclass(frozen=True)
class Fit:
    """A law fitted to one arm's losses, and what its points are."""

    arm: str
    variable: str
    """parameters, tokens, compute or JOINT."""
    at: str
    """What was held, in words: a token budget, a size."""
    unit: str
    seeds: int
    law: PowerLaw
    ends: np.ndarray  # (P, 2) 95 % intervals of the losses; nan where there are none
    flops: np.ndarray  # (P,) of training, a token
    tokens: np.ndarray  # (P,)
    nat_per_token: float
    """What one of `unit` is in nat per token of the scored documents; nan where not recorded."""
    sizes: tuple[str, ...]
    """Names of the sizes of the points (P,)."""

    @property
    def compute(self) -> np.ndarray:
        """FLOPs of the training of each point (P,)."""
        return self.flops * self.tokens

    @property
    def low(self) -> float:
        return float(self.law.x[:, 0].min())

    @property
    def high(self) -> float:
        return float(self.law.x[:, 0].max())

    def has(self, size: str, tokens: float) -> bool:
        """Whether a point is of that size and as good as that many tokens."""
        ratios = self.tokens[np.array(self.sizes) == size] / tokens
        return bool(((ratios < ALIKE) & (ratios > 1 / ALIKE)).any())

    def floor(self) -> Interval:
        """E in nat per token."""
        estimate, low, high, n = self.law.coefficients()["E"]
        ratio = self.nat_per_token
        return Interval(ratio * estimate, ratio * low, ratio * high, n)


@dataclass(frozen=True)
class Model:
    """One arm at one size and token budget, with what its seeds scored."""

    arm: str
    size: str
    n_params: float
    n_body: float
    """Without the embedding; all of them where that was not recorded."""
    tokens: float
    flops: float
    """Of training, a token; nan where not recorded."""
    scored: pd.DataFrame

    @property
    def compute(self) -> float:
        return self.flops * self.tokens


@dataclass(frozen=True)
class Losses:
    """Losses of models in one unit, resampled together: level (P,), drawn (R, P; none where they
    have no interval), seeds (P,), and the documents behind them (1 where there is no interval)."""

    level: np.ndarray
    drawn: np.ndarray
    seeds: np.ndarray
    n: int
    nat_per_token: float


@dataclass(frozen=True)
class Scaling:
    """Every fit the records have models for, and why the others are not there."""

    fits: list[Fit]
    missing: list[str]

    def joint(self) -> dict[str, Fit]:
        """The laws in parameters and tokens, by arm."""
        return {fit.arm: fit for fit in self.fits if fit.variable == JOINT}

    def unlike(self) -> list[str]:
        """What makes the joint laws a less than even comparison: a sentence for each arm that has
        trainings which another arm lacks."""
        laws = self.joint()
        found = []
        for arm, fit in laws.items():
            alone = [
                f"{size} at {short(tokens)} tokens"
                for size, tokens in zip(fit.sizes, fit.tokens, strict=True)
                if not all(other.has(size, tokens) for other in laws.values())
            ]
            if alone:
                found.append(
                    f"The law of {arm} is also of what not all arms have: {', '.join(alone)}"
                )
        return found


def fits(records: pd.DataFrame, unit: str = "bits per byte", variable: str = "") -> Scaling:
    """Laws of the loss in `unit` (a key of UNITS), for every arm: against parameters, tokens,
    compute, and jointly; or the one named `variable`. Each arm is taken at its own best learning
    rate, where there are several. Fits of one kind share their resamples, so that they can be
    compared resample by resample."""
    found: list[Fit] = []
    missing: list[str] = []
    for kind, at, group in _groups(models(records)):
        if variable not in ("", kind):
            continue
        fitted = _fit_arms(kind, at, group, unit)
        found += [fit for fit in fitted if isinstance(fit, Fit)]
        missing += [why for why in fitted if isinstance(why, str)]
    return Scaling(found, missing)


def models(records: pd.DataFrame) -> list[Model]:
    """Every trained model that was scored. UserError for those of several contracts."""
    scored = rows.documents(best_rates.at_best(records))
    keys = ["arm", "size", "n_params", "token_budget"]
    _one_contract(scored)
    return [_model(group) for _, group in scored.groupby(keys)]


def _model(group: pd.DataFrame) -> Model:
    first = group.iloc[0]
    n_params, tokens = float(first["n_params"]), float(first["token_budget"])
    n_body = float(first["n_body_params"]) if pd.notna(first["n_body_params"]) else n_params
    flops = float(group["flops_per_token"].astype(float).iloc[0])  # nan where not recorded
    return Model(first["arm"], first["size"], n_params, n_body, tokens, flops, group)


def _one_contract(scored: pd.DataFrame) -> None:
    for name in _CONTRACT:
        if scored[name].nunique() > 1:
            values = ", ".join(map(str, sorted(scored[name].dropna().unique())))
            raise UserError(
                f"scaling laws need one {name}, these records have {values}; fit them apart"
            )


def _groups(found: list[Model]) -> Iterator[tuple[str, str, list[Model]]]:
    """(kind, what is held, the models of all arms) for each family of fits."""
    for tokens in sorted({m.tokens for m in found}):
        group = [m for m in found if m.tokens == tokens]
        if len({m.size for m in group}) > 1:
            yield "parameters", f"{tokens:,.0f} tokens", group
    for ratio, group in alike(found, lambda m: m.tokens / m.n_body):
        sizes = {m.size for m in group}
        if len(sizes) >= power_law.LEAST_POINTS and len({m.tokens for m in group}) > 1:
            yield "parameters", f"{ratio:.2g} tokens a parameter", group
    names = sorted({(m.n_params, m.size) for m in found})
    for name in dict.fromkeys(size for _, size in names):
        group = [m for m in found if m.size == name]
        if len({m.tokens for m in group}) > 1:
            yield "tokens", f"size {name}", group
    if found:
        yield "compute", "frontier", found
    if len({m.tokens for m in found}) > 1:
        yield JOINT, "all models", found


def alike(found: Iterable[T], value: Callable[[T], float]) -> list[tuple[float, list[T]]]:
    """Things by `value`, those of nearly the same (ALIKE) together: its geometric mean, and them.
    What has no value is left out."""
    groups: list[list[T]] = []
    for one in sorted((one for one in found if np.isfinite(value(one))), key=value):
        if not groups or value(one) > ALIKE * value(groups[-1][0]):
            groups.append([])
        groups[-1].append(one)
    return [(float(np.exp(np.mean(np.log(list(map(value, g)))))), g) for g in groups]


def losses(group: list[Model], unit: str) -> Losses | None:
    """What the models of all arms scored on the documents that all of them did; None without any
    such document."""
    per, nats = UNITS[unit]
    scores = rows.scores([model.scored for model in group], per)
    if not scores[0].units.size:
        return None
    draws = replication.draw(scores, N_REFITS, alike=[model.arm for model in group])
    level, drawn = draws.level / nats, draws.drawn / nats
    seeds = np.array([len(one.nll) for one in scores])
    counted = rows.scores([model.scored for model in group], "tokens")[0].units.sum()
    ratio = float(nats * scores[0].units.sum() / counted) if counted else np.nan
    if not draws.known:
        return Losses(level, drawn[:0], seeds, 1, ratio)
    return Losses(level, drawn, seeds, draws.n, ratio)


def _fit_arms(kind: str, at: str, group: list[Model], unit: str) -> list[Fit | str]:
    """A Fit for each arm, or why there is none; the arms share their draws."""
    found = losses(group, unit)
    if found is None:
        return [f"loss against {kind}, {at}: no document that every model scored"]
    fitted: list[Fit | str] = []
    reasons: dict[str, list[str]] = {}
    for arm in sorted({model.arm for model in group}):
        members = np.array([i for i, model in enumerate(group) if model.arm == arm])
        flops = np.array([group[i].flops for i in members])
        tokens = np.array([group[i].tokens for i in members])
        if kind == "compute":
            kept = frontier(flops * tokens, found.level[members])
            members, flops, tokens = members[kept], flops[kept], tokens[kept]
        x = np.array([_place(kind, group[i]) for i in members])
        if why := power_law.why_not(x):
            reasons.setdefault(why, []).append(arm)
            continue
        level, drawn = found.level[members], found.drawn[:, members]
        law = power_law.fit(x, level, drawn, found.n)
        ends = np.array([percentiles(*point, found.n)[1:3] for point in zip(level, drawn.T)])
        seeds = int(found.seeds[members].min())
        sizes = tuple(group[i].size for i in members)
        ratio = found.nat_per_token
        fitted.append(Fit(arm, kind, at, unit, seeds, law, ends, flops, tokens, ratio, sizes))
    name = "joint law" if kind == JOINT else kind
    return [*fitted, *(f"{', '.join(a)}, {name}, {at}: {why}" for why, a in reasons.items())]


def _place(kind: str, model: Model) -> list[float]:
    places = {"parameters": [model.n_params], "tokens": [model.tokens], "compute": [model.compute]}
    return places.get(kind, [model.n_body, model.tokens])


def frontier(compute: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Which models no other one of the arm beats with at most as much compute."""
    dominated = (compute[None] <= compute[:, None]) & (loss[None] < loss[:, None])
    return np.asarray(~dominated.any(axis=1))
