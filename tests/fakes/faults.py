"""Workers with a fault of their own: an arm named after a fault has it, any other is sound.

A worker is a fresh process, which no patch of the test reaches; so the test gives the runner this
`serve` for its own, and the fault is made inside the worker, around the real one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from retnet_bench.measure.memory import available_bytes
from retnet_bench.models import agreement
from retnet_bench.models.agreement import Agreement
from retnet_bench.run import worker
from retnet_bench.workloads import train
from retnet_bench.workloads.train import Train


def _in_step(act: Callable[[], object]) -> Callable[[], None]:
    """The fault of a training step that does `act`."""

    def arrange() -> None:
        Train.step = lambda self: act()  # type: ignore[assignment, return-value]

    return arrange


def _raise() -> None:
    print("last words on stderr", file=sys.stderr, flush=True)
    raise KeyError("lost")


def _hog() -> None:
    """As much as is free on the machine: more than the worker's share, but the system gives it."""
    torch.empty(available_bytes(), dtype=torch.uint8)


def _disk_full() -> None:
    raise RuntimeError("cannot compile: [Errno 28] No space left on device: 'a.so'")


def _weights_not_finite() -> None:
    prepare = Train.prepare

    def spoilt(self: Train) -> None:
        prepare(self)
        with torch.no_grad():
            self.model.embedding.weight.fill_(float("inf"))

    Train.prepare = spoilt  # type: ignore[method-assign]


def _forms_disagree() -> None:
    agreement.check = lambda *_: [Agreement("fp32", 0.5, "forward at length 3")]


def _wrong_compiler() -> None:
    train.execute = lambda fn, mode: lambda *args: 1.01 * fn(*args)


FAULTS: dict[str, Callable[[], None]] = {
    "raises": _in_step(_raise),
    "segfaults": _in_step(lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "exits": _in_step(lambda: os._exit(7)),
    "killed": _in_step(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "hogs": _in_step(_hog),
    "realtime": _in_step(lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3)),
    "full": _in_step(_disk_full),
    "hangs": _in_step(lambda: ctypes.PyDLL(None).sleep(600)),  # no other thread gets a turn
    "sleeps": _in_step(lambda: time.sleep(600)),
    "nan": _weights_not_finite,
    "incorrect": _forms_disagree,
    "miscompiled": _wrong_compiler,
}


LAST = "-last"
"""Ends the name of an arm whose fault only the last rank of its world has."""


def serve(conn: Any, life: Any, output: str, cell: Any, protocol: Any) -> None:
    """`worker.serve` in a process that has the arm's fault."""
    fault = cell.arm.removesuffix(LAST)
    if fault == cell.arm or f"-rank{cell.ranks - 1}" in output:
        FAULTS.get(fault, lambda: None)()
    worker.serve(conn, life, output, cell, protocol)
