"""Where the fitted laws of two arms cross: in parameters, tokens or compute, or that they don't."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import compute_optimal
from retnet_bench.analysis.statistics.crossings import Crossover
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import ratios
from retnet_bench.analysis.tables.optimum import Optimum
from retnet_bench.analysis.tables.scaling import Fit, Scaling, alike
from retnet_bench.results.numbers import millions, short
from retnet_bench.results.quantities import COMPUTATION

REACH = 10.0
"""How far past the largest x fits are followed: ten times."""
LEAST_TOGETHER = 3
"""Models at one number of tokens a parameter that make it what is held while the size grows."""
_STEPS = 200
_Words = Callable[[float], str]
_PLACES: dict[str, tuple[_Words, str]] = {
    "parameters": (millions, " parameters"),
    "tokens": (short, " tokens"),
    "compute": (lambda value: COMPUTATION.rounded(value, 3), ""),
}
"""What fits cross in -> how a place is written, and what stands behind the first."""


@dataclass(frozen=True)
class Crossing:
    """Where two arms' fits cross: inside the range both were measured in, and past it."""

    a: str
    b: str
    variable: str
    """What the places are: parameters, tokens or compute."""
    at: str
    inside: Crossover
    beyond: Crossover | None
    """Extrapolated to REACH times the largest place; None where they cross inside."""

    @property
    def text(self) -> str:
        """One line that says all of it."""
        found = f"{self.a} and {self.b} at {self.at}: {self._inside()}"
        return f"{found}; {self._beyond()}" if self.beyond else found

    def _inside(self) -> str:
        place = self.inside.interval
        reason = self.inside.reason if place else _better(self.inside.reason)
        return f"{_place(place, self.variable)}, {reason}" if place else reason

    def _beyond(self) -> str:
        assert self.beyond is not None
        if self.beyond.interval is None:
            return f"nor up to {REACH:g} x the largest (extrapolated)"
        return f"extrapolated, the fits cross at {_place(self.beyond.interval, self.variable)}"


def _better(reason: str) -> str:
    """Ahead in cost is a lower loss: say so."""
    return reason.replace("is ahead throughout", "has the lower loss throughout")


def _place(place: Interval, variable: str) -> str:
    words, unit = _PLACES[variable]
    known = not np.isnan(place.low)
    ends = f" [{words(place.low)}, {words(place.high)}]" if known else " [no interval]"
    return f"{words(place.estimate)}{unit}{ends}"


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

    def look(low: float, high: float) -> Crossover:
        path = np.geomspace(low, high, _STEPS)[:, None]
        return compute_optimal.crossing_along(a.law, b.law, path, 0, (a.arm, b.arm))

    return _crossing((a.arm, b.arm), a.variable, a.at, look, (low, high))


def joint(records: pd.DataFrame, found: Scaling, best: Optimum) -> list[Crossing]:
    """For each pair of arms that have joint laws: where these cross in parameters, in tokens, and
    in compute when each arm takes its best size for it."""
    laws = found.joint()
    pairs = [(laws[a], laws[b]) for a, b in ratios.sides(records) if a in laws and b in laws]
    return [one for a, b in pairs for one in _joint(a, b, best)]


def _joint(a: Fit, b: Fit, best: Optimum) -> Iterator[Crossing]:
    names = (a.arm, b.arm)
    sizes, tokens = (_common(a.law.x[:, i], b.law.x[:, i]) for i in (0, 1))
    words, budget = _held(b)

    def in_size(low: float, high: float) -> Crossover:
        places = np.geomspace(low, high, _STEPS)
        path = np.stack([places, budget(places)], axis=1)
        return compute_optimal.crossing_along(a.law, b.law, path, 0, names)

    def in_tokens(low: float, high: float) -> Crossover:
        path = np.stack([np.full(_STEPS, sizes[1]), np.geomspace(low, high, _STEPS)], axis=1)
        return compute_optimal.crossing_along(a.law, b.law, path, 1, names)

    def in_compute(low: float, high: float) -> Crossover:
        return compute_optimal.crossing(best.frontiers[a.arm], best.frontiers[b.arm], low, high)

    yield _crossing(names, "parameters", words, in_size, sizes)
    yield _crossing(names, "tokens", f"{millions(sizes[1])} parameters", in_tokens, tokens)
    yield _crossing(names, "compute", "their best sizes", in_compute, (best.low, best.high))


def _common(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The range that both were measured in."""
    return float(max(a.min(), b.min())), float(min(a.max(), b.max()))


def _held(fit: Fit) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """What is held while the size grows, in words and as tokens by size: the number of tokens a
    parameter that most sizes were trained at, else the budget."""
    sizes, tokens = fit.law.x.T
    ratio, together = _most(tokens / sizes)
    if together >= LEAST_TOGETHER:
        return f"{short(ratio)} tokens a parameter", lambda n: ratio * n
    budget, _ = _most(tokens)
    return f"{short(budget)} tokens", lambda n: np.full(len(n), budget)


def _most(values: np.ndarray) -> tuple[float, int]:
    """The value that most of `values` are alike to, of equals the largest, and how many are."""
    groups = [(len(members), value) for value, members in alike(values.tolist(), float)]
    count, value = max(groups)
    return value, count


def _crossing(
    names: tuple[str, str],
    variable: str,
    at: str,
    look: Callable[[float, float], Crossover],
    measured: tuple[float, float],
) -> Crossing:
    inside = look(*measured)
    beyond = None if inside.interval else look(measured[1], REACH * measured[1])
    return Crossing(*names, variable, at, inside, beyond)
