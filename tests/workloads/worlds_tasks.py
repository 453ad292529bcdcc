"""What the ranks of the tests' worlds do; a module of its own, which they import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fakes.worlds import workload

from retnet_bench.measure.clock import WallClock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.workloads import Cell
from retnet_bench.workloads.learning import Learning
from retnet_bench.workloads.train import Train

STEPS = 3
BLOCK = Protocol(blocks=1)


def three_steps(rank: int, rendezvous: Path | None, cell: Cell) -> dict[str, Any]:
    """Losses and gradient norms of three AdamW steps of a training, and the whole model's
    parameters after them."""
    train = workload(cell, rank, rendezvous)
    assert isinstance(train, Train)
    norms: list[float] = []
    update = train.optimiser.update

    def watched(clip: float | None = None) -> None:
        norms.append(train.world.gradient_norm(train.model).item())
        update(clip)

    train.optimiser.update = watched  # type: ignore[method-assign]
    losses = []
    for _ in range(STEPS):
        train.step()
        losses.append(train.world.mean(train.last_loss).item())
    weights = train.world.whole(train.model, dict(train.model.named_parameters()))
    held = sum(
        (p.to_local() if hasattr(p, "to_local") else p).numel() for p in train.model.parameters()
    )
    return {
        "losses": losses,
        "norms": norms,
        "weights": {name: w.detach().clone() for name, w in weights.items()},
        "held": held,
    }


def logits(rank: int, rendezvous: Path | None, cell: Cell) -> torch.Tensor:
    """Of a prefill, or of the steps of a decode, in the cell's mode."""
    run = workload(cell, rank, rendezvous)
    found = []
    for _ in range(STEPS):
        run.step()
        found.append(run.logits.clone())  # type: ignore[attr-defined]
    return torch.cat(found, 1)


def end_after(training: Learning, steps: int, error: type[BaseException]) -> None:
    """Have a training raise `error` once it has taken so many steps."""
    step = training.step

    def ending() -> None:
        if training.done == steps:
            raise error
        step()

    training.step = ending  # type: ignore[method-assign]


class Stopped(Exception):
    """A training that is ended in its midst."""


def learned(
    rank: int, rendezvous: Path | None, cell: Cell, folder: Path, stop: int | None
) -> dict[str, Any]:
    """Loss curve and scores of a training that keeps checkpoints in `folder`; ended after step
    `stop`, if one is given."""
    run = workload(cell, rank, rendezvous)
    assert isinstance(run, Learning)
    run.checkpoints = folder
    if stop is not None:
        end_after(run, stop, Stopped)
    said: list[str] = []
    run.report = said.append
    try:
        samples = list(run.block(WallClock("cpu"), BLOCK, 0.0))
    except Stopped:
        return {"said": said}
    return {
        "said": said,
        "curve": run.curve,
        "nats": [s.values[0] for s in samples if s.metric == "document_nll_nat"],
    }


def memory(rank: int, rendezvous: Path | None, cell: Cell) -> dict[str, float]:
    """What a rank measures of its memory, by metric."""
    with torch.backends.mkldnn.flags(enabled=False):
        samples = workload(cell, rank, rendezvous).memory()
        return {s.metric: s.values[0] for s in samples if s.values}
