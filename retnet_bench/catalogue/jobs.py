"""A study's jobs in words: the state of each, and where its log is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from retnet_bench.base import UserError, printable
from retnet_bench.report.layout import table
from retnet_bench.run.jobs import slurm, states
from retnet_bench.run.jobs.book import Book


def status_parts(study_or_results: str) -> Iterator[Table | str]:
    """A table of jobs, then the log of each that runs or failed, and how to end those that are
    left."""
    book = Book(_folder(study_or_results))
    found = states.of_all(book) if book.folder.is_dir() else []
    if not found:
        words = "has no jobs: run the study with --on local or --on slurm"
        raise UserError(f"{printable(book.results)} {words}")
    yield table(
        f"Jobs of {printable(book.results)}",
        "state|pair|>cells|job|node|why",
        (
            (
                state.state,
                state.job.title,
                _cells(state),
                state.job.scheduler_id or state.job.on,
                state.node,
                state.reason,
            )
            for state in found
        ),
    )
    for state in found:
        if state.job.log and os.path.exists(state.job.log):
            yield f"log of {state.state} {state.job.title}: {printable(state.job.log)}"
    every = [state.state for state in found]
    yield ", ".join(f"{every.count(name)} {name}" for name in states.STATES if name in every)
    if ids := [
        one.job.scheduler_id for one in found if one.job.scheduler_id and one.state in states.ACTIVE
    ]:
        yield f"{slurm.how_to_cancel(ids)} ends those that are queued or running"
    if states.FAILED in every or states.MISSING in every:
        yield "retnet-bench run with the same options submits what is missing"


def unfinished(results: Path) -> str | None:
    """A line for whoever reads results of which jobs are not done; None where all are, or there
    are none. Asks no scheduler."""
    book = Book(results)
    said = [book.outcome(job.key) for job in book.jobs()] if book.folder.is_dir() else []
    left = sum(one is None or one.state != states.DONE for one in said)
    if not left:
        return None
    words = f"{left} of {len(said)} pairs of {printable(results)} are not done, so that tables and"
    return f"{words} claims are of the others: retnet-bench status {printable(results)}"


def _cells(state: states.State) -> str:
    count = len(state.job.cells)
    return f"{count}, {state.unmeasured} without a value" if state.unmeasured else str(count)


def _folder(study_or_results: str) -> Path:
    path = Path(study_or_results)
    if path.is_dir():
        return path
    usual = Path("runs") / study_or_results
    if usual.is_dir():
        return usual
    from retnet_bench.run.session import default_folder
    from retnet_bench.study import study

    if path.name != study_or_results and not path.exists():
        raise UserError(f"{printable(path)}: there is no such results folder")
    return default_folder(*study.load(study_or_results))
