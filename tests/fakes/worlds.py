"""Worlds of a test's own: processes on this machine that run one cell together, over gloo."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from retnet_bench.workloads import WORKLOADS, Cell, Workload, world

LIMIT_S = 600.0
"""Seconds that a world of a test may take."""
PRELOADED = ["retnet_bench.workloads", "torch.distributed.fsdp", "torch.distributed.tensor"]
"""What the fork server imports once for all ranks. It has not the tests' own path."""


def workload(cell: Cell, rank: int = 0, rendezvous: Path | None = None) -> Workload:
    """The cell's workload, prepared: alone, or as one rank of its world."""
    made = WORKLOADS[cell.workload](cell)
    if cell.parallel is not None and rendezvous is not None:
        seat = world.Seat(rank, str(rendezvous), rank, cell.parallel.ranks)
        made.world = world.join(cell.parallel, seat, cell.device, LIMIT_S)
        made.device = made.world.device
    made.prepare()
    return made


def _rank(task: Callable[..., Any], rank: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out = folder / f"rank{rank}.pt"
    try:
        found = task(rank, folder / "rendezvous", *arguments)
    except BaseException:
        (folder / f"rank{rank}.txt").write_text(traceback.format_exc())
        raise
    torch.save(found, out)
    world.leave()


def run(task: Callable[..., Any], ranks: int, folder: Path, *arguments: Any) -> list[Any]:
    """What `task(rank, rendezvous, *arguments)` returns in each of so many processes. `task` is a
    function of a module. RuntimeError with the first rank's words that failed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    folder.mkdir(parents=True, exist_ok=True)
    started = [
        context.Process(target=_rank, args=(task, rank, folder, arguments), daemon=True)
        for rank in range(ranks)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
    for rank in range(ranks):
        if (said := folder / f"rank{rank}.txt").exists():
            raise RuntimeError(f"rank {rank}: {said.read_text()}")
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)]
