"""A job: one pair of a study, measured by a process of its own into the study's folder.

`python -m retnet_bench.run.jobs.job FOLDER KEY...` is the same for jobs of this machine. Whatever
ends it, the cells that were finished are kept, and the next job of the pair runs only the others.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from retnet_bench import files, interrupts, terminal
from retnet_bench.base import UserError, printable
from retnet_bench.measure import environment
from retnet_bench.predict import prediction
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import Store
from retnet_bench.run import session
from retnet_bench.run.jobs import places
from retnet_bench.run.jobs.book import LOCK_WAIT_S, Book, Job, Outcome
from retnet_bench.run.progress import Reporter
from retnet_bench.run.records import new_run_id
from retnet_bench.run.runner import Runner, environment_variables
from retnet_bench.streams import complain
from retnet_bench.study import plan
from retnet_bench.study import study as studies
from retnet_bench.study.plan import Pair
from retnet_bench.study.study import Source, Study
from retnet_bench.workloads import WORKLOADS, world


@dataclass(frozen=True)
class Work:
    """A job as what a scheduler calls: picklable, and the same again after it was requeued."""

    results: str
    key: str

    def __call__(self) -> None:
        run(Path(self.results), self.key, terminal.console())

    def checkpoint(self) -> Any:
        """Called by submitit at the time limit or before a preemption: the job goes on as it is,
        for what it did is in the folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run(results: Path, key: str, console: Console, cores: list[int] | None = None) -> None:
    """Run one job of a results folder.

    `cores`: those that its workers may use, once the study is planned: what `auto` means is a
    matter of the machine. Raises UserError for a job that can't be run, which the book then says,
    too.
    """
    environment_variables()
    book = Book(results)
    job = book.job(key)
    with Store.among(results, book.lock_file(key), LOCK_WAIT_S) as store:
        files.sweep_scratch()
        now = Outcome("running", node=_node(), scheduler_id=_scheduler_id())
        book.say(key, now)
        try:
            pairs, source, study = _planned(book, job)
            now = replace(now, cells=tuple(p.cell.cell_id for p in pairs[job.index]))
            book.say(key, now)
            if cores:
                os.sched_setaffinity(0, cores)
            unmeasured = _measure(job, pairs, source, study, store, console)
            end = replace(now, state="done", unmeasured=unmeasured)
        except Exception as error:
            end = replace(now, state="failed", reason=printable(error, 500))
            raise
        except BaseException:
            end = replace(now, state="failed", reason="ended by a signal before it was done")
            raise
        finally:
            book.say(key, replace(end, ended_s=time.time()))


def _measure(
    job: Job,
    pairs: list[Pair],
    source: Source,
    study: Study,
    store: Store,
    console: Console,
) -> int:
    """Measure what is missing of the job's pair. Returns how many of its cells have no value."""
    pair = pairs[job.index]
    if job.skip_oom:
        (pair,) = prediction.skip_oom([pair], session.target_of([pair]))
    finished = store.finished()
    todo = session.missing([pair], finished, job.retry)
    if todo:
        _refuse_other_machine(pair, todo[0], store)
        session.refuse_changed_texts(store, todo)
    every = [planned.cell for other in pairs for planned in other]
    with Reporter(console, every, 1.0) as reporter:
        runner = Runner(
            study.name,
            new_run_id(),
            store,
            plan.devices_of([pair])[0],
            reporter.turn,
            source.text,
            job.tensorboard,
            job.beside,
            _job_section(),
        )
        session.measure(runner, todo, reporter, {})
    finished = store.finished()
    statuses = [finished.get(planned.cell.cell_id) for planned in pair]
    return sum(status not in OK_STATUSES for status in statuses)


def _planned(book: Book, job: Job) -> tuple[list[Pair], Source, Study]:
    study, source = studies.load(str(book.folder / job.study))
    pairs = places.pairs(study, book)
    if job.index >= len(pairs):
        raise UserError(f"{printable(source.path)} has {len(pairs)} pairs, none number {job.index}")
    return pairs, source, study


def _refuse_other_machine(pair: Pair, todo: Pair, store: Store) -> None:
    """UserError where arms of the pair that are finished ran on another kind of machine: with the
    rest of this one they would be no pair. Arms that interleave are all run anew."""
    if WORKLOADS[pair[0].cell.workload].interleaved:
        return
    here = {_fingerprint(planned): environment_name(planned) for planned in todo}
    kept = [planned for planned in pair if planned not in todo]
    for fingerprint, name in store.taken_on([p.cell.cell_id for p in kept]).values():
        if fingerprint not in here:
            raise UserError(
                f"arms of this pair ran on {name} (fingerprint {fingerprint}), this is "
                f"{', '.join(here.values())} ({', '.join(here)}): no comparison could be made; "
                "ask for a machine of that kind (--slurm constraint=..., nodelist=...), or start "
                "anew with --fresh"
            )


def _fingerprint(planned: plan.Planned) -> str:
    """As the cell's worker will have it: fingerprints say how many threads computed."""
    env = environment.capture(planned.cell.device)
    env["threads"]["intra_op"] = planned.cell.threads
    return environment.fingerprint(env | world.section(planned.cell))


def environment_name(planned: plan.Planned) -> str:
    return environment.machine_name(environment.capture(planned.cell.device))


def _scheduler_id() -> str | None:
    """Slurm's name for this job, as squeue prints it; None outside of Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def _job_section() -> dict[str, str]:
    known = _scheduler_id()
    return {"scheduler": "slurm", "id": known, "node": _node()} if known else {}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("keys", nargs="+")
    parser.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")])
    given = parser.parse_args(arguments)
    interrupts.handle()
    with interrupts.reporting(["run"]):
        return max(_attempt(given.results, key, given.cores) for key in given.keys)


def _attempt(results: Path, key: str, cores: list[int] | None) -> int:
    """Run one job; what keeps it from running keeps none of the others. Returns an exit code."""
    try:
        run(results, key, terminal.console(), cores)
    except UserError as error:
        complain(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
