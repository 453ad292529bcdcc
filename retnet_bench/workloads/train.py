"""Training: forward, backward and an AdamW step on real tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from typing import Any, ClassVar

import torch

from retnet_bench.measure.clock import Clock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import LanguageModel
from retnet_bench.models.agreement import DTYPES
from retnet_bench.workloads.base import (
    WORKLOADS,
    NotFinite,
    Sample,
    Workload,
    tensor_bytes,
    weight_bytes,
)
from retnet_bench.workloads.modes import execute
from retnet_bench.workloads.recipe import Recipe
from retnet_bench.workloads.settings import ParallelSettings, TrainingSettings
from retnet_bench.workloads.world import ALONE, Alone

Batch = tuple[torch.Tensor, ...]
"""What a step takes, of one row a sequence each: inputs and targets, or what else a loss needs."""
FIXED_STEPS = 5
"""The training step whose loss is kept as a figure that must not change."""


class Optimiser:
    """AdamW as the recipe sets it, with fp32 weights under autocast below fp32."""

    def __init__(
        self,
        model: LanguageModel,
        device: torch.device,
        dtype: str,
        lr: float,
        recipe: Recipe,
        world: Alone = ALONE,
    ) -> None:
        self.model, self.world = model, world
        self.adamw = torch.optim.AdamW(
            _groups(model),
            lr=lr,
            betas=recipe.betas,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        low = dtype in ("bf16", "fp16")
        self.autocast = torch.autocast(device.type, DTYPES[dtype] if low else None, enabled=low)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == "fp16")

    def backward(self, loss: torch.Tensor) -> None:
        """Add the loss's gradients to those that are there."""
        self.scaler.scale(loss).backward()

    def update(self, clip: float | None = None) -> None:
        """Step by the gradients, which are freed afterwards."""
        if clip is not None:
            self.scaler.unscale_(self.adamw)
            self.world.clip(self.model, clip)
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.adamw.zero_grad(set_to_none=True)

    def state_bytes(self) -> int:
        states = self.adamw.state.values()
        return tensor_bytes(t for s in states for t in s.values() if isinstance(t, torch.Tensor))


def _groups(model: LanguageModel) -> list[dict[str, Any]]:
    """The parameters as AdamW takes them: those that weight decay leaves alone stand apart."""
    undecayed = model.undecayed()
    named = [*model.named_parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if name not in undecayed]},
        {"params": [p for name, p in named if name in undecayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@WORKLOADS.register("train")
class Train(Workload):
    """Seconds of a training step of batch x length tokens. Weights and AdamW state are fp32."""

    phase = "train"
    settings: ClassVar[tuple[type, ...]] = (TrainingSettings, ParallelSettings)

    def prepare(self) -> None:
        cell = self.cell
        self.model = self.build_model("fp64" if cell.dtype == "fp64" else "fp32").train()
        self.model.recompute = bool(cell.recompute)
        rows = cell.batch // self.world.parallel.data
        self.micro_batch = cell.micro_batch or rows
        assert rows % self.micro_batch == 0, "micro_batch must divide a rank's batch"
        low = DTYPES[cell.dtype] if cell.dtype in ("bf16", "fp16") else None
        self.world.share(self.model, low)
        self.optimiser = Optimiser(
            self.model,
            self.device,
            cell.dtype,
            self.peak_learning_rate(),
            cell.training_recipe,
            self.world,
        )
        self.clip: float | None = None
        batches = self.first_batches()
        self.first = tuple(map(self.world.rows, batches[0]))
        self.batches: Iterator[Batch] = cycle(batches)
        self.loss = execute(self.trained_loss, cell.mode)
        self.last_loss = torch.zeros(())
        self.taken = 0
        self.fixed_loss: torch.Tensor | None = None

    def first_batches(self) -> list[Batch]:
        """A few batches on the device; their content makes no step faster or slower."""
        rows = self.sample_tokens(4 * self.cell.batch, self.cell.length).split(self.cell.batch)
        return [(r[:, :-1].contiguous(), r[:, 1:].contiguous()) for r in rows]

    @property
    def eager_loss(self) -> Callable[..., torch.Tensor]:
        """From a batch to the loss, in nats per target."""
        return self.model.loss

    @property
    def trained_loss(self) -> Callable[..., torch.Tensor]:
        """The same, such that its gradients are those of all ranks together."""
        return self.eager_loss if self.world is ALONE else self.world.trained(self.model)

    def peak_learning_rate(self) -> float:
        """Of AdamW; for timing any small one does."""
        return 1e-4

    def step(self) -> None:
        batch = tuple(self.world.rows(t).to(self.device) for t in next(self.batches))
        if self.micro_batch == len(batch[0]):
            self.last_loss = self._backward(batch, 1.0)
        else:
            self.last_loss = self._accumulate(batch)
        self.optimiser.update(self.clip)
        self.taken += 1
        if self.taken == FIXED_STEPS:
            self.fixed_loss = self.last_loss

    def _backward(self, batch: Batch, share: float) -> torch.Tensor:
        """The loss of some sequences, whose gradients count by `share`."""
        with self.optimiser.autocast:
            loss = self.loss(*batch)
        self.optimiser.backward(loss if share == 1.0 else loss * share)
        return loss.detach()

    def _accumulate(self, batch: Batch) -> torch.Tensor:
        """The whole batch's mean loss and gradients, `micro_batch` sequences at a time."""
        parts = [*zip(*(t.split(self.micro_batch) for t in batch), strict=True)]
        losses = []
        for i, part in enumerate(parts):
            self.world.exchange(self.loss, self.model, i == len(parts) - 1)
            losses.append(self._backward(part, 1 / len(parts)))
        return torch.stack(losses).mean()

    def eager_step(self) -> torch.Tensor:
        return self._loss_of(self.eager_loss)

    def mode_step(self) -> torch.Tensor:
        return self._loss_of(self.loss)

    def _loss_of(self, loss: Callable) -> torch.Tensor:
        """Without dropout, which no two modes draw alike."""
        self.model.train(not self.model.cfg.dropout)
        with self.optimiser.autocast:
            found = loss(*self.first).detach()
        self.model.train()
        return found

    def facts(self) -> Iterable[Sample]:
        while self.fixed_loss is None:
            self.step()
        value = (self.world.mean(self.fixed_loss).item(),)
        yield Sample("loss_after_steps_nat", "nat", value, self.phase, {"step": FIXED_STEPS})

    def check(self) -> None:
        loss = self.world.mean(self.last_loss)
        if not torch.isfinite(loss):
            raise NotFinite(f"training loss became {loss.item()}")

    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        return self.timed_block("train_step_s", clock, protocol, step_s)

    def memory(self) -> Iterable[Sample]:
        self.model.train()  # perplexity has scored just before
        if not self.optimiser.adamw.state:
            self.step()  # AdamW's moments exist from the first step on, and belong to the peak
        weights = weight_bytes(self.model)
        yield Sample("weight_bytes", "bytes", (float(weights),), self.phase)
        resident = weights + self.optimiser.state_bytes() + self.world.bucket_bytes(self.model)
        yield from self.memory_of(self.phase, self.step, resident)
