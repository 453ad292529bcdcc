"""What the statistics and the gate do under simulated noise: coverage, false alarms, power.

The noise is fitted to the reference records (analysis/noise.py). `tests/stats/report.py` prints
the long version, tests/analysis/test_analysis_simulation.py asserts a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retnet_bench.analysis import noise, statistics
from retnet_bench.analysis.decision import INCONCLUSIVE, PASS, REGRESSION, Policy, bounds, decide
from retnet_bench.analysis.floor import Floor
from retnet_bench.analysis.noise import Noise
from retnet_bench.analysis.statistics import Interval
from retnet_bench.results.store import read_records

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = {  # study: metric, default blocks, cells
    "train_throughput": ("train_step_s", 6, 18),
    "decode": ("decode_step_s", 8, 32),
}


def fitted() -> dict[str, Noise]:
    """The noise of each reference study."""
    return {s: noise.fit(read_records(RESULTS / s), metric) for s, (metric, *_) in STUDIES.items()}


def blocks(logs: np.ndarray, processes: int = 1) -> list[statistics.Block]:
    """Log-times (processes * blocks,) as the statistics take them."""
    each = np.repeat(np.arange(processes), len(logs) // processes)
    return [(int(p), np.array([np.exp(value)])) for p, value in zip(each, logs, strict=True)]


def ratios(sets: np.ndarray, effect: float, processes: int, paired: bool) -> list[Interval]:
    """candidate / baseline of every trial, (trials, 2, blocks), the candidate slower by `effect`."""
    ratio = statistics.log_ratio if paired else statistics.unpaired_ratio
    return [
        ratio(blocks(a + np.log1p(effect), processes), blocks(b, processes), n_resamples=1000)
        for a, b in sets
    ]


def draw(model: Noise, seed: int, trials: int, n: int, paired: bool = True, **more) -> np.ndarray:
    """Two equal things (trials, 2, processes * n): interleaved, or in two sessions."""
    random = np.random.default_rng(seed)
    if paired:
        return noise.simulate(model, random, trials=trials, blocks=n, **more)
    sides = [noise.simulate(model, random, trials=trials, blocks=n, arms=1, **more) for _ in "ab"]
    return np.concatenate(sides, axis=1)


def coverage(model: Noise, n: int, *, trials: int, paired: bool = True, seed: int = 0, processes: int = 1, process_sd: float = 0.0) -> float:  # fmt: skip
    """Share of 95 % intervals of a ratio that hold the true one, 1."""
    sets = draw(model, seed, trials, n, paired, processes=processes, process_sd=process_sd)
    found = ratios(sets, 0.0, processes, paired)
    return float(np.mean([r.low <= 1 <= r.high for r in found]))


def center_coverage(model: Noise, n: int, *, trials: int, seed: int = 0) -> float:
    """The same for the time of one arm itself; the truth is the median over very many blocks."""
    random = np.random.default_rng(seed)
    truth = np.exp(np.median(noise.simulate(model, random, trials=20_000, blocks=n, arms=1)))
    sets = noise.simulate(model, random, trials=trials, blocks=n, arms=1)[:, 0]
    found = [statistics.center(blocks(one), n_resamples=1000) for one in sets]
    return float(np.mean([r.low <= truth <= r.high for r in found]))


def outcomes(model: Noise, n: int, cells: int, *, studies: int, slower: Sequence[float] = (), paired: bool = True, floor: float | None = None, policy: Policy | None = None, seed: int = 0, processes: int = 1, process_sd: float = 0.0) -> list[list[str]]:  # fmt: skip
    """Verdicts of each cell in each of `studies` gates; the first cells are `slower` by so much."""
    policy = policy or Policy()
    sets = draw(model, seed, studies * cells, n, paired, processes=processes, process_sd=process_sd)
    effects = np.zeros(cells)
    effects[: len(slower)] = slower
    within = bounds(Floor(floor, 9), paired, policy)
    found = []
    for study in range(studies):
        mine = sets[study * cells : (study + 1) * cells]
        each = [
            ratios(one[None], effect, processes, paired)[0] for one, effect in zip(mine, effects)
        ]
        found.append([d.verdict for d in decide(each, [within] * cells, policy)])
    return found


def false_alarms(verdicts: list[list[str]]) -> float:
    """Share of studies with any regression."""
    return float(np.mean([REGRESSION in study for study in verdicts]))


def missed(verdicts: list[list[str]], cell: int = 0) -> float:
    """Share of studies in which a slow cell passed."""
    return float(np.mean([study[cell] not in (REGRESSION, INCONCLUSIVE) for study in verdicts]))


def caught(verdicts: list[list[str]], cell: int = 0) -> float:
    """Share of studies in which a slow cell is called a regression."""
    return float(np.mean([study[cell] == REGRESSION for study in verdicts]))


def passed(verdicts: list[list[str]]) -> float:
    """Share of cells that pass."""
    return float(np.mean([v == PASS for study in verdicts for v in study]))
