"""Two revisions held against each other: the same cells, block by block, in one session."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from retnet_bench.analysis.decision import Policy, half_width_wanted
from retnet_bench.analysis.floor import Floors, read_floors
from retnet_bench.base import UserError
from retnet_bench.results.schema import TIMES
from retnet_bench.results.store import Store
from retnet_bench.study import launch, plan, revisions, stopping
from retnet_bench.study import study as studies
from retnet_bench.study.plan import Planned
from retnet_bench.study.progress import outcome_text
from retnet_bench.study.records import new_run_id
from retnet_bench.study.revisions import Revision
from retnet_bench.study.run import default_folder
from retnet_bench.study.runner import Runner, Track, environment_variables
from retnet_bench.study.study import Source, Study
from retnet_bench.workloads import WORKLOADS

MOST_BLOCKS = 100_000
"""No bound: here the interval and the budget end a cell's blocks."""
CANDIDATE, BASELINE = "candidate", "baseline"


@dataclass(frozen=True)
class Measured:
    """Results folders of the two sides, and where a self-test of the study would be."""

    candidate: Path
    baseline: Path
    selftest_of: Path


def measure(
    study_name: str,
    revision: str,
    policy: Policy,
    budget_s: float,
    allow_dirty: bool,
    console: Console,
) -> Measured:
    """Measure a study with this code and with the code of `revision`, interleaved.

    Records go to `runs/<study>-against-<revision>`. UserError for a revision that is not there or
    can't be built, and for changes that are not committed unless they are allowed.
    """
    if not budget_s > 0:
        raise UserError(f"--budget is {budget_s:g}, must be a positive number of seconds")
    study, source = studies.load(study_name)
    candidate, baseline = revisions.here(allow_dirty), revisions.build(revision)
    words = f"candidate {candidate.name}, baseline {baseline.name} ({revision}), interleaved"
    console.print(words, highlight=False, soft_wrap=True)
    home = default_folder(study)
    duel = _Duel(
        study=study,
        source=source,
        sides={CANDIDATE: candidate, BASELINE: baseline},
        folder=home.with_name(f"{home.name}-against-{baseline.name}"),
        budget_s=budget_s,
        policy=policy,
        floors=read_floors(home),
    )
    duel.run(console)
    return Measured(duel.folder / CANDIDATE, duel.folder / BASELINE, home)


@dataclass(frozen=True, kw_only=True)
class _Duel:
    """What is measured, by which two revisions, and where the records go."""

    study: Study
    source: Source
    sides: dict[str, Revision]
    folder: Path
    """Gets two results folders, `candidate` and `baseline`."""
    budget_s: float
    """Seconds for all cells together; what a cell leaves goes to the later ones."""
    policy: Policy
    floors: Floors

    def run(self, console: Console) -> None:
        """Measure every cell with both revisions.

        A cell's blocks end when its interval is narrow enough for the gate to be conclusive, or
        when its share of the budget is spent.
        """
        environment_variables()
        cells = self._cells()
        stores = {name: Store(self.folder / name) for name in self.sides}
        for store in stores.values():
            store.clear()
        runner = Runner(
            self.study.name, new_run_id(), stores[CANDIDATE], study_text=self.source.text
        )
        with ExitStack() as stack:
            launchers = {
                name: stack.enter_context(launch.server(revision.tree, revision.python))
                for name, revision in self.sides.items()
            }
            end = time.monotonic() + self.budget_s
            for i, planned in enumerate(cells):
                share_s = max(end - time.monotonic(), 0.0) / (len(cells) - i)
                timed = self._within(planned, share_s, len(cells))
                tracks = [Track(timed, name, launcher) for name, launcher in launchers.items()]
                runner.measure(tracks, stopping.by_protocol(timed.protocol))
                for track in tracks:
                    outcome = runner.finish(track)
                    stores[track.label].append(outcome.rows, planned.cell.cell_id)
                    words = f"{outcome.status:<11} {track.label:<9} {outcome_text(outcome)}"
                    console.print(words, highlight=False, soft_wrap=True)

    def _cells(self) -> list[Planned]:
        with self.source.named():
            pairs = plan.make(self.study)
        cells = [p for pair in pairs for p in pair if WORKLOADS[p.cell.workload].interleaved]
        able = [p for p in cells if p.unsupported is None]
        if self.policy.exact_only:
            able = [replace(p, cell=replace(p.cell, measure=("memory",))) for p in able]
        if not able:
            raise UserError(f"study {self.study.name} has no cell that can be timed here")
        return able

    def _within(self, planned: Planned, share_s: float, n_cells: int) -> Planned:
        """The cell with a protocol for its share of the budget, 30 % of which is left for starting,
        warming up and memory."""
        floor = self.floors.get(TIMES[planned.cell.workload])
        protocol = replace(
            planned.protocol,
            precision=half_width_wanted(floor, n_cells, self.policy),
            max_blocks=MOST_BLOCKS,
            budget_s=max(0.7 * share_s, 1.0),
            warmup_max_s=max(min(planned.protocol.warmup_max_s, share_s / 8), 0.1),
        )
        return replace(planned, protocol=protocol)
