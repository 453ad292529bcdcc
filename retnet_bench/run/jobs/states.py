"""What became of each job: its own words, its lock, and what Slurm knows of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from retnet_bench.base import printable
from retnet_bench.run.jobs import slurm
from retnet_bench.run.jobs.book import Book, Job, Outcome

QUEUED, RUNNING, DONE, FAILED, MISSING = "queued", "running", "done", "failed", "missing"
STATES = (QUEUED, RUNNING, DONE, FAILED, MISSING)
ACTIVE = (QUEUED, RUNNING)
APPEARS_S = 20.0
"""How long a job that Slurm no longer has, and that said nothing, is not yet called failed: a
shared file system may show a file that late."""
LOST = "ended without a word: killed, or its machine went down"


@dataclass(frozen=True)
class State:
    """A job and what became of it."""

    job: Job
    state: str
    reason: str = ""
    """Of a job that waits or failed."""
    node: str = ""
    unmeasured: int = 0


def of_all(book: Book) -> list[State]:
    """The state of every job of a folder. Raises UserError where Slurm is needed and does not
    answer."""
    return of_jobs(book, book.jobs())


def of_jobs(book: Book, jobs: Iterable[Job]) -> list[State]:
    jobs = list(jobs)
    # The lock first: once it is free, the job has said its last.
    alive = {job.key: book.works(job.key) for job in jobs}
    said = {job.key: book.outcome(job.key) for job in jobs}
    submitting = book.is_submitting()
    open_ids = [
        job.scheduler_id
        for job in jobs
        if job.on == "slurm" and job.scheduler_id and not _is(said[job.key], DONE)
    ]
    queue = slurm.queue(open_ids) if open_ids else {}
    found = []
    for job in jobs:
        own, lives = said[job.key], alive[job.key]
        requeued = job.scheduler_id in queue  # a job that a signal ended may begin again
        if _is(own, DONE) or (_is(own, FAILED) and not lives and not requeued):
            assert own is not None
            found.append(State(job, own.state, own.reason or "", own.node, own.unmeasured))
        elif job.on == "slurm":
            found.append(_of_slurm(book, job, own, lives, queue))
        else:
            found.append(_of_local(job, own, lives, submitting))
    return found


def _is(outcome: Outcome | None, state: str) -> bool:
    return outcome is not None and outcome.state == state


def _of_local(job: Job, own: Outcome | None, lives: bool, submitting: bool) -> State:
    if lives:
        return State(job, RUNNING, node=own.node if own else "")
    if own is not None:
        return State(job, FAILED, LOST, own.node)
    if submitting:
        return State(job, QUEUED)
    return State(job, MISSING, "the command that would have started it has ended; run it again")


def _of_slurm(
    book: Book, job: Job, own: Outcome | None, lives: bool, queue: dict[str, slurm.Queued]
) -> State:
    listed = queue.get(job.scheduler_id or "")
    if listed is not None:
        state = QUEUED if listed.waits else RUNNING
        return State(job, state, listed.why if listed.waits else "", listed.node)
    if lives:
        words = "Slurm has given it up, and it is still at work"
        return State(job, RUNNING, words, own.node if own else "")
    if job.scheduler_id is None:
        return State(job, MISSING, "it was never submitted; run the study again")
    if own is None and time.time() - job.submitted_s < APPEARS_S:
        return State(job, QUEUED, "just submitted")
    ended = slurm.ended(job.scheduler_id) or "no longer known to Slurm"
    if own is None and not ended.endswith(slurm.NEVER_BEGAN) and not Path(job.log).exists():
        ended += f"; it left no log: can its node see {printable(book.results.absolute())}?"
    return State(job, FAILED, ended, own.node if own else "")
