"""What compute buys each arm, by its joint law; and isoFLOP curves where models had equal compute.

Frontiers, ratios and minima come with intervals of the same resamples as the laws themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import compute_optimal, isoflop
from retnet_bench.analysis.statistics.compute_optimal import Frontier
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.statistics.isoflop import Parabola
from retnet_bench.analysis.tables import ratios, scaling
from retnet_bench.analysis.tables.scaling import Fit, Model, Scaling
from retnet_bench.results.numbers import short

NEAR = 2.0
"""How far past the models measured a best one may lie without being called extrapolated: twofold.
The model of most compute has most of both, so that the best one has a little more of either."""


@dataclass(frozen=True)
class Optimum:
    """The frontier of every arm that has a joint law, and the compute that all of them were
    measured at."""

    frontiers: dict[str, Frontier]
    low: float
    high: float
    measured: dict[str, np.ndarray]
    """By arm the least and the greatest size, and tokens, of its models: (2, 2)."""

    def beyond(self, arm: str, compute: float) -> str:
        """In words how far an arm's best model for `compute` lies past the sizes or tokens of those
        measured; empty where it lies among or NEAR them."""
        for (low, high), of, unit in zip(
            self.measured[arm].T, ("size", "tokens"), ("parameters", "tokens"), strict=True
        ):
            place = self.frontiers[arm].interval(of, compute).estimate
            if not low / NEAR <= place <= NEAR * high:
                return f"{short(place)} {unit}, where {short(low)} to {short(high)} were measured"
        return ""

    @property
    def levels(self) -> list[float]:
        """Compute at which the arms are compared: least, middle and most of what was measured."""
        return [float(level) for level in np.geomspace(self.low, self.high, 3)]


@dataclass(frozen=True)
class Bought:
    """What one compute buys one arm: the loss, and by which size and tokens."""

    compute: float
    arm: str
    loss: Interval
    size: Interval
    tokens: Interval
    beyond: str
    """See `Optimum.beyond`."""
    over: str = ""
    """The arm it is compared with; empty for that arm itself."""
    ratio: Interval | None = None
    """Compute that the arm needs for the loss that `over` has at `compute`, over `compute`."""


@dataclass(frozen=True)
class IsoFlop:
    """Models of one arm at one compute, with the parabola through their losses."""

    arm: str
    compute: float
    curve: Parabola


def optimum(found: Scaling) -> Optimum | None:
    """Of the joint laws among `found`; None without any whose compute was recorded."""
    laws = {arm: fit for arm, fit in found.joint().items() if np.isfinite(fit.compute).all()}
    if not laws:
        return None
    low = max(float(fit.compute.min()) for fit in laws.values())
    high = min(float(fit.compute.max()) for fit in laws.values())
    frontiers = {
        arm: compute_optimal.frontier(arm, fit.law, fit.flops, low, high)
        for arm, fit in laws.items()
    }
    measured = {
        arm: np.stack([fit.law.x.min(axis=0), fit.law.x.max(axis=0)]) for arm, fit in laws.items()
    }
    return Optimum(frontiers, low, high, measured)


def bought(records: pd.DataFrame, best: Optimum | None) -> list[Bought]:
    """A row for each of `best.levels` and arm; each arm beside the one that it is compared with.
    Nothing without a joint law."""
    if best is None:
        return []
    against = {a: b for a, b in ratios.sides(records) if {a, b} <= best.frontiers.keys()}
    return [
        _bought(best, compute, arm, against.get(arm, ""))
        for compute in best.levels
        for arm in best.frontiers
    ]


def _bought(best: Optimum, compute: float, arm: str, over: str) -> Bought:
    own = best.frontiers[arm]
    loss, size, tokens = (own.interval(of, compute) for of in ("loss", "size", "tokens"))
    beyond = best.beyond(arm, compute)
    if not over:
        return Bought(compute, arm, loss, size, tokens, beyond)
    ratio = compute_optimal.compute_ratio(own, best.frontiers[over], compute)
    return Bought(compute, arm, loss, size, tokens, beyond, over, ratio)


def slice_of(fit: Fit, compute: float, sizes: np.ndarray) -> np.ndarray:
    """The joint law's loss at sizes (n,) that are trained with one `compute` each."""
    return fit.law.at(np.stack([sizes, tokens_of(fit, compute, sizes)], axis=1))


def tokens_of(fit: Fit, compute: float, sizes: np.ndarray) -> np.ndarray:
    """Tokens (n,) that sizes (n,) see when each is trained with `compute`."""
    per_token = compute_optimal.log_flops(fit.law.x[:, 0], fit.flops, np.log(sizes))
    return compute / np.exp(per_token)


def isoflops(records: pd.DataFrame, unit: str = "bits per byte") -> list[IsoFlop]:
    """A parabola for each arm and compute at which it has models of LEAST_SIZES sizes."""
    group = scaling.models(records)
    chosen = list(_at_equal_compute(group))
    losses = scaling.losses(group, unit) if chosen else None
    if losses is None:
        return []
    place = {id(model): i for i, model in enumerate(group)}
    found = []
    for compute, members in chosen:
        at = [place[id(model)] for model in members]
        sizes = np.array([model.n_body for model in members])
        curve = isoflop.fit(sizes, losses.level[at], losses.drawn[:, at], losses.n)
        found.append(IsoFlop(members[0].arm, compute, curve))
    return found


def _at_equal_compute(group: list[Model]) -> Iterator[tuple[float, list[Model]]]:
    for arm in sorted({model.arm for model in group}):
        own = [model for model in group if model.arm == arm]
        for compute, members in scaling.alike(own, lambda model: model.compute):
            if len({model.size for model in members}) >= isoflop.LEAST_SIZES:
                yield compute, sorted(members, key=lambda model: model.n_body)
