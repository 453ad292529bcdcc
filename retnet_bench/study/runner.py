"""The runner: workers started, arms interleaved, every finished cell stored at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retnet_bench.measure import environment
from retnet_bench.measure.memory import available_bytes
from retnet_bench.measure.protocol import palindromic
from retnet_bench.models.forms import Agreement
from retnet_bench.results.store import Store
from retnet_bench.study.plan import Pair, Planned
from retnet_bench.study.records import Row, Rows
from retnet_bench.study.worker import Failure, Prepared, serve
from retnet_bench.workloads import WORKLOADS

TAIL_BYTES = 4000
MEMORY_SHARE = 0.9
"""Share of the free memory that the workers of a pair may take together."""


@dataclass(frozen=True)
class Finished:
    """A cell's outcome, for the progress line."""

    planned: Planned
    status: str
    reason: str | None
    seconds: float
    rows: list[Row]


class Worker:
    """The runner's end of one worker process."""

    def __init__(self, planned: Planned, folder: Path, index: int) -> None:
        context = _context()
        self.planned = planned
        self.output = folder / f"{planned.cell.cell_id}-{index}.log"
        self.spent_s = 0.0
        self.conn, theirs = context.Pipe()
        life_theirs, self.life = context.Pipe(duplex=False)
        self.process = context.Process(
            target=serve,
            args=(theirs, life_theirs, str(self.output), planned.cell, planned.protocol),
            daemon=True,
        )
        self.process.start()
        theirs.close()
        life_theirs.close()

    def ask(self, request: str, *arguments: Any) -> Any:
        """The worker's answer, or a Failure: its own, a time-out, or its death."""
        left = self.planned.protocol.timeout_s - self.spent_s
        start = time.monotonic()
        try:
            self.conn.send((request, arguments))
            if not self.conn.poll(max(left, 0.0)):
                self.process.kill()
                limit = self.planned.protocol.timeout_s
                return Failure("timeout", f"not finished after timeout_s = {limit:g} s")
            return self.conn.recv()
        except (EOFError, ConnectionError):
            return self._death()
        finally:
            self.spent_s += time.monotonic() - start

    def _death(self) -> Failure:
        self.process.join()
        code = self.process.exitcode or 0
        if code == -signal.SIGKILL:
            return Failure("oom", "killed by SIGKILL: most likely the system ran out of memory")
        name = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Failure("crash", f"the worker died: {name}")

    def tail(self) -> str | None:
        """The end of what the worker wrote to stdout and stderr."""
        if not self.output.exists():
            return None
        return self.output.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace") or None

    def stop(self) -> None:
        if self.process.is_alive():
            try:
                self.conn.send(("stop", ()))
            except OSError:
                self.process.kill()
            self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.conn.close()
        self.life.close()


def _context() -> Any:
    """Forked from a server that has imported torch; spawned where there is no forking."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retnet_bench.study.worker"])
    _start_server()
    return context


def _start_server() -> None:
    """Start the fork server deaf to Ctrl-C, which is the runner's to handle: by itself it would be
    so only after its imports, and until then die with a traceback."""
    from multiprocessing import forkserver  # not to be had where there is no forking

    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, earlier)


@dataclass
class _Track:
    """One cell on its way through its processes."""

    planned: Planned
    rows: list[Row] = field(default_factory=list)
    failure: Failure | None = None
    tail: str | None = None
    seconds: float = 0.0


@dataclass
class Runner:
    """Runs pairs and stores their records. One part is written for each finished cell."""

    study: str
    run_id: str
    store: Store
    home: str = "cpu"
    """Device that stands for this machine in the records of cells that can't be run on it."""
    on_turn: Callable[[str], None] = lambda text: None
    """Called with a few words before each piece of work, for a live progress line."""
    _agreements: dict[str, list[Agreement]] = field(default_factory=dict)

    def run(self, pair: Pair) -> Iterator[Finished]:
        """Measure one pair and store it. Interleaved arms are stored together, in one part: half a
        pair would be no pair. Others are stored one by one, as they end."""
        interleaved = WORKLOADS[pair[0].cell.workload].interleaved
        for group in [pair] if interleaved else [[planned] for planned in pair]:
            tracks = [_Track(planned) for planned in group]
            self._measure(tracks)
            finished = [self._finish(track) for track in tracks]
            first = group[0].cell
            name = first.pair_id if interleaved else first.cell_id
            self.store.append([row for cell in finished for row in cell.rows], name)
            yield from finished

    def _measure(self, tracks: list[_Track]) -> None:
        for track in tracks:
            if track.planned.unsupported:
                track.failure = Failure("unsupported", track.planned.unsupported)
        able = {t.planned.cell.arm: t for t in tracks if t.failure is None}
        protocol = tracks[0].planned.protocol
        with tempfile.TemporaryDirectory(prefix="retnet-bench-") as folder:
            if protocol.interleave == "blocks":
                for process in range(protocol.processes):
                    self._process(list(able.values()), process, Path(folder))
            else:
                for turn, arm in enumerate(palindromic(list(able), protocol.processes)):
                    self._process([able[arm]], turn // len(able), Path(folder))

    def _process(self, tracks: list[_Track], process: int, folder: Path) -> None:
        """One process for each track, their blocks interleaved, then memory one by one."""
        tracks = [track for track in tracks if track.failure is None]
        with _workers(tracks, folder, process) as workers:
            share = int(available_bytes() * MEMORY_SHARE / max(1, len(workers)))
            makers = {
                arm: self._prepare(track, worker, process, share)
                for arm, (track, worker) in workers.items()
            }
            measure = tracks[0].planned.cell.measure if tracks else ()
            if "time" in measure:
                self._blocks(workers, makers, process)
            if "memory" in measure:
                for arm, (track, worker) in workers.items():
                    self._samples(track, worker, makers[arm], "memory", process, None, None)

    def _prepare(self, track: _Track, worker: Worker, process: int, share: int) -> Rows:
        cell = track.planned.cell
        self.on_turn(f"{cell.name}: checking forms, warming up")
        key = f"{track.planned.matched.config} {cell.device} {cell.dtype}"
        limit = share if cell.device == "cpu" else None
        answer = worker.ask("prepare", self._agreements.get(key), limit)
        if isinstance(answer, Failure):
            self._fail(track, worker, answer)
            return Rows(self.study, self.run_id, track.planned, environment.capture(cell.device))
        assert isinstance(answer, Prepared)
        self._agreements[key] = answer.agreements
        made = Rows(
            self.study, self.run_id, track.planned, answer.environment, answer.kernel_dispatched
        )
        track.rows += made.preparation(answer, process)
        return made

    def _blocks(
        self,
        workers: dict[str, tuple[_Track, Worker]],
        makers: dict[str, Rows],
        process: int,
    ) -> None:
        first = next(iter(workers.values()))[0].planned
        single = not WORKLOADS[first.cell.workload].interleaved
        turns = palindromic(list(workers), 1 if single else first.protocol.blocks)
        done = dict.fromkeys(workers, 0)
        for order, arm in enumerate(turns):
            track, worker = workers[arm]
            self.on_turn(f"{track.planned.cell.name}: block {done[arm] + 1}")
            self._samples(track, worker, makers[arm], "block", process, done[arm], order)
            done[arm] += 1

    def _samples(
        self,
        track: _Track,
        worker: Worker,
        made: Rows,
        request: str,
        process: int,
        block: int | None,
        order: int | None,
    ) -> None:
        if track.failure is not None:
            return
        answer = worker.ask(request)
        if isinstance(answer, Failure):
            self._fail(track, worker, answer)
        else:
            track.rows += [made.sample(sample, process, block, order) for sample in answer]

    def _fail(self, track: _Track, worker: Worker, failure: Failure) -> None:
        track.failure, track.tail = failure, worker.tail()
        worker.stop()

    def _finish(self, track: _Track) -> Finished:
        """A cell's rows, or what became of it. A cell that failed half-way keeps no speed, for it
        would be that of a part of its blocks."""
        failure = track.failure
        if failure is None:
            return Finished(track.planned, "ok", None, track.seconds, track.rows)
        device = self.home if track.planned.unsupported else track.planned.cell.device
        made = Rows(self.study, self.run_id, track.planned, environment.capture(device))
        row = made.outcome(failure.status, failure.reason, track.tail)
        return Finished(track.planned, failure.status, failure.reason, track.seconds, [row])


@contextmanager
def _workers(
    tracks: list[_Track], folder: Path, process: int
) -> Iterator[dict[str, tuple[_Track, Worker]]]:
    """A started worker for each track, by arm; all are stopped at the end, come what may."""
    workers: dict[str, tuple[_Track, Worker]] = {}
    try:
        for track in tracks:
            worker = Worker(track.planned, folder, process)
            workers[track.planned.cell.arm] = (track, worker)
        yield workers
    except BaseException:  # an interrupt must not wait for what a worker is doing
        for _, worker in workers.values():
            worker.process.kill()
        raise
    finally:
        for track, worker in workers.values():
            track.seconds += worker.spent_s
            worker.stop()


def environment_variables() -> None:
    """Set what workers inherit, before the server starts: quiet libraries, no surprises."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # GNU OpenMP's threads wait for each other by spinning 300,000 turns. On a core that someone
    # else wants, a step then costs ten times its time; with 10,000 it costs twice, and on quiet
    # cores nothing. Equal for all arms, and recorded with the environment.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
