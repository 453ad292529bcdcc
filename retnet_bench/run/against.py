"""Two revisions held against each other: the same cells, block by block, in one session."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from retnet_bench.analysis.tables.floor import Floors, read_floors
from retnet_bench.analysis.verdicts.decision import Policy, half_width_wanted
from retnet_bench.base import UserError
from retnet_bench.results.schema import TIMES
from retnet_bench.results.store import Store
from retnet_bench.run import revisions, stopping
from retnet_bench.run.launchers.revision import serving
from retnet_bench.run.progress import outcome_text
from retnet_bench.run.records import new_run_id
from retnet_bench.run.revisions import Revision
from retnet_bench.run.runner import CellRun, Runner, environment_variables
from retnet_bench.run.session import default_folder
from retnet_bench.study import plan
from retnet_bench.study import study as studies
from retnet_bench.study.plan import Planned
from retnet_bench.study.study import Source, Study
from retnet_bench.workloads import WORKLOADS

MOST_BLOCKS = 100_000
"""No bound: here the interval and the budget end a cell's blocks."""
BUDGET_S = 120.0
"""Seconds for all cells, where none are given."""
ROUNDS = 3
TIMED_SHARE = 0.8
"""Of a round's time; the rest is for starting, warming up and memory."""
CANDIDATE, BASELINE = "candidate", "baseline"

CellRuns = list[CellRun]
"""One cell with both revisions, candidate and baseline."""


@dataclass(frozen=True)
class Measured:
    """Results folders of the two sides, and where a self-test of the study would be."""

    candidate: Path
    baseline: Path
    selftest_of: Path


@contextmanager
def measured(
    study_name: str,
    revision: str,
    policy: Policy,
    budget_s: float,
    allow_dirty: bool,
    console: Console,
) -> Iterator[Measured]:
    """Measure a study with this code and with the code of `revision`, interleaved.

    Records go to `runs/<study>-against-<revision>`, which is held while the context lasts, so that
    they are compared before another call clears them. UserError for a revision that is not there
    or can't be built, and for changes that are not committed unless they are allowed.
    """
    if not budget_s > 0:
        raise UserError(f"--budget is {budget_s:g}, must be a positive number of seconds")
    study, source = studies.load(study_name)
    candidate, baseline = revisions.here(allow_dirty), revisions.build(revision)
    words = f"candidate {candidate.name}, baseline {baseline.name} ({revision}), interleaved"
    console.print(words, highlight=False, soft_wrap=True)
    if candidate.name == baseline.name:
        console.print(
            "both are one revision: what differs between them is this machine's noise",
            highlight=False,
            soft_wrap=True,
        )
    home = default_folder(study, source)
    comparison = _Comparison(
        study=study,
        source=source,
        sides={CANDIDATE: candidate, BASELINE: baseline},
        folder=home.with_name(f"{home.name}-against-{baseline.name}"),
        budget_s=budget_s,
        policy=policy,
        floors=read_floors(home),
    )
    with ExitStack() as contexts:
        stores = {
            side: contexts.enter_context(Store.alone(comparison.folder / side))
            for side in comparison.sides
        }
        comparison.run(stores, console)
        yield Measured(comparison.folder / CANDIDATE, comparison.folder / BASELINE, home)


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """What is measured, by which two revisions, and where the records go."""

    study: Study
    source: Source
    sides: dict[str, Revision]
    folder: Path
    """Gets two results folders, `candidate` and `baseline`."""
    budget_s: float
    """Seconds for all cells together; what a cell leaves goes to those that are not settled."""
    policy: Policy
    floors: Floors

    def run(self, stores: dict[str, Store], console: Console) -> None:
        """Measure every cell with both revisions, in rounds.

        A round gives each cell that is not settled a new process of either revision. So a burst of
        foreign load meets a part of a cell's blocks only, and the luck of one process, its place in
        memory above all, is not taken for the code.
        """
        environment_variables()
        for store in stores.values():
            store.clear()
        runner = Runner(
            self.study.name, new_run_id(), stores[CANDIDATE], study_text=self.source.text
        )
        planned = self._cells()
        with ExitStack() as stack:
            launchers = {
                name: stack.enter_context(serving(revision.tree, revision.python))
                for name, revision in self.sides.items()
            }
            remaining = [
                [CellRun(p, name, launcher) for name, launcher in launchers.items()]
                for p in planned
            ]
            end = time.monotonic() + self.budget_s
            for cell_runs in remaining:
                _choose(runner, cell_runs)
            for number in range(ROUNDS):
                self._round(runner, remaining, number, end)
                over = number == ROUNDS - 1 or self.policy.exact_only or time.monotonic() > end
                done = [over or _settled(cell_runs, number) for cell_runs in remaining]
                for cell_runs in itertools.compress(remaining, done):
                    self._keep(runner, cell_runs, stores, console)
                remaining = [
                    cell_runs
                    for cell_runs, is_done in zip(remaining, done, strict=True)
                    if not is_done
                ]

    def _keep(
        self, runner: Runner, cell_runs: CellRuns, stores: dict[str, Store], console: Console
    ) -> None:
        for cell_run in cell_runs:
            outcome = runner.finish(cell_run)
            stores[cell_run.label].append(outcome.rows, cell_run.planned.cell.cell_id)
            words = f"{outcome.status:<11} {cell_run.label:<9} {outcome_text(outcome)}"
            console.print(words, highlight=False, soft_wrap=True)

    def _round(self, runner: Runner, remaining: list[CellRuns], number: int, end: float) -> None:
        """One process of either revision for each cell, within its share of what is left."""
        for i, cell_runs in enumerate(remaining):
            turns = len(remaining) * (ROUNDS - number) - i
            share_s = TIMED_SHARE * max(end - time.monotonic(), 0.0) / turns
            protocol = cell_runs[0].planned.protocol
            rule = stopping.in_round(protocol, max(share_s, 1.0), last_word=number > 0)
            runner.replicate(cell_runs, number, rule)

    def _cells(self) -> list[Planned]:
        with self.source.named():
            pairs = plan.make(self.study)
        cells = [p for pair in pairs for p in pair if WORKLOADS[p.cell.workload].interleaved]
        able = [p for p in cells if p.unsupported is None]
        if self.policy.exact_only:
            able = [replace(p, cell=replace(p.cell, measure=("memory",))) for p in able]
        if not able:
            raise UserError(f"study {self.study.name} has no cell that can be timed here")
        return [self._within(p, len(able)) for p in able]

    def _within(self, planned: Planned, n_cells: int) -> Planned:
        """The cell with a protocol for its share of the budget."""
        share_s = self.budget_s / n_cells
        floor = self.floors.get(TIMES[planned.cell.workload])
        protocol = replace(
            planned.protocol,
            precision=half_width_wanted(floor, n_cells, self.policy),
            max_blocks=MOST_BLOCKS,
            budget_s=share_s,
            warmup_max_s=max(min(planned.protocol.warmup_max_s, share_s / ROUNDS / 8), 0.1),
        )
        return replace(planned, protocol=protocol)


def _choose(runner: Runner, cell_runs: CellRuns) -> None:
    """Both sides of a cell that leaves its kernel open take what this code finds the fastest."""
    first = cell_runs[0]
    runner.choose(first)
    for other in cell_runs[1:]:
        other.planned, other.choice, other.failure = first.planned, first.choice, first.failure


def _settled(cell_runs: CellRuns, number: int) -> bool:
    """Whether another round would tell nothing more: the interval, of two rounds at least, is
    narrow enough for the gate to be conclusive, or a revision failed."""
    if any(cell_run.failure for cell_run in cell_runs):
        return True
    half_width = stopping.relative_half_width([cell_run.blocks for cell_run in cell_runs])
    wanted = cell_runs[0].planned.protocol.precision
    return number > 0 and wanted is not None and half_width <= wanted
