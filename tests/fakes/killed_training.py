"""A training in a process of its own that kills itself (SIGKILL) at the n-th touch of the disk."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from fakes.clock import FakeClock

from retnet_bench.measure.protocol import Protocol
from retnet_bench.workloads import Cell, Sample
from retnet_bench.workloads.perplexity import Perplexity


def samples(cell: Cell, checkpoints: Path | None) -> list[Sample]:
    """What the cell yields, here and now."""
    found = Perplexity(cell)
    found.checkpoints = checkpoints
    found.prepare()
    return list(found.block(FakeClock(), Protocol(), 0.0))


def start(cell: Cell, checkpoints: Path, out: Path, kill_at: int):
    """The process. It writes its samples to `out`, if it lives so long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fakes.killed_training"])
    process = context.Process(target=_work, args=(cell, checkpoints, out, kill_at))
    process.start()
    return process


def _work(cell: Cell, checkpoints: Path, out: Path, kill_at: int) -> None:
    torch.set_num_threads(1)
    touches = iter(range(1, 10**9))

    def deadly(call: Callable) -> Callable:
        def touch(*args, **kwargs):
            if next(touches) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return touch

    for module, name in ((os, "fsync"), (os, "replace"), (os, "mkdir"), (shutil, "rmtree")):
        setattr(module, name, deadly(getattr(module, name)))
    out.write_bytes(pickle.dumps(samples(cell, checkpoints)))
