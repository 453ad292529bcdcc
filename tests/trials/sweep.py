"""A study that trials run as jobs of a real Slurm, and what is asked of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from trials.kill_resume import Place

from retnet_bench.run.jobs import states
from retnet_bench.run.jobs.book import Book

GONE_S = 60.0
"""What the processes of a killed job may take to be gone: Slurm ends them, and the kernel."""
WORKS_S = 900.0
"""What may pass until a first job is at work, or a queue is empty again."""


@dataclass(frozen=True)
class Sweep:
    """The study in a folder, and the command that runs it."""

    place: Place

    def run(self, *options: str, out: Path | None = None) -> str:
        command = [sys.executable, "-m", "retnet_bench", "run", str(self.place.study)]
        return self._said(*command, "--out", str(out or self.place.out), "--no-plot", *options)

    def submit(self, *more: str) -> str:
        return self.run("--on", "slurm", "--slurm", "time=10", "--jobs", "4", *more)

    def status(self) -> str:
        command = [sys.executable, "-m", "retnet_bench", "status", str(self.place.out)]
        return self._said(*command)

    def _said(self, *command: str) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=2 * WORKS_S,
            check=False,
            env=os.environ | {"RETNET_BENCH_CACHE": str(self.place.root / "cache")},
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def states(self) -> list[states.State]:
        return states.of_all(Book(self.place.out))

    def wait(self, states_left: tuple[str, ...], limit_s: float = WORKS_S) -> None:
        """Until no job is in one of these states."""
        last = time.monotonic() + limit_s
        while left := [s.job.title for s in self.states() if s.state in states_left]:
            assert time.monotonic() < last, f"{left} after {limit_s:g} s"
            time.sleep(0.5)


def until(holds: Callable[[], object], what: str) -> None:
    last = time.monotonic() + WORKS_S
    while not holds():
        assert time.monotonic() < last, f"{what}: not within {WORKS_S:g} s"
        time.sleep(0.1)


def scores_of(records: pd.DataFrame) -> pd.DataFrame:
    """What the trained cells score on each document."""
    scored = records[records["metric"] == "document_nll_nat"]
    return scored.set_index(["cell_id", "document"])[["value"]].sort_index()
