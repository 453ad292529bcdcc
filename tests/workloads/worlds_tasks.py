"""What the ranks of the tests' worlds do; a module of its own, which they import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fakes.worlds import workload

from retnet_bench.workloads import Cell
from retnet_bench.workloads.train import Train

STEPS = 3


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
        "dtype": torch.get_default_dtype(),
    }
