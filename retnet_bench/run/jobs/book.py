"""What is kept of a study's jobs, in the folder `jobs` beside its records: a file that says what
each job is, one by the job itself of what became of it, its lock and its log."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from retnet_bench import files
from retnet_bench.base import UserError, printable, short_hash
from retnet_bench.results import lock

LOCK_WAIT_S = 60.0
"""How long a job waits for whoever works on its pair, or for a run that has the whole folder: a job
that was requeued may start while its former process is still being ended."""
MOST_BYTES = 1_000_000
"""Of a job's file. One of a hundred cells has 5 kB."""

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One pair, to be run by a process of its own. Written by the command that submits it."""

    key: str
    """The `pair_id` that the submitting machine gives it; part of the names of its files."""
    index: int
    """Its place among the study's pairs. The job plans the study anew where it runs, for `auto`
    means that machine's device, kernels and threads; places are the same everywhere."""
    title: str
    cells: tuple[str, ...]
    """Ids that the submitting machine gives its cells."""
    timed: bool
    """Whether anything in it is timed: then nothing else may run beside it."""
    threads: int
    study: str
    """Name of the study's copy in this folder."""
    on: str = "local"
    retry: bool = False
    skip_oom: bool = False
    tensorboard: bool = False
    beside: int = 1
    """How many jobs share one machine's memory."""
    scheduler_id: str | None = None
    log: str = ""
    submitted_s: float = 0.0
    """Seconds since 1970."""


@dataclass(frozen=True)
class Outcome:
    """What a job says of itself."""

    state: str
    """running, done or failed."""
    reason: str | None = None
    node: str = ""
    cells: tuple[str, ...] = ()
    """Ids of its cells on the machine where it runs."""
    unmeasured: int = 0
    """Cells that became a record without a measurement."""
    scheduler_id: str | None = None
    began_s: float = field(default_factory=time.time)
    ended_s: float | None = None


@dataclass(frozen=True)
class Book:
    """The jobs of a results folder."""

    results: Path

    @property
    def folder(self) -> Path:
        return self.results / "jobs"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    def lock_file(self, key: str) -> Path:
        return self.folder / f"{key}.lock"

    def submitting(self) -> AbstractContextManager[None]:
        """Only one command submits to a folder at a time. Raises UserError while another does."""
        return lock.alone(self.folder)

    def is_submitting(self) -> bool:
        """Whether a command that submits is alive: it starts the queued jobs of `--on local`."""
        return lock.is_held(self.folder / lock.NAME)

    def works(self, key: str) -> bool:
        """Whether a process of this job is alive, on whichever machine."""
        return lock.is_held(self.lock_file(key))

    def keep_study(self, text: str) -> str:
        """Keep the study that jobs read: the copy beside the records may be replaced before they
        start. Returns its name."""
        name = study_name(text)
        files.write_text(self.folder / name, text)
        return name

    def submit(self, job: Job) -> None:
        """Keep what a job is; what an earlier one of its pair said no longer counts."""
        self._outcome_file(job.key).unlink(missing_ok=True)
        self.keep(replace(job, submitted_s=time.time()))

    def keep(self, job: Job) -> None:
        files.write_text(self._job_file(job.key), _text(job))

    def say(self, key: str, outcome: Outcome) -> None:
        files.write_text(self._outcome_file(key), _text(outcome), durable=True)

    def jobs(self) -> list[Job]:
        """Every job that was ever submitted here, in the order of the study."""
        found = (_read(path, Job) for path in self.folder.glob("*.job.json"))
        return sorted((job for job in found if job), key=lambda job: (job.index, job.key))

    def job(self, key: str) -> Job:
        path = self._job_file(key)
        found = _read(path, Job)
        if found is None:
            raise UserError(f"{printable(path)}: there is no such job here")
        return found

    def outcome(self, key: str) -> Outcome | None:
        """What the job says; None before it starts."""
        return _read(self._outcome_file(key), Outcome)

    def ran_as(self, key: str, ids: Sequence[str], study: str | None = None) -> dict[str, str]:
        """The id that each of a pair's cells has where its job ran, by the id it has here; cells
        that the job did not have are left out, for a study may have gained arms or other rates
        since. Where all ids differ this is either another machine or another study: with `study`,
        the name of its copy in this folder, the job counts only if it was of that one."""
        outcome = self.outcome(key)
        if outcome is None or not self._job_file(key).exists():
            return {}
        job = self.job(key)
        if set(job.cells) & set(ids):
            return {here: there for here, there in zip(job.cells, outcome.cells) if here in ids}
        if len(outcome.cells) != len(ids) or study not in (None, job.study):
            return {}
        return dict(zip(ids, outcome.cells, strict=True))

    def clear(self) -> None:
        """Forget every job; none may be at work. The lock of `submitting` stays."""
        for path in self.folder.iterdir():
            if path.is_dir():
                files.remove(path)
            elif path.name != lock.NAME:
                path.unlink(missing_ok=True)

    def withdraw(self, keys: list[str]) -> None:
        """Forget jobs that could not be submitted."""
        for key in keys:
            self._job_file(key).unlink(missing_ok=True)

    def _job_file(self, key: str) -> Path:
        return self.folder / f"{key}.job.json"

    def _outcome_file(self, key: str) -> Path:
        return self.folder / f"{key}.outcome.json"


def study_name(text: str) -> str:
    """Of the copy of a study with this text."""
    return f"study-{short_hash(text)}.yaml"


def _text(entry: Job | Outcome) -> str:
    return json.dumps(asdict(entry), indent=1) + "\n"


def _read(path: Path, kind: type[T]) -> T | None:
    """An entry of the book; None where there is none. UserError for what is no such entry. Fields
    that this version does not know are left."""
    try:
        with files.guarded(path, "read"), path.open("rb") as file:
            raw = file.read(MOST_BYTES)
    except UserError:
        if not path.exists():
            return None
        raise
    try:
        given: dict[str, Any] = json.loads(raw)
        known = {f.name: given[f.name] for f in fields(kind) if f.name in given}  # type: ignore[arg-type]
        return kind(**known | {"cells": tuple(known["cells"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        words = "is no file of a job; delete it, and run the study again"
        raise UserError(f"{printable(path)} {words}") from None
