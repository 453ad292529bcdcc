"""The worker: one process, one cell. It does what the runner asks, in order, and nothing else.

Workers are forked from a server that has imported this module (and so torch) but has touched
neither a device nor a thread pool: a fresh process costs milliseconds, and CUDA is safe.
`python -m retnet_bench.run.worker ADDRESS` is such a server for a runner of another revision.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import torch

from retnet_bench.base import UserError
from retnet_bench.files import NotWritten
from retnet_bench.measure import cores, environment, memory, purity
from retnet_bench.measure.clock import Clock, WallClock
from retnet_bench.measure.protocol import Protocol, warm_up
from retnet_bench.measure.reading import unreported
from retnet_bench.models import agreement
from retnet_bench.run import orphans, wire
from retnet_bench.run.wire import Answer, Failure, Prepared, Samples, Trial
from retnet_bench.workloads import WORKLOADS, Cell, Diverged, NotFinite, Sample, world

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
NO_SPACE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""What the system says of a full disk; libraries wrap its error, but keep its words."""

PRELOADED = "torch._dynamo"
"""What an optimiser's first step imports: once in the server, not in every worker."""


class Incorrect(Exception):
    """The forms of a model, or its modes, disagree: no speed is taken."""


@dataclass
class Session:
    """A cell being measured. Each method is one request of the runner."""

    cell: Cell
    protocol: Protocol
    device: str = field(init=False)
    """This process's own: the cell's, or that of its rank."""
    seat: world.Seat | None = field(default=None, init=False)
    """Its place among the ranks of a world."""
    clock_of: Callable[[str], Clock] = WallClock
    step_s: float = field(default=0.0, init=False)
    report: Callable[[str], None] = field(default=lambda words: None, init=False)
    """Takes a few words from within a long block."""
    _reported: set[tuple[str, str]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.device = self.cell.device

    def prepare(
        self,
        agreements: list[dict[str, Any]] | None = None,
        memory_bytes: int | None = None,
        checkpoints: str | None = None,
        tensorboard: str | None = None,
        seat: dict[str, Any] | None = None,
    ) -> Prepared:
        """Check the forms, build, warm up. `agreements` are those found before for the same model;
        `checkpoints` and `tensorboard` are folders for this cell's. `seat`: this process's place
        among those that run the cell together."""
        self.seat = world.Seat(**seat) if seat else None
        found = self._build(agreements, memory_bytes, checkpoints, tensorboard)
        self.clock_cost_s = purity.clock_cost_s(self.clock)
        env = environment.capture(self.device)
        dispatched = self.workload.dispatched()
        warm = None
        if self.workload.interleaved and "time" in self.cell.measure:
            together = self.workload.world
            warm = warm_up(
                *(self.clock, self.workload.step, self.protocol), together.meet, together.slowest
            )
            self.step_s = warm.step_s
        texts = dict(self.workload.texts)
        return Prepared(env, found, dispatched, warm, self._mode_error(), texts)

    def trial(
        self, agreements: list[dict[str, Any]] | None = None, memory_bytes: int | None = None
    ) -> Trial:
        """Time steps, whatever the workload, until they are steady or `warmup_max_s` is spent: the
        cell's kernel and chunk are a candidate for one that leaves them open. The first steps are
        not timed: they compile (a second one may do so again), tune or take memory."""
        found = self._build(agreements, memory_bytes)
        for _ in range(1 if self.cell.mode == "eager" else 2):
            self.workload.step()
        warm = warm_up(self.clock, self.workload.step, self.protocol)
        self.workload.check()
        self._mode_error()
        return Trial(found, [*warm.window])

    def _build(
        self,
        agreements: list[dict[str, Any]] | None,
        memory_bytes: int | None,
        checkpoints: str | None = None,
        tensorboard: str | None = None,
    ) -> list[agreement.Agreement]:
        """What was found of the forms; the workload is ready for its first step."""
        # A decayed weight below 1e-38 is 0, as on GPUs: x86 takes a hundred times as long for it,
        # so a speed would hang on how fast states decay. Threads made from here on do the same.
        torch.set_flush_denormal(True)
        torch.set_num_threads(self.cell.threads)
        cores.pin(self.cell.threads, place=self.seat.local_rank if self.seat else 0)
        if memory_bytes is not None:
            memory.limit_memory(memory_bytes)
        memory.keep_freed_memory(True)
        config = self.cell.matched().config
        found = wire.agreements(agreements)
        if found is None:
            found = agreement.check(config, self.cell.device, self.cell.dtype)
        for compared in found:
            if not compared.ok:
                raise Incorrect(f"forms disagree: {compared.line()}")
        self.workload = WORKLOADS[self.cell.workload](self.cell)
        if self.cell.parallel is not None and self.seat is not None:
            limit_s = self.protocol.timeout_s
            joined = world.join(self.cell.parallel, self.seat, self.cell.device, limit_s)
            self.workload.world, self.workload.device = joined, joined.device
            self.device = str(joined.device)
        self.workload.report = self.report
        self.workload.checkpoints = None if checkpoints is None else Path(checkpoints)
        self.workload.tensorboard = None if tensorboard is None else Path(tensorboard)
        self.workload.prepare()
        self.clock = self.clock_of(self.device)
        return found

    def _mode_error(self) -> float | None:
        """How far the compiled step is from the eager one on the same input; None for eager."""
        if self.cell.mode == "eager":
            return None
        error = self.workload.mode_error()
        limit = agreement.TOLERANCE["fp32" if self.cell.dtype == "fp64" else self.cell.dtype]
        if not error <= limit:
            raise Incorrect(
                f"mode {self.cell.mode} differs from eager by {error:.1e} (limit {limit:.0e})"
            )
        return error

    def block(self) -> Samples:
        """One block, and what else happened in its window. Where nothing is timed (perplexity)
        nothing can be impure."""
        before = purity.snapshot(self.device)
        samples = list(self.workload.block(self.clock, self.protocol, self.step_s))
        after = purity.snapshot(self.device)
        self.workload.check()
        if not self.workload.interleaved:
            return Samples(samples)
        times = [value for sample in samples if sample.unit == "s" for value in sample.values]
        impure = purity.judge(before, after, steps_s=times, clock_cost_s=self.clock_cost_s)
        counted = unreported(purity.readings(before, after), self._reported)
        return Samples([*samples, *(Sample.of(c, self.workload.phase) for c in counted)], impure)

    def memory(self) -> Samples:
        memory.keep_freed_memory(False)  # what a step needs, not what the heap holds on to
        return Samples(list(self.workload.memory()))

    def facts(self) -> Samples:
        return Samples(list(self.workload.facts()))


def serve(
    conn: Connection, liveness: Connection, output: str, cell: Cell, protocol: Protocol
) -> None:
    """Answer the runner's requests until it says stop or is gone.

    `liveness` is a pipe whose other end only the runner holds: its end of file means that the
    runner died, however it died. `output`: the file that takes this process's stdout and stderr.
    """
    orphans.end_with(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    try:
        _redirect(output)
    except FileNotFoundError:
        return  # the runner was interrupted while this process started, and has cleared up
    except OSError as error:
        wire.requested(conn)
        wire.send(conn, Failure(wire.UNWRITTEN, f"{output}: can't be written: {error.strerror}"))
        return
    _prefer_as_oom_victim()
    threading.Thread(target=_exit_with_runner, args=(liveness,), daemon=True).start()
    session = Session(cell, protocol)
    session.report = lambda words: wire.send(conn, wire.Progress(words))
    while True:
        name, arguments = wire.requested(conn)
        if name == "stop":
            return
        wire.send(conn, _attempt(session, name, arguments))


def _attempt(session: Session, name: str, arguments: dict[str, Any]) -> Answer:
    try:
        return getattr(session, name)(**arguments)
    except Exception as error:
        with suppress(OSError):  # a full disk
            traceback.print_exc()
        return _failure(error)


def _failure(error: Exception) -> Failure:
    text = str(error).strip().split("\n")[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error).lower() for words in OUT_OF_MEMORY
    ):
        return Failure("oom", text or "out of memory")
    if isinstance(error, NotWritten) or any(words in str(error) for words in NO_SPACE):
        return Failure(wire.UNWRITTEN, text)
    if isinstance(error, Diverged):
        return Failure("diverged", text)
    if isinstance(error, NotFinite):
        return Failure("nan", text)
    if isinstance(error, Incorrect):
        return Failure("incorrect", text)
    if isinstance(error, UserError):
        return Failure("error", text)
    return Failure("error", f"{type(error).__name__}: {text}")


def _redirect(output: str) -> None:
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(target, stream)


def _prefer_as_oom_victim() -> None:
    """Where memory runs out all the same, the kernel shall take the worker, not the runner."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        return  # not Linux, or not allowed: the kernel's own choice stands


def _exit_with_runner(liveness: Connection) -> None:
    """Wait, without waking, for the runner's end of the pipe to close; then end at once."""
    try:
        liveness.recv()
    except (EOFError, OSError):  # of a runner on another machine: the connection was lost
        os._exit(3)


def listen(address: str) -> None:
    """Be the server: fork a worker for each assignment of the runner at `address`, one at a time,
    and tell it the worker's pid and, later, its exit code. Ends when the runner does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = os.getpid()
    with Client(address, "AF_UNIX") as control:
        while True:
            try:
                raw = control.recv_bytes()
            except EOFError:
                return
            pid = os.fork()
            if pid == 0:
                orphans.end_with(server)
                control.close()
                _forked(address, raw)
            control.send_bytes(str(pid).encode())
            _, status = os.waitpid(pid, 0)
            control.send_bytes(str(os.waitstatus_to_exitcode(status)).encode())


def _forked(address: str, raw: bytes) -> None:
    """The rest of a forked worker's life; never returns."""
    code = 1
    try:
        conn, liveness = Client(address, "AF_UNIX"), Client(address, "AF_UNIX")
        try:
            cell, protocol, output = wire.assigned(raw)
        except UserError as error:
            wire.requested(conn)
            wire.send(conn, Failure("unsupported", str(error)))
        else:
            serve(conn, liveness, output, cell, protocol)
        code = 0
    except EOFError:
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    importlib.import_module(PRELOADED)
    listen(sys.argv[1])
