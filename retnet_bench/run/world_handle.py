"""The runner's end of a cell's processes: of one worker, or of the ranks of a world.

Each rank is a worker like any other, with an output file and a pipe of its own, and is asked the
same. What one of them fails at ends the cell: the others may wait for it in an exchange, and are
killed. Where this machine has no room for all ranks, those that are left are on the job's other
nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from retnet_bench.measure import environment
from retnet_bench.results.schema import OF_RANKS
from retnet_bench.run import wire
from retnet_bench.run.launchers import nodes
from retnet_bench.run.launchers.base import Launcher
from retnet_bench.run.launchers.nodes import RemoteProcess
from retnet_bench.run.wire import Failure, Prepared, Samples
from retnet_bench.run.worker_handle import WorkerHandle
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Sample, world
from retnet_bench.workloads.world import Seat

ROOT_S = 2.0
"""Once a rank has failed: what the others may take to tell of it, or to turn out to be dead. The
one that died or ran out of memory is the cause, the others only miss it."""
CAUSES = ("killed", "oom", "crash", "unwritten", "timeout")
"""Statuses that are a cause of their own, the surest first; of others the first is taken."""


def started(planned: Planned, launcher: Launcher, output: Path) -> WorkerHandle | WorldHandle:
    """The process, or the processes, of a cell."""
    if planned.cell.ranks == 1:
        return WorkerHandle(planned, launcher, output)
    return WorldHandle(planned, launcher, output)


class RemoteWorkerHandle(WorkerHandle):
    """The runner's end of a worker on another node, which tells what can't be seen from here."""

    @property
    def pids(self) -> list[int]:
        return []

    @property
    def _told(self) -> dict[str, Any]:
        process = self.started.process
        assert isinstance(process, RemoteProcess)
        return process.told()

    def _for_memory(self) -> bool | None:
        return self._told.get("for_memory")

    def tail(self) -> str | None:
        return self._told.get("tail")


class WorldHandle:
    """The runner's end of the ranks of one cell."""

    def __init__(self, planned: Planned, launcher: Launcher, output: Path) -> None:
        self.planned = planned
        self.spent_s = 0.0
        self.ranks: list[WorkerHandle] = []
        self.seats: list[Seat] = []
        self.nodes: tuple[str, ...] = ()
        """Names of the other machines that it has ranks on."""
        self.failed = 0
        """The rank whose output tells what happened."""
        cell = planned.cell
        counts = world.ranks_by_machine(cell.parallel, cell.device, cell.threads)
        self.rendezvous = str(output.with_suffix(".rendezvous").absolute())
        launchers: list[Launcher] = [launcher]
        if len(counts) > 1:
            address, found = nodes.others(len(counts) - 1)
            self.nodes = tuple(node.name for node in found)
            launchers += found
            # Here, where it ends with the runner, and its port is one that nobody else has.
            self.store = world.held_store(address, cell.ranks)
            self.rendezvous = f"{world.TCP}{address}:{self.store.port}"
        try:
            for machine, count in enumerate(counts):
                self._start(launchers[machine], output, count, machine > 0)
        except BaseException:
            self.kill()
            raise

    def _start(self, launcher: Launcher, output: Path, count: int, remote: bool) -> None:
        """Start a machine's ranks."""
        for local_rank in range(count):
            rank = len(self.ranks)
            place = output.with_name(f"{output.stem}-rank{rank}{output.suffix}")
            handle = RemoteWorkerHandle if remote else WorkerHandle
            self.seats.append(Seat(rank, self.rendezvous, local_rank, count))
            self.ranks.append(handle(self.planned, launcher, place))

    @property
    def pids(self) -> list[int]:
        """Of those on this machine."""
        return [pid for worker in self.ranks for pid in worker.pids]

    def ask(
        self, name: str, on_progress: Callable[[str], None] = lambda words: None, **arguments: Any
    ) -> wire.Answer:
        """What the ranks answer together, or a Failure of one: its own, a time-out, its death."""
        start = time.monotonic()
        waiting = dict(enumerate(self.ranks))
        answers: dict[int, wire.Answer] = {}
        try:
            for rank, worker in waiting.items():
                self._request(rank, worker, name, arguments)
            while waiting:
                left = self.planned.protocol.timeout_s - self.spent_s - time.monotonic() + start
                found = self._next(waiting, max(left, 0.0))
                for rank, answer in found.items():
                    if not isinstance(answer, wire.Progress):
                        answers[rank] = answer
                        del waiting[rank]
                    elif rank == 0:
                        on_progress(answer.words)
                        self.spent_s, start = 0.0, time.monotonic()
                if failures := {r: a for r, a in found.items() if isinstance(a, Failure)}:
                    return self._ended(failures, waiting)
        finally:
            self.spent_s += time.monotonic() - start
        return self._unlike(answers) or _together(answers)

    def _unlike(self, answers: dict[int, wire.Answer]) -> Failure | None:
        """That the machines are of several kinds: what they measured together is of neither."""
        found: dict[str, str] = {}
        for rank, answer in sorted(answers.items()):
            if isinstance(answer, Prepared) and self.nodes and not self.seats[rank].local_rank:
                name = environment.machine_name(answer.environment)
                known = environment.fingerprint(answer.environment)
                found.setdefault(known, f"rank {rank} on {name} (fingerprint {known})")
        if len(found) < 2:
            return None
        self.kill()
        return Failure(
            "error",
            f"the world's machines are unlike: {', '.join(found.values())}; ask for nodes of one "
            "kind (--slurm constraint=..., nodelist=...)",
        )

    def _request(
        self, rank: int, worker: WorkerHandle, name: str, arguments: dict[str, Any]
    ) -> None:
        own = dict(arguments)
        if name == "prepare":
            seat = self.seats[rank]
            own["seat"] = asdict(seat)
            if own.get("memory_bytes") is not None:
                own["memory_bytes"] //= seat.local_ranks
            if rank:  # the first checks the forms, and writes
                own["agreements"] = []
                own.pop("tensorboard", None)
        with suppress(EOFError, ConnectionError):  # it is dead, which its pipe tells at once
            wire.request(worker.started.conn, name, **own)

    def _next(self, waiting: dict[int, WorkerHandle], left_s: float) -> dict[int, wire.Answer]:
        """Answers of the ranks that have one now; a time-out's Failure when none has in time."""
        conns: dict[Any, int] = {w.started.conn: rank for rank, w in waiting.items()}
        ready = [conns[conn] for conn in wait(list(conns), left_s)]
        if not ready:
            self.kill()
            which = ", ".join(map(str, waiting))
            limit = f"timeout_s = {self.planned.protocol.timeout_s:g} s"
            words = f"rank {which} not finished after {limit}"
            return {min(waiting): Failure("timeout", words)}
        return {rank: waiting[rank].answered() for rank in ready}

    def _ended(self, failures: dict[int, Failure], waiting: dict[int, WorkerHandle]) -> Failure:
        """The failure that the others follow from; nobody is left."""
        failures = dict(failures)
        end = time.monotonic() + ROOT_S
        if all(failure.status != "timeout" for failure in failures.values()):
            while waiting and (left := end - time.monotonic()) > 0:
                conns: dict[Any, int] = {w.started.conn: rank for rank, w in waiting.items()}
                for conn in wait(list(conns), left):
                    rank = conns[conn]
                    answer = waiting[rank].answered()
                    if isinstance(answer, Failure):
                        failures[rank] = answer
                    if not isinstance(answer, wire.Progress):
                        del waiting[rank]
        self.kill()
        known = [s for s in CAUSES if any(f.status == s for f in failures.values())]
        cause = known[0] if known else next(iter(failures.values())).status
        self.failed = next(rank for rank, f in failures.items() if f.status == cause)
        found = failures[self.failed]
        if found.reason.startswith("rank "):
            return found
        return replace(found, reason=f"rank {self.failed}: {found.reason}")

    def tail(self) -> str | None:
        """The end of what the rank that failed wrote."""
        return self.ranks[self.failed].tail()

    def kill(self) -> None:
        for worker in self.ranks:
            worker.kill()

    def stop(self) -> None:
        """Let all end; kill those that do not."""
        for worker in self.ranks:
            worker.ask_to_stop()
        for worker in self.ranks:
            worker.await_end()


def _together(answers: dict[int, wire.Answer]) -> wire.Answer:
    """One answer of all: the first rank's, with what else happened on any of them."""
    first = answers[0]
    if not isinstance(first, Samples):
        return first
    every = [answers[rank] for rank in sorted(answers)]
    found = [answer for answer in every if isinstance(answer, Samples)]
    impure = [f"rank {i}: {one.impure}" for i, one in enumerate(found) if one.impure]
    return Samples([*_largest(found)], "; ".join(impure) or None)


def _largest(found: list[Samples]) -> list[Sample]:
    """The first rank's samples; of memory the largest of all ranks', and all of them beside it."""
    samples = []
    for first in found[0].samples:
        same = [s for one in found for s in one.samples if _key(s) == _key(first)]
        values = [value for s in same for value in s.values]
        if first.metric not in OF_RANKS or len(values) != len(found):
            samples.append(first)
            continue
        samples.append(replace(first, values=(max(values),)))
        samples.append(replace(first, metric=f"rank_{first.metric}", values=tuple(values)))
    return samples


def _key(sample: Sample) -> tuple[Any, ...]:
    return sample.metric, sample.phase, tuple(sorted(sample.coordinates.items()))
