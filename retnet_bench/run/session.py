"""The verb `run`: a study, a folder, and everything between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from retnet_bench import files
from retnet_bench.analysis.tables import floor
from retnet_bench.base import UserError
from retnet_bench.measure import environment
from retnet_bench.predict import prediction, targets
from retnet_bench.results import current
from retnet_bench.results.live import Live, LiveFile
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import Store
from retnet_bench.results.store import finished as finished_cells
from retnet_bench.run import choosing, texts
from retnet_bench.run.progress import Reporter
from retnet_bench.run.records import new_run_id
from retnet_bench.run.runner import CHECKPOINTS, Runner, environment_variables
from retnet_bench.study import changes, plan, tuning
from retnet_bench.study.plan import Pair
from retnet_bench.study.study import Source, Study
from retnet_bench.workloads import WORKLOADS, Cell
from retnet_bench.workloads.progress import require_tensorboard

Stage = tuple[list[Pair], list[Pair]]
"""Every pair of a study as far as it is known, and those of them that are to be run now."""


@dataclass(frozen=True)
class Summary:
    """What a call of `run` did."""

    folder: Path
    cells: int
    kept: int
    failed: int

    def and_more(self, cells: int, kept: int, failed: int) -> Summary:
        return Summary(self.folder, self.cells + cells, self.kept + kept, self.failed + failed)


def nothing_measured(folder: Path) -> str:
    """In words that no cell of a results folder gave a measurement; empty where one did."""
    statuses = {*finished_cells(folder).values()}
    if statuses & {*OK_STATUSES}:
        return ""
    why = "none of its cells can be run" if statuses == {"unsupported"} else "every cell failed"
    return f"nothing measured: {why}; the table Not measured says why"


def default_folder(study: Study, source: Source) -> Path:
    """Where a study's results go: one that was changed by the command line has a folder of its
    own."""
    return Path("runs") / f"{study.name}{changes.suffix(source.changes)}"


def run(
    study: Study,
    source: Source,
    folder: Path,
    console: Console,
    *,
    fresh: bool = False,
    retry: bool = False,
    skip_oom: bool = False,
    tensorboard: bool = False,
) -> Summary:
    """Run what is missing of `study` in `folder`; stored cells are kept and not run again.

    `fresh` sets earlier records aside first; `retry` runs failed cells again, too; `skip_oom`
    leaves out cells that are predicted not to fit, as records that say so; `tensorboard` has
    trainings write its events to the folder, too.
    """
    if tensorboard:
        require_tensorboard()
    environment_variables()
    with source.named():
        pairs = plan.make(study)  # refuses what is wrong before the folder is touched

    def stages(store: Store) -> Iterator[Stage]:
        tuned = tuning.stages(lambda: tuning.of_folder(study, store.folder))
        every = [(pairs, pairs)] if study.tune is None else ((s.known, own) for s, own in tuned)
        for known, own in every:
            found = choosing.with_remembered(own)
            yield known, prediction.skip_oom(found, target_of(found)) if skip_oom else found

    with Store.alone(folder) as store:
        return _run(study, source, stages, store, console, fresh, retry, tensorboard)


def selftest(
    study: Study, source: Source, folder: Path, console: Console, *, fresh: bool = False
) -> Summary:
    """Run the plan of `study` against itself; the records go to `folder`'s own self-test folder."""
    environment_variables()
    with source.named():
        pairs = plan.against_itself(plan.make(study))
    if not pairs:
        raise UserError(f"study {study.name} has no cell that can be timed on this machine")
    with Store.alone(folder / floor.FOLDER) as store:
        return _run(
            study, source, lambda store: [(pairs, pairs)], store, console, fresh, retry=False
        )


def _run(
    study: Study,
    source: Source,
    stages: Callable[[Store], Iterable[Stage]],
    store: Store,
    console: Console,
    fresh: bool,
    retry: bool,
    tensorboard: bool = False,
) -> Summary:
    folder = store.folder
    tidy(store, console, fresh)
    summary = Summary(folder, 0, 0, 0)
    every: list[Cell] = []
    for known, pairs in stages(store):
        if not summary.cells:
            refuse_other_machine(store, pairs)
            refuse_changed_texts(store, known)
            keep_copy(source, folder)
        keep_list(known, folder)
        finished = store.finished()
        todo = missing(pairs, finished, retry)
        cells = sum(map(len, pairs))
        kept = cells - sum(map(len, todo))
        if kept:
            rest = "running the others" if todo else "nothing left to run"
            say(console, f"{kept} of {cells} cells are in {folder} already; {rest}")
            again = sum(map(len, missing(pairs, finished, retry=True))) - cells + kept
            if again:
                say(console, f"--retry runs {again} of them again, with those that failed")
        every += [planned.cell for pair in pairs for planned in pair]
        failed = _run_pairs(study, source, store, todo, every, console, tensorboard)
        summary = summary.and_more(cells, kept, failed)
    return summary


def _run_pairs(
    study: Study,
    source: Source,
    store: Store,
    todo: list[Pair],
    every: list[Cell],
    console: Console,
    tensorboard: bool,
) -> int:
    """Run pairs, the shortest first; `every` are the cells they are told apart from. Returns how
    many cells have no measurement."""
    if not todo:
        return 0
    seconds = predicted_seconds(todo)
    total = sum(seconds.values())
    kept = len(every) - sum(map(len, todo))
    live = LiveFile(store.folder, Live(study.name, len(every), kept, remaining_s=total))
    with Reporter(console, every, total, live) as reporter:
        home = plan.devices_of(todo)[0]
        runner = Runner(
            study.name, new_run_id(), store, home, reporter.turn, source.text, tensorboard
        )
        return measure(runner, shortest_first(todo, seconds), reporter, seconds)


def tidy(store: Store, console: Console, fresh: bool) -> None:
    """Clear away what killed processes left, and, to begin anew, the earlier records."""
    files.sweep(store.folder)
    files.sweep_scratch()
    if fresh:
        with files.guarded(store.records, "set aside"):
            say(console, store.clear())
        files.remove(store.folder / CHECKPOINTS)  # a new start trains anew
    for part in store.quarantine():
        say(console, f"unreadable part set aside: {part}; its cells run again")


def measure(
    runner: Runner, pairs: list[Pair], reporter: Reporter, seconds: dict[str, float]
) -> int:
    """Run pairs and say what came of each cell; `seconds` are its predicted ones. Returns how many
    cells have no measurement."""
    failed = 0
    for pair in pairs:
        for cell in runner.run(pair):
            reporter.finished(cell, seconds.get(cell.planned.cell.cell_id, 0.0))
            failed += cell.status not in OK_STATUSES
    return failed


def shortest_first(pairs: list[Pair], seconds: dict[str, float]) -> list[Pair]:
    """What can be known soon is known soon, and what may fail for its size comes last."""
    return sorted(pairs, key=lambda pair: sum(seconds[p.cell.cell_id] for p in pair))


def predicted_seconds(pairs: list[Pair]) -> dict[str, float]:
    """Predicted seconds of each cell, for the bar; a guess where the prediction knows none."""
    return {
        planned.cell.cell_id: (found.cell_s or plan.START_S) if found else 0.0
        for planned, found in prediction.predictions(pairs, target_of(pairs))
    }


def target_of(pairs: list[Pair]) -> targets.Target:
    dtypes = {planned.cell.dtype for pair in pairs for planned in pair}
    return targets.here(plan.devices_of(pairs)[0], dtypes)


def missing(pairs: list[Pair], finished: dict[str, str], retry: bool) -> list[Pair]:
    """What is still to run. Arms that interleave run together or not at all: the blocks of one
    run are no pair to those of another."""

    def done(planned: plan.Planned) -> bool:
        status = finished.get(planned.cell.cell_id)
        return status is not None and not (retry and status not in ("ok", "impure", "unsupported"))

    todo = []
    for pair in pairs:
        left = [planned for planned in pair if not done(planned)]
        if left and WORKLOADS[pair[0].cell.workload].interleaved:
            left = pair
        if left:
            todo.append(left)
    return todo


def refuse_other_machine(store: Store, pairs: list[Pair]) -> None:
    if not store.finished():
        return
    taken = store.machines()
    here = {environment.machine_name(environment.capture(d)) for d in plan.devices_of(pairs)}
    if not taken <= here:
        raise UserError(
            f"{store.folder} holds results taken on {', '.join(sorted(taken))}, this is "
            f"{', '.join(sorted(here))}; choose another folder with --out, "
            f"or start anew with --fresh"
        )


def refuse_changed_texts(store: Store, pairs: list[Pair]) -> None:
    cells = (planned for pair in pairs for planned in pair)
    able = [planned.cell for planned in cells if planned.unsupported is None]
    texts.refuse_changed(store.folder, able)


def keep_copy(source: Source, folder: Path) -> None:
    files.write_text(folder / "study.yaml", source.text)


def keep_list(pairs: list[Pair], folder: Path) -> None:
    """Say which cells of the folder count: these."""
    current.write(folder, [_listed(planned) for pair in pairs for planned in pair])


def _listed(planned: plan.Planned) -> current.Listed:
    cell = planned.cell
    names = (cell.workload, cell.arm, cell.size)
    return current.Listed(cell.cell_id, cell.pair_id, *names, planned.waits)


def say(console: Console, words: object) -> None:
    if words:
        console.print(str(words), highlight=False, markup=False)
