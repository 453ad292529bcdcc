"""Do the intervals of fitted scaling laws hold the law that was planted?

A design is a grid of models as a study trains them; a trial draws its losses (documents and seeds
vary, the law does not), fits both arms, and asks of every interval whether the truth is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retnet_bench.analysis.statistics import compute_optimal, power_law, replication
from retnet_bench.analysis.statistics.compute_optimal import Frontier
from retnet_bench.analysis.statistics.power_law import PowerLaw
from retnet_bench.analysis.statistics.replication import Scores
from retnet_bench.analysis.tables import scaling

DOCUMENTS = 24
SHARED, OWN, LUCK = 0.05, 0.003, 0.003
"""Relative standard deviations: of a document for all models, of a document for one model, and of a
seed. Those of results/scaling are of this size."""
HEAD = 0.3e6
"""FLOPs a token are 6 (N + HEAD): small models also pay for the head and for attention."""


@dataclass(frozen=True)
class Law:
    """L = E + A (N / 1M)^-alpha + B (D / 10M)^-beta."""

    floor: float
    a: float
    alpha: float
    b: float
    beta: float

    def __call__(self, sizes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        by_size = self.a * (sizes / 1e6) ** -self.alpha
        return self.floor + by_size + self.b * (tokens / 1e7) ** -self.beta

    def coefficients(self) -> dict[str, float]:
        scales = {"A": self.a * 1e6**self.alpha, "B": self.b * 1e7**self.beta}
        return {"E": self.floor, "alpha": self.alpha, "beta": self.beta, **scales}


@dataclass(frozen=True)
class Design:
    """Models of one arm: size, tokens and number of seeds of each."""

    sizes: np.ndarray
    tokens: np.ndarray
    seeds: Sequence[int]

    @property
    def flops(self) -> np.ndarray:
        return 6 * (self.sizes + HEAD)

    @property
    def x(self) -> np.ndarray:
        return np.stack([self.sizes, self.tokens], axis=1)


def by_rule(*rows: tuple[float, Sequence[float], int]) -> Design:
    """(size, tokens a parameter, seeds)."""
    points = [(size, size * ratio, seeds) for size, ratios, seeds in rows for ratio in ratios]
    sizes, tokens, seeds = zip(*points, strict=True)
    return Design(np.array(sizes), np.array(tokens), seeds)


SCALING = by_rule(
    (0.1e6, (5, 20, 80), 3), (0.4e6, (5, 20, 80), 3), (0.8e6, (20,), 3), (1.8e6, (20,), 1)
)
"""The grid of the study `scaling`."""
GRID = by_rule(*((size, (5, 20, 80), 3) for size in (0.1e6, 0.4e6, 0.8e6, 1.8e6)))
FASTER = Law(1.2, 0.9, 0.30, 0.35, 0.40)
SLOWER = Law(1.2, 0.98, 0.30, 0.35, 0.40)


@dataclass(frozen=True)
class Trial:
    """Both arms' laws and frontiers, as one study would have them."""

    laws: list[PowerLaw]
    frontiers: list[Frontier]


def draw(design: Design, laws: Sequence[Law], random: np.random.Generator) -> Trial:
    documents = SHARED * random.standard_normal(DOCUMENTS)
    points = []
    for law in laws:
        for level, seeds in zip(law(design.sizes, design.tokens), design.seeds, strict=True):
            luck = LUCK * random.standard_normal((seeds, 1))
            own = OWN * random.standard_normal((seeds, DOCUMENTS))
            points.append(Scores(level * (1 + documents + luck + own), np.ones(DOCUMENTS)))
    n = len(design.sizes)
    arms = [i for i in range(len(laws)) for _ in range(n)]
    found = replication.draw(points, scaling.N_REFITS, alike=arms)
    fitted = [
        power_law.fit(design.x, found.level[at], found.drawn[:, at], found.n)
        for at in (slice(i * n, (i + 1) * n) for i in range(len(laws)))
    ]
    compute = design.flops * design.tokens
    ends = compute.min(), compute.max()
    return Trial(
        fitted,
        [compute_optimal.frontier(str(i), f, design.flops, *ends) for i, f in enumerate(fitted)],
    )


def best(law: Law, compute: float) -> tuple[float, float]:
    """Size and loss of the best model that `compute` trains, on a grid of 20,000 sizes."""
    sizes = np.geomspace(1e3, 1e9, 20_000)
    loss = law(sizes, compute / (6 * (sizes + HEAD)))
    return float(sizes[loss.argmin()]), float(loss.min())


def compute_for(law: Law, loss: float) -> float:
    """The least compute that reaches `loss`, by bisection."""
    low, high = 1e8, 1e22
    while high / low > 1 + 1e-6:
        middle = np.sqrt(low * high)
        low, high = (low, middle) if best(law, middle)[1] < loss else (middle, high)
    return low


def truths(design: Design, laws: Sequence[Law]) -> dict[str, float]:
    """What each interval of `intervals` should hold."""
    first, second = laws
    middle, most = _levels(design)
    known = first.coefficients()
    known["loss between"] = float(first(*_between(design)))
    known["best size"], known["best loss"] = best(first, middle)
    known["best loss at most compute"] = best(first, most)[1]
    known["compute ratio"] = compute_for(first, best(second, most)[1]) / most
    return known


def intervals(design: Design, trial: Trial) -> dict[str, tuple[float, float]]:
    middle, most = _levels(design)
    first, second = trial.frontiers
    found = trial.laws[0].coefficients() | {
        "best size": first.interval("size", middle),
        "best loss": first.interval("loss", middle),
        "best loss at most compute": first.interval("loss", most),
        "compute ratio": compute_optimal.compute_ratio(first, second, most),
    }
    ends = {name: (one.low, one.high) for name, one in found.items()}
    low, high = trial.laws[0].band(np.array([_between(design)]))
    return ends | {"loss between": (float(low[0]), float(high[0]))}


def _levels(design: Design) -> tuple[float, float]:
    compute = design.flops * design.tokens
    return float(np.sqrt(compute.min() * compute.max())), float(compute.max())


def _between(design: Design) -> tuple[float, float]:
    """Size and tokens in the middle of the grid, where no model was trained."""
    return float(np.exp(np.log(design.sizes).mean())), float(np.exp(np.log(design.tokens).mean()))


def coverage(
    design: Design, trials: int, laws: Sequence[Law] = (FASTER, SLOWER), seed: int = 0
) -> dict[str, float]:
    """Share of trials in which each 95 % interval holds the truth of the first arm, and of the
    compute that it needs for the second one's loss."""
    random = np.random.default_rng(seed)
    wanted = truths(design, laws)
    hits = dict.fromkeys(wanted, 0)
    for _ in range(trials):
        for name, (low, high) in intervals(design, draw(design, laws, random)).items():
            hits[name] += bool(low <= wanted[name] <= high)
    return {name: count / trials for name, count in hits.items()}
