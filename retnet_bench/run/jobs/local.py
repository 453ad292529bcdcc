"""Jobs of this machine: each on cores of its own, timed ones alone."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from retnet_bench.measure import cores
from retnet_bench.run import orphans
from retnet_bench.run.jobs import job as jobs_module
from retnet_bench.run.jobs.book import Book, Job

ENDING_S = 10.0
"""What a job may take to end once it was told to; then it is killed."""

Said = Callable[[str], None]


@dataclass
class _Running:
    """A process that works on one job, or on timed ones in a row."""

    jobs: Sequence[Job]
    cores: list[int]
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    rest: bytes = field(default=b"")
    """Of a line that is not yet whole."""

    @property
    def timed(self) -> bool:
        return self.jobs[0].timed


def run(
    book: Book, jobs: Sequence[Job], at_once: int, say: Said, ended: Callable[[Job], None]
) -> None:
    """Run jobs to their end, at most `at_once` side by side.

    Those with timed cells come last, one after another in one process and beside nothing else. The
    others get as many cores as they have threads, and none that another has; where cores can't be
    told apart they run one by one. `say` takes each line that a job prints, `ended` each job that
    has ended. What a job leaves undone is in the book.
    """
    waiting = [[job] for job in jobs if not job.timed]
    if timed := [job for job in jobs if job.timed]:
        waiting.append(timed)
    allowed = cores.allowed().value
    with _selecting() as (selector, running):
        while waiting or running:
            while waiting:
                taken = _cores_for(waiting[0], running, allowed, at_once)
                if taken is None:
                    break
                started = _start(book, waiting.pop(0), taken)
                running.append(started)
                assert started.process.stdout is not None
                selector.register(started.process.stdout, selectors.EVENT_READ, started)
            # Blocked until a job prints or ends: nothing of this process runs beside timed blocks.
            for key, _ in selector.select():
                if not _read(key.data, say):
                    selector.unregister(key.fileobj)
                    running.remove(key.data)
                    _close(key.data)
                    for job in key.data.jobs:
                        ended(job)


def fewer_at_once(jobs: Sequence[Job], at_once: int) -> str:
    """Why fewer jobs than `at_once` will run side by side, in a line; "" where as many can."""
    threads = min((job.threads for job in jobs if not job.timed), default=0)
    wanted = min(at_once, sum(not job.timed for job in jobs))
    allowed = cores.allowed().value
    if wanted < 2 or not allowed or threads * wanted <= len(allowed):
        return ""
    each = f"a pair takes {threads} of this machine's {len(allowed)} cores"
    return f"{max(1, len(allowed) // threads)} at once: {each}; --set fixed.threads=1 takes fewer"


def _cores_for(
    jobs: Sequence[Job], running: Sequence[_Running], allowed: list[int] | None, at_once: int
) -> list[int] | None:
    """The cores for these jobs beside those that run, [] for all of them; None: not now."""
    if not running:
        alone = jobs[0].timed or allowed is None or at_once == 1
        return [] if alone else cores.choose(allowed or [], jobs[0].threads)
    if jobs[0].timed or len(running) >= at_once or any(not one.cores for one in running):
        return None
    taken = {core for one in running for core in one.cores}
    free = [core for core in allowed or [] if core not in taken]
    return cores.choose(free, jobs[0].threads) if jobs[0].threads <= len(free) else None


def _start(book: Book, jobs: Sequence[Job], taken: list[int]) -> _Running:
    """A process that ends with this one, in a session of its own: Ctrl-C is this one's to handle,
    and jobs shall end by its word."""
    log = Path(jobs[0].log)
    log.parent.mkdir(parents=True, exist_ok=True)
    output = log.open("ab")
    module = [sys.executable, "-u", "-m", jobs_module.__name__, str(book.results)]
    pinned = ["--cores", ",".join(map(str, taken))] if taken else []
    command = [*module, *(job.key for job in jobs), *pinned]
    ending = [sys.executable, str(orphans.__file__), str(os.getpid())]
    process = subprocess.Popen(
        [*ending, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=output,
        start_new_session=True,
    )
    return _Running(jobs, taken, process, output)


def _read(running: _Running, say: Said) -> bool:
    """Pass on what a job has printed. False at its end."""
    assert running.process.stdout is not None
    data = os.read(running.process.stdout.fileno(), 65536)
    running.log.write(data)
    running.log.flush()
    *lines, running.rest = (running.rest + data).split(b"\n")
    if not data and running.rest:
        lines.append(running.rest)
    for line in lines:
        say(line.decode("utf-8", "replace"))
    return bool(data)


def _close(running: _Running) -> None:
    try:
        running.process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()
    assert running.process.stdout is not None
    running.process.stdout.close()
    running.log.close()


@contextmanager
def _selecting() -> Iterator[tuple[selectors.BaseSelector, list[_Running]]]:
    """A selector, and the list of running jobs: those that still are in it at the end are ended."""
    running: list[_Running] = []
    with selectors.DefaultSelector() as selector:
        try:
            yield selector, running
        finally:
            for one in running:
                one.process.terminate()
            last = time.monotonic() + ENDING_S
            for one in running:
                try:
                    one.process.wait(max(0.0, last - time.monotonic()))
                except subprocess.TimeoutExpired:
                    one.process.kill()
                _close(one)
