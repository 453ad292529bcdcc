"""What the statistics and the gate do under simulated noise: coverage, false alarms, power.

The noise is fitted to records (stats/noise.py). `tests/stats/report.py` prints the long version,
tests/analysis/test_analysis_simulation.py asserts a short one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from stats import noise
from stats.noise import Noise

from retnet_bench.analysis.statistics import estimates, resampling
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables.floor import Floor
from retnet_bench.analysis.verdicts.decision import (
    PASS,
    REGRESSION,
    Policy,
    blocks_to_settle,
    bounds,
    decide,
)
from retnet_bench.measure.protocol import Protocol
from retnet_bench.results.store import read_records

RESULTS = Path(__file__).parents[2] / "results"
QUIET = Path(__file__).parent / "records"
"""The studies as they once came out on a quiet machine: they stay when `results` is taken anew."""
LOADED = Path(__file__).parent / "records_busy"
"""The same on a machine that others kept busy."""
GATE = RESULTS / "gate_aa"
"""A/A runs of `check gate --against`, two results folders: see tests/trials/gate.py."""


@dataclass(frozen=True)
class Source:
    """Records that a noise is fitted to, and how such cells are measured by default."""

    folder: Path
    metric: str
    blocks: int
    """Of each process."""
    cells: int
    processes: int


USUAL = Protocol()
STUDIES = {
    "train_throughput": Source(
        QUIET / "train_throughput", "train_step_s", USUAL.blocks, 18, USUAL.processes
    ),
    "decode": Source(QUIET / "decode", "decode_step_s", USUAL.blocks, 32, USUAL.processes),
    "gate, training": Source(GATE, "train_step_s", 12, 6, 3),
    "gate, decode": Source(GATE, "decode_step_s", 10, 6, 3),
}
BUSY = {
    f"{name}, busy": replace(STUDIES[name], folder=LOADED / name)
    for name in ("train_throughput", "decode")
}
"""The same of the busy machine: only that ratios cover the truth is asked of it."""
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Design:
    """How two equal things are measured."""

    noise: Noise
    blocks: int
    """Of each process."""
    processes: int = 1
    paired: bool = True
    """Interleaved; else two sessions, each with its own slow part."""

    @property
    def total(self) -> int:
        """Blocks of a side."""
        return self.processes * self.blocks

    def draw(self, trials: int, seed: int) -> np.ndarray:
        """Log-times (trials, 2, processes * blocks)."""
        random = np.random.default_rng(seed)
        arms = [2] if self.paired else [1, 1]
        sides = [
            noise.simulate(
                self.noise,
                random,
                trials=trials,
                blocks=self.blocks,
                processes=self.processes,
                arms=n,
            )
            for n in arms
        ]
        return np.concatenate(sides, axis=1)

    def ratio(self, logs: np.ndarray, effect: float = 0.0) -> Interval:
        """candidate / baseline of one trial (2, n), the candidate slower by `effect`."""
        ratio = estimates.log_ratio if self.paired else estimates.unpaired_ratio
        mine, theirs = self._blocks(logs[0] + np.log1p(effect)), self._blocks(logs[1])
        return ratio(mine, theirs, n_resamples=RESAMPLES)

    def _blocks(self, logs: np.ndarray) -> list[resampling.TimedBlock]:
        process = np.repeat(np.arange(self.processes), self.blocks)
        return resampling.of_values(process, np.exp(logs))


def default(study: str, noise: Noise) -> Design:
    """A cell of the study as it is measured where nothing else is said."""
    source = (STUDIES | BUSY)[study]
    return Design(noise=noise, blocks=source.blocks, processes=source.processes)


def fitted(sources: Mapping[str, Source] = STUDIES) -> dict[str, Noise]:
    """The noise of each study."""
    return {name: noise.fit(_records(s.folder), s.metric) for name, s in sources.items()}


def _records(folder: Path) -> pd.DataFrame:
    """Reference records; the two sides of an A/A run are two arms, and every run a session."""
    if folder != GATE:
        return read_records(folder)
    sides = [read_records(folder / side).assign(side=side) for side in ("candidate", "baseline")]
    found = pd.concat(sides, ignore_index=True)
    pair, arm = found["cell_id"], found["arm"] + " " + found["side"]
    return found.assign(pair_id=pair, arm=arm, cell_id=pair + arm + found["run_id"])


def coverage(design: Design, trials: int, seed: int = 0) -> float:
    """Share of 95 % intervals of a ratio that hold the true one, 1."""
    found = [design.ratio(one) for one in design.draw(trials, seed)]
    return float(np.mean([r.low <= 1 <= r.high for r in found]))


def center_coverage(design: Design, trials: int, seed: int = 0) -> float:
    """The same for the time of one arm itself; the truth is the median of very many blocks."""
    truth = float(np.exp(np.median(design.draw(20_000, seed + 1))))
    sets = design.draw(trials, seed)[:, 0]
    found = [estimates.center(design._blocks(one), n_resamples=RESAMPLES) for one in sets]
    return float(np.mean([r.low <= truth <= r.high for r in found]))


def outcomes(
    design: Design,
    cells: int,
    studies: int,
    slower: Sequence[float] = (),
    floor: float | None = None,
    seed: int = 0,
) -> list[list[str]]:
    """Verdict of each cell in each of `studies` gates; the first cells are `slower` by so much."""
    policy = Policy()
    effects = np.zeros(cells)
    effects[: len(slower)] = slower
    within = [bounds(Floor(floor, 9), design.paired, policy)] * cells
    found = []
    for study in design.draw(studies * cells, seed).reshape(studies, cells, 2, -1):
        ratios = [design.ratio(one, effect) for one, effect in zip(study, effects, strict=True)]
        found.append([made.verdict for made in decide(ratios, within, policy)])
    return found


def alarms(verdicts: list[list[str]]) -> float:
    """Share of studies with any regression."""
    return float(np.mean([REGRESSION in study for study in verdicts]))


def share(verdicts: list[list[str]], *wanted: str) -> float:
    """Share of cells with one of these verdicts."""
    return float(np.mean([v in wanted for study in verdicts for v in study]))


def passed(verdicts: list[list[str]]) -> float:
    """Share of cells that pass, improvements included."""
    return share(verdicts, PASS, "improvement")


def blocks_for_power(design: Design, cells: int, tau: float, trials: int = 200) -> int:
    """Blocks that the gate would ask for at the limit of 5 %, the median over A/A cells."""
    policy = Policy()
    within = bounds(Floor(tau, 9), design.paired, policy)
    level = policy.q / cells
    found = [design.ratio(one) for one in design.draw(trials, 7)]
    return int(np.median([blocks_to_settle(r, within, level, policy) or 0 for r in found]))
