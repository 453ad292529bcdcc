"""Generation, as a server does it: a prompt taken in at once, then one token after another."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from retnet_bench.measure.clock import Clock, time_call
from retnet_bench.measure.protocol import Protocol, run_block, samples_per_block
from retnet_bench.models.joined import join
from retnet_bench.models.language_model import DecodeState
from retnet_bench.workloads.base import WORKLOADS, NotFinite, Sample, Workload, weight_bytes
from retnet_bench.workloads.cell import Cell
from retnet_bench.workloads.decode import held_bytes
from retnet_bench.workloads.modes import execute
from retnet_bench.workloads.settings import GenerateSettings

NEW_TOKENS = 64
"""Tokens that follow the prompt, unless the setting `new_tokens` says."""


def new_tokens(cell: Cell) -> int:
    """How many tokens a request of the cell gives."""
    return cell.new_tokens or NEW_TOKENS


@WORKLOADS.register("generate")
class Generate(Workload):
    """Seconds of a request: `length` prompt tokens in, `new_tokens` out, `batch` requests at once.

    The first token comes from prefill, whose state is handed to one-token steps; each next one is
    the most probable, and goes into the next step without leaving the device. Nothing waits for the
    device but the first token and the last. A repetition is a whole request from an empty state.
    """

    phase = "generate"
    settings = (GenerateSettings,)

    @torch.no_grad()
    def prepare(self) -> None:
        cell = self.cell
        self.new_tokens = new_tokens(cell)
        self.model = join(self.build_model(cell.dtype).eval())
        self.prompt = self.sample_tokens(cell.batch, cell.length)[:, :-1].contiguous()
        self.empty: DecodeState = self.model.new_state(
            cell.batch, cell.length + self.new_tokens - 1
        )
        self.prefill = execute(self.model.prefill, cell.mode)
        self.step_at = execute(self.model.step_at, cell.mode)
        self.tokens: list[torch.Tensor] = []
        self.logits = torch.zeros(())

    @torch.no_grad()
    def first(self) -> None:
        """The prompt into an empty state, and the first token."""
        self.state = self.model.fork(self.empty)
        self.logits = self.prefill(self.prompt, self.state)
        self.tokens = [self._chosen()]

    @torch.no_grad()
    def further(self) -> None:
        """The tokens after the first, each from the one before."""
        for position in range(self.cell.length, self.cell.length + self.new_tokens - 1):
            self.logits = self.step_at(self.tokens[-1], self.state.layers, position)
            self.tokens.append(self._chosen())

    def _chosen(self) -> torch.Tensor:
        """The most probable next token of each sequence: (B, 1)."""
        return self.logits[:, -1].argmax(-1, keepdim=True)

    def step(self) -> None:
        self.first()
        self.further()

    @torch.no_grad()
    def eager_step(self) -> torch.Tensor:
        state = self.model.fork(self.empty)
        logits = self.model.prefill(self.prompt, state)
        return self.model.step(logits[:, -1].argmax(-1, keepdim=True), state)

    @torch.no_grad()
    def mode_step(self) -> torch.Tensor:
        state = self.model.fork(self.empty)
        logits = self.prefill(self.prompt, state)
        token = logits[:, -1].argmax(-1, keepdim=True)
        return self.step_at(token, state.layers, self.cell.length)

    def check(self) -> None:
        if not torch.isfinite(self.logits).all():
            raise NotFinite("logits of generation are not finite")

    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        """Requests one after another. Of each: seconds to its first token, seconds of a token after
        it (the mean of the request, as servers count it), seconds of it all."""
        first: list[float] = []

        def request() -> None:
            first.append(time_call(clock, self.first))
            self.further()

        whole = run_block(clock, request, samples_per_block(protocol, step_s))
        yield Sample("request_s", "s", tuple(whole), self.phase)
        yield Sample("first_token_s", "s", tuple(first), self.phase)
        if self.new_tokens > 1:
            rest = [(all_ - one) / (self.new_tokens - 1) for one, all_ in zip(first, whole)]
            yield Sample("output_token_s", "s", tuple(rest), self.phase)

    def memory(self) -> Iterable[Sample]:
        """Of a whole request, the state being as large as its end needs. A recurrent state is there
        twice: the request's, and the empty one that the next begins from."""
        self._forget()

        def request() -> None:
            self.step()
            self._forget()  # what it made is not there when the next one begins

        weights, state = weight_bytes(self.model), held_bytes(self.empty)
        yield Sample("weight_bytes", "bytes", (float(weights),), self.phase)
        at = {"position": self.cell.length + self.new_tokens - 1}
        yield Sample("state_bytes", "bytes", (float(state),), self.phase, at)
        yield from self.memory_of(self.phase, request, weights + state)

    def _forget(self) -> None:
        self.state, self.tokens, self.logits = self.empty, [], torch.zeros(())
