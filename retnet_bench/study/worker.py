"""The worker: one process, one cell. It does what the runner asks, in order, and nothing else.

Workers are forked from a server that has imported this module (and so torch) but has touched
neither a device nor a thread pool: a fresh process costs milliseconds, and CUDA is safe.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from retnet_bench.base import UserError
from retnet_bench.measure import environment, memory
from retnet_bench.measure.clock import WallClock
from retnet_bench.measure.protocol import Protocol, WarmUp, warm_up
from retnet_bench.models import forms
from retnet_bench.workloads import WORKLOADS, Cell, NotFinite, Sample

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass(frozen=True)
class Prepared:
    """What a worker found out before the first block."""

    environment: dict[str, Any]
    agreements: list[forms.Agreement]
    kernel_dispatched: str | None
    warmup: WarmUp | None
    mode_error: float | None


@dataclass(frozen=True)
class Failure:
    """Why a worker could not do what was asked."""

    status: str
    reason: str


class Incorrect(Exception):
    """The forms of a model, or its modes, disagree: no speed is taken."""


@dataclass
class Session:
    """A cell being measured. Each method is one request of the runner."""

    cell: Cell
    protocol: Protocol
    step_s: float = field(default=0.0, init=False)

    def prepare(
        self, agreements: list[forms.Agreement] | None, memory_bytes: int | None
    ) -> Prepared:
        """Gate, build, warm up. `agreements` are those found before for the same model."""
        torch.set_num_threads(self.cell.threads)
        if memory_bytes is not None:
            memory.limit_memory(memory_bytes)
        config = self.cell.matched().config
        if agreements is None:
            agreements = forms.check(config, self.cell.device, self.cell.dtype)
        for agreement in agreements:
            if not agreement.ok:
                raise Incorrect(f"forms disagree: {agreement.line()}")
        self.workload = WORKLOADS[self.cell.workload](self.cell)
        self.workload.prepare()
        self.clock = WallClock(self.cell.device)
        env = environment.capture(self.cell.device)
        dispatched = self.workload.dispatched()
        warm = None
        if self.workload.interleaved and "time" in self.cell.measure:
            warm = warm_up(self.clock, self.workload.step, self.protocol)
            self.step_s = warm.step_s
        return Prepared(env, agreements, dispatched, warm, self._mode_error())

    def _mode_error(self) -> float | None:
        """How far the compiled step is from the eager one on the same input; None for eager."""
        if self.cell.mode == "eager":
            return None
        error = self.workload.mode_error()
        limit = forms.TOLERANCE["fp32" if self.cell.dtype == "fp64" else self.cell.dtype]
        if not error <= limit:
            raise Incorrect(
                f"mode {self.cell.mode} differs from eager by {error:.1e} (limit {limit:.0e})"
            )
        return error

    def block(self) -> list[Sample]:
        samples = list(self.workload.block(self.clock, self.protocol, self.step_s))
        self.workload.check()
        return samples

    def memory(self) -> list[Sample]:
        return list(self.workload.memory())


def serve(conn: Connection, life: Connection, output: str, cell: Cell, protocol: Protocol) -> None:
    """Answer the runner's requests until it says stop or is gone.

    `life` is a pipe whose other end only the runner holds: its end of file means that the runner
    died, however it died. `output`: the file that takes this process's stdout and stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    try:
        _redirect(output)
    except FileNotFoundError:
        return  # the runner was interrupted while this process started, and has cleared up
    _die_first()
    threading.Thread(target=_follow, args=(life,), daemon=True).start()
    session = Session(cell, protocol)
    while True:
        name, arguments = conn.recv()
        if name == "stop":
            return
        conn.send(_attempt(getattr(session, name), arguments))


def _attempt(call: Callable, arguments: tuple) -> Any:
    try:
        return call(*arguments)
    except Exception as error:
        traceback.print_exc()
        return _failure(error)


def _failure(error: Exception) -> Failure:
    text = str(error).strip().split("\n")[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error).lower() for words in OUT_OF_MEMORY
    ):
        return Failure("oom", text or "out of memory")
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


def _die_first() -> None:
    """Where memory runs out all the same, the kernel shall take the worker, not the runner."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        return  # not Linux, or not allowed: the kernel's own choice stands


def _follow(life: Connection) -> None:
    """Wait, without waking, for the runner's end of the pipe to close; then end at once."""
    try:
        life.recv()
    except EOFError:
        os._exit(3)
