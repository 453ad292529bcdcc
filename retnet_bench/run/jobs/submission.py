"""The verb `run` with --on: a study's pairs as jobs, of this machine or of Slurm."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from retnet_bench import files, interrupts
from retnet_bench.base import UserError, did_you_mean, printable, quoted
from retnet_bench.results import current, labels
from retnet_bench.results.store import Store
from retnet_bench.results.store import finished as finished_cells
from retnet_bench.run import session
from retnet_bench.run.jobs import local, options, slurm, states
from retnet_bench.run.jobs.book import Book, Job, study_name
from retnet_bench.run.jobs.places import Stage, stages
from retnet_bench.run.jobs.states import ACTIVE, DONE, State
from retnet_bench.run.runner import environment_variables
from retnet_bench.study import plan
from retnet_bench.study.plan import Pair
from retnet_bench.study.settings import Settings
from retnet_bench.study.study import Source, Study
from retnet_bench.study.sweep import SWEEP
from retnet_bench.workloads import WORKLOADS
from retnet_bench.workloads.progress import require_tensorboard

PLACES = ("local", "slurm")
AT_ONCE = {"local": 1, "slurm": 16}
"""Jobs that run side by side where --jobs says nothing."""
LOOK_EVERY_S = 5.0
"""How often --wait asks Slurm."""
SILENT_S = 600.0
"""For so long --wait goes on asking a Slurm that does not answer."""
MOST_ARMS = 4
"""Arms that a job's title names."""
WAIT_S = 14 * 24 * 3600.0
"""The longest --wait follows jobs, which go on all the same."""


@dataclass(frozen=True)
class Submission:
    """What `run --on` was asked for."""

    on: str
    at_once: int
    slurm: options.SlurmOptions
    wait: bool
    fresh: bool
    retry: bool
    skip_oom: bool
    tensorboard: bool


def asked(
    on: str | None,
    jobs: int | None,
    slurm_options: str | None,
    wait: bool,
    **others: bool,
) -> Submission | None:
    """The options of `run` that are about jobs, checked; None where --on is not among them."""
    if on is None:
        given = {"--jobs": jobs is not None, "--slurm": slurm_options is not None, "--wait": wait}
        for option in (name for name, there in given.items() if there):
            places = "--on local or --on slurm" if option == "--jobs" else "--on slurm"
            raise UserError(f"{option} goes with {places}, which is missing")
        return None
    if on not in PLACES:
        near = did_you_mean(on, PLACES)
        raise UserError(f'--on: "{quoted(on)}" is no place to run jobs{near}')
    if on == "local" and slurm_options is not None:
        raise UserError("--slurm goes with --on slurm, not with --on local")
    return Submission(on, jobs or AT_ONCE[on], options.read(slurm_options), wait, **others)


def run(
    study: Study, source: Source, folder: Path, console: Console, how: Submission
) -> session.Summary | None:
    """Submit what is missing of `study` in `folder`, and follow it to its end.

    None where the jobs are left to Slurm. Raises UserError for what keeps jobs from being
    submitted, and at the end for jobs that failed: their cells are still missing.
    """
    if how.tensorboard:
        require_tensorboard()
    if how.on == "slurm":
        slurm.require()
    environment_variables()
    with source.named():
        pairs = plan.make(study)  # refuses what is wrong before the folder is touched
        if how.on == "slurm":
            _check_gpus(study, how.slurm)
    new = not folder.exists()
    book = Book(folder)
    try:
        with book.submitting():
            return _run(study, source, pairs, book, console, how)
    except UserError:
        if new:
            _remove_unused(book)
        raise


def _run(
    study: Study,
    source: Source,
    pairs: list[Pair],
    book: Book,
    console: Console,
    how: Submission,
) -> session.Summary | None:
    active = _active(book, how)
    if active and (how.fresh or how.on == "local"):
        raise UserError(_still_active(book, active))
    if not active:
        with Store.alone(book.results) as store:
            session.tidy(store, console, how.fresh)
            if how.fresh:
                book.clear()
            session.refuse_changed_texts(store, pairs)
            if how.on == "local":
                session.refuse_other_machine(store, pairs)
    session.keep_copy(source, book.results)
    if active:
        one = len(active) == 1
        words = f"{len(active)} {'job' if one else 'jobs'} of this folder {'is' if one else 'are'}"
        session.say(console, f"{words} queued or running already")
    summary = session.Summary(book.results, 0, 0, 0)
    cells = sum(map(len, pairs))
    for stage in stages(study, pairs, book):
        session.keep_list(stage.pairs, book.results)
        done = _run_stage(study, source, stage, book, console, how, active)
        if done is None:
            if rest := cells - summary.cells - sum(map(len, stage.own)):
                words = f"{rest} cells wait for these; the same command submits them afterwards"
                session.say(console, words)
            return None
        summary = summary.and_more(done.cells, done.kept, done.failed)
    return summary


def _run_stage(
    study: Study,
    source: Source,
    stage: Stage,
    book: Book,
    console: Console,
    how: Submission,
    active: list[State],
) -> session.Summary | None:
    """Submit what is missing of a stage, and follow it to its end; None where that is left to
    Slurm."""
    finished = finished_cells(book.results)
    own = {pair[0].cell.pair_id for pair in stage.own}
    active = [state for state in active if state.job.key in own]
    submitted = {state.job.key for state in active}
    todo = _todo(book, study_name(source.text), stage, finished, how.retry, submitted)
    cells = sum(map(len, stage.own))
    left = [session.missing([pair], finished, how.retry) for pair in stage.own]
    kept = cells - sum(len(pair) for pairs in left for pair in pairs)
    if kept:
        session.say(console, f"{kept} of {cells} cells are in {book.results} already")
    jobs = _jobs(book, study, source, stage, todo, how)
    if how.on == "local":
        _run_here(book, jobs, console, how)
    else:
        new = _submit(book, jobs, console, how, active)
        jobs = [*(state.job for state in active), *new]
        if not how.wait:
            return None if jobs else session.Summary(book.results, cells, kept, 0)
        _follow(book, jobs, console)
    _complain_of_failed(book, jobs)
    failed = sum(state.unmeasured for state in states.of_jobs(book, jobs))
    return session.Summary(book.results, cells, kept, failed)


def _active(book: Book, how: Submission) -> list[State]:
    """The jobs that are queued or running. Those of this machine are never queued here: who would
    have started them held the lock that this command now has."""
    jobs = book.jobs()
    if how.on == "local" and any(job.on == "slurm" for job in jobs):
        slurm.require()
    found = [state for state in states.of_jobs(book, jobs) if state.state in ACTIVE]
    return [one for one in found if one.job.on == "slurm" or one.state == states.RUNNING]


def _still_active(book: Book, active: list[State]) -> str:
    ids = [state.job.scheduler_id for state in active if state.job.scheduler_id]
    cancel = f"; {slurm.how_to_cancel(ids)} ends them" if ids else ""
    return f"{len(active)} jobs are queued or running in {printable(book.results)}{cancel}"


def _todo(
    book: Book, study: str, stage: Stage, finished: dict[str, str], retry: bool, active: set[str]
) -> list[int]:
    """Places of the pairs that lack a cell and have no job. A pair's cells may have other ids where
    its job ran, which the job has said."""
    found = []
    for i, pair in zip(stage.places, stage.own, strict=True):
        key, ids = pair[0].cell.pair_id, [planned.cell.cell_id for planned in pair]
        if key in active or not session.missing([pair], finished, retry):
            continue
        ran_as = book.ran_as(key, ids, study)
        ran = [finished.get(ran_as.get(cell, cell)) for cell in ids]
        if None in ran or (retry and not all(map(_is_good, ran))):
            found.append(i)
    return found


def _is_good(status: str | None) -> bool:
    return status in ("ok", "impure", "unsupported")


def _jobs(
    book: Book,
    study: Study,
    source: Source,
    stage: Stage,
    todo: list[int],
    how: Submission,
) -> list[Job]:
    """The jobs of these places, the shortest first on this machine."""
    if not todo:
        return []
    pairs = stage.pairs
    name = book.keep_study(source.text)
    chosen = {pairs[i][0].cell.pair_id: i for i in todo}
    order = [pairs[i] for i in todo]
    if how.on == "local":
        order = session.shortest_first(order, session.predicted_seconds(order))
        threads = [max(p.cell.threads * p.cell.ranks for p in pair) for pair in pairs]
    else:
        threads = _threads_asked(study, len(pairs))
    own = labels.differences((p.cell.name, p.cell.canonical()) for pair in pairs for p in pair)
    made = []
    for pair in order:
        key = pair[0].cell.pair_id
        timed = WORKLOADS[pair[0].cell.workload].interleaved
        log = "timed" if timed and how.on == "local" else key  # one process works on all of those
        job = Job(
            key=key,
            index=chosen[key],
            title=_title(pair, own),
            cells=tuple(planned.cell.cell_id for planned in pair),
            timed=timed,
            threads=threads[chosen[key]],
            study=name,
            on=how.on,
            retry=how.retry,
            skip_oom=how.skip_oom,
            tensorboard=how.tensorboard,
            beside=how.at_once if how.on == "local" else 1,
            log=str((book.logs / f"{log}.log").absolute()),
        )
        made.append(job)
    return made


def _threads_asked(study: Study, pairs: int) -> list[int]:
    """Of each pair. What extends a sweep has no point of the study, and asks as the sweep does."""
    points = [(group.workload, _threads(point)) for group, point, _ in study.points()]
    swept = [threads for workload, threads in points if workload == SWEEP]
    further = swept[:1] * (pairs - len(points))
    return [*swept, *further, *(threads for _, threads in points[len(swept) :])]


def _threads(point: Settings) -> int:
    """Of all ranks of a cell together, as the study says it; 0 where it says nothing."""
    ranks = point.parallel.ranks if point.parallel else 1
    return ranks * (point.threads or int(ranks > 1))


def _title(pair: Pair, own: dict[tuple[str, str], str]) -> str:
    """The pair in a few words: what its cells' names share, what tells it from pairs of that name,
    and its arms."""
    cell = pair[0].cell
    name = cell.name.replace(f" {cell.arm} ", " ", 1)
    more = own[cell.name, cell.canonical()]
    arms = ", ".join(planned.cell.arm for planned in pair[:MOST_ARMS])
    rest = f" and {len(pair) - MOST_ARMS} more" if len(pair) > MOST_ARMS else ""
    return f"{' '.join(filter(None, [name, more]))} ({arms}{rest})"


def _check_gpus(study: Study, given: options.SlurmOptions) -> None:
    asks = any((point.device or "").startswith("cuda") for _, point, _ in study.points())
    if asks and not given.gpus_per_node:
        raise UserError("the study asks for device cuda; say --slurm gpus_per_node=1")


def _remove_unused(book: Book) -> None:
    """A folder that was made for jobs of which none was submitted."""
    if book.jobs() or any((book.results / "records").glob("*.parquet")):
        return
    with suppress(UserError, OSError):
        files.remove(book.folder)
        for name in (".lock", "study.yaml", current.NAME):
            (book.results / name).unlink(missing_ok=True)
        (book.results / "records").rmdir()
        book.results.rmdir()


# --- this machine ---------------------------------------------------------------------------------


def _run_here(book: Book, jobs: list[Job], console: Console, how: Submission) -> None:
    for job in jobs:
        book.submit(job)
    if words := local.fewer_at_once(jobs, how.at_once):
        session.say(console, words)
    with _Bar(console, len(jobs)) as bar:
        local.run(book, jobs, how.at_once, bar.line, lambda job: bar.advance())


# --- Slurm ----------------------------------------------------------------------------------------


def _submit(
    book: Book, jobs: list[Job], console: Console, how: Submission, active: list[State]
) -> list[Job]:
    if not jobs:
        return []
    for job in jobs:
        book.submit(job)
    before = {state.job.scheduler_id.split("_")[0] for state in active if state.job.scheduler_id}
    try:
        submitted = slurm.submit(book, jobs, how.slurm, how.at_once, sorted(before))
    except BaseException:
        book.withdraw([job.key for job in jobs])
        raise
    for job in submitted:
        book.keep(job)
    ids = [job.scheduler_id or "" for job in submitted]
    pairs = "1 pair" if len(jobs) == 1 else f"{len(jobs)} pairs"
    words = f"{pairs} submitted to Slurm, at most {how.at_once} at once"
    words += ", once those that are there have ended" if before else ""
    session.say(console, f"{words}: {', '.join(dict.fromkeys(i.split('_')[0] for i in ids))}")
    session.say(console, f"retnet-bench status {book.results} shows them")
    session.say(console, f"{slurm.how_to_cancel(ids)} ends them; what is finished is kept")
    return submitted


def _follow(book: Book, jobs: list[Job], console: Console) -> None:
    """Wait until no job is queued or running. Ctrl-C leaves them."""
    if not jobs:
        return
    ids = [job.scheduler_id or "" for job in jobs]
    words = f"the jobs go on; {slurm.how_to_cancel(ids)} ends them"
    last = time.monotonic() + WAIT_S
    with interrupts.leaving(words), _Bar(console, len(jobs)) as bar:
        shown: dict[str, str] = {}
        while True:
            found = _asked_patiently(book, jobs)
            for state in found:
                if shown.get(state.job.key) != state.state:
                    shown[state.job.key] = state.state
                    if state.state not in ACTIVE:
                        bar.line(f"{state.state:<11} {state.job.title} {state.reason}".rstrip())
            waiting = [state for state in found if state.state in ACTIVE]
            bar.set(len(jobs) - len(waiting), _counts(found))
            if not waiting:
                return
            if time.monotonic() > last:
                raise UserError(f"--wait ends after {WAIT_S / 86400:g} days; {words}")
            time.sleep(LOOK_EVERY_S)


def _asked_patiently(book: Book, jobs: list[Job]) -> list[State]:
    """The states; a Slurm that is restarted may be silent for SILENT_S."""
    last = time.monotonic() + SILENT_S
    while True:
        try:
            return states.of_jobs(book, jobs)
        except UserError as error:
            if time.monotonic() > last:
                words = f"{error}; asked for {SILENT_S:g} s, and the jobs may go on"
                raise UserError(words) from None
            time.sleep(LOOK_EVERY_S)


def _counts(found: Iterable[State]) -> str:
    every = [state.state for state in found]
    return ", ".join(f"{every.count(name)} {name}" for name in states.STATES if name in every)


def _complain_of_failed(book: Book, jobs: list[Job]) -> None:
    failed = [state for state in states.of_jobs(book, jobs) if state.state != DONE]
    if failed:
        first = failed[0]
        why = first.reason or "it has not started"
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed, such as {first.job.title}: {why} "
            f"(log {printable(first.job.log)}); the same command submits what is missing"
        )


class _Bar:
    """One bar over all jobs in a terminal; elsewhere the lines alone."""

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.completed:.0f} of {task.total:.0f} pairs"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            auto_refresh=False,  # nothing is drawn while blocks are timed
        )
        self.task = self.progress.add_task("", total=total)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def line(self, words: str) -> None:
        session.say(self.console, printable(words))
        self.progress.refresh()

    def advance(self) -> None:
        self.progress.update(self.task, advance=1)
        self.progress.refresh()

    def set(self, done: int, words: str) -> None:
        self.progress.update(self.task, completed=done, description=words)
        self.progress.refresh()
