"""Prefill: take a whole prompt into an empty state."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from retnet_bench.measure.clock import Clock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models.language_model import DecodeState
from retnet_bench.workloads.base import WORKLOADS, NotFinite, Sample, Workload, weight_bytes
from retnet_bench.workloads.decode import held_bytes
from retnet_bench.workloads.modes import execute
from retnet_bench.workloads.settings import ParallelSettings


@WORKLOADS.register("prefill")
class Prefill(Workload):
    """Seconds from `length` prompt tokens to the next token's logits; the state starts empty."""

    phase = "prefill"
    settings = (ParallelSettings,)

    @torch.no_grad()
    def prepare(self) -> None:
        cell = self.cell
        self.model = self.build_model(cell.dtype).eval()
        self.tokens = self.sample_tokens(cell.batch, cell.length)[:, :-1].contiguous()
        self.empty: DecodeState = self.model.new_state(cell.batch, cell.length)
        self.prefill = execute(self.model.prefill, cell.mode)
        self.logits = torch.zeros(())

    @torch.no_grad()
    def mode_step(self) -> torch.Tensor:
        return self.prefill(self.tokens, self.model.fork(self.empty))

    @torch.no_grad()
    def eager_step(self) -> torch.Tensor:
        return self.model.prefill(self.tokens, self.model.fork(self.empty))

    def step(self) -> None:
        self.logits = self.mode_step()

    def check(self) -> None:
        if not torch.isfinite(self.logits).all():
            raise NotFinite("logits after prefill are not finite")

    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        return self.timed_block("prefill_s", clock, protocol, step_s)

    def memory(self) -> Iterable[Sample]:
        weights, state = weight_bytes(self.model), held_bytes(self.empty)
        yield Sample("weight_bytes", "bytes", (float(weights),), self.phase)
        yield Sample("state_bytes", "bytes", (float(state),), self.phase)
        yield from self.memory_of(self.phase, self.step, weights + state)
