"""Decode: one token at a time, at positions along the whole sequence: a curve, not a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, cycle

import torch

from retnet_bench.measure.clock import Clock
from retnet_bench.measure.protocol import Protocol, run_block, samples_per_block
from retnet_bench.models import cost
from retnet_bench.models.agreement import DTYPES
from retnet_bench.models.joined import join
from retnet_bench.models.language_model import DecodeState
from retnet_bench.workloads.base import (
    WORKLOADS,
    NotFinite,
    Sample,
    Workload,
    tensor_bytes,
    weight_bytes,
)
from retnet_bench.workloads.modes import CapturedStep, execute
from retnet_bench.workloads.settings import DecodeSettings, ParallelSettings

MAX_STEPS = 16
"""Most consecutive steps at one position in one block: they move along by as many tokens."""
WINDOW = 512
"""A captured graph has fixed shapes, so it reads the cache up to the next multiple of this."""


def positions(length: int, points: int) -> list[int]:
    """Evenly spaced positions to start from, the last so that MAX_STEPS steps end at `length`."""
    last = length - MAX_STEPS
    return sorted({max(1, round(last * i / points)) for i in range(1, points + 1)})


def _steps(start: int, offsets: range, kept: bool) -> list[tuple[int, int, bool]]:
    """(position to start from, steps from there, whether its time is kept) of one visit."""
    return [(start, offsets[0], False), *((start, offset, kept) for offset in offsets)]


def held_bytes(state: DecodeState) -> int:
    """Bytes of every tensor a decode state holds."""
    tensors = chain.from_iterable(
        [layer] if isinstance(layer, torch.Tensor) else vars(layer).values()
        for layer in state.layers
    )
    return tensor_bytes(t for t in tensors if isinstance(t, torch.Tensor))


@WORKLOADS.register("decode")
class Decode(Workload):
    """Seconds of one step (model and greedy choice) of the whole batch, at each position.

    The prompt is real text, taken in by prefill up to each position; the next tokens are the
    text's own, so that every block finds the same cache.
    """

    phase = "decode"
    settings = (DecodeSettings, ParallelSettings)

    @torch.no_grad()
    def prepare(self) -> None:
        cell = self.cell
        self.model = join(self.build_model(cell.dtype).eval())
        self.tokens = self.sample_tokens(cell.batch, cell.length)[:, : cell.length]
        self.positions = positions(cell.length, cell.positions or 8)
        self.states = dict(self._prefilled())
        self.steps = {p: self._bind(p) for p in self.positions}
        self.warm = self.positions[len(self.positions) // 2]
        self.offsets = cycle(range(MAX_STEPS))

    def _prefilled(self) -> Iterator[tuple[int, DecodeState]]:
        """A state at every position; with a cache they share its slots."""
        state = self.model.new_state(self.cell.batch, self.cell.length)
        for position in self.positions:
            self.logits = self.model.prefill(self.tokens[:, state.position : position], state)
            yield position, self.model.fork(state)

    def _bind(self, position: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
        """The step to run from `position`: (token, position) -> logits."""
        layers = self.states[position].layers
        if self.cell.mode == "cudagraph":
            window = min(self.cell.length, -(-(position + MAX_STEPS) // WINDOW) * WINDOW)
            for layer in layers:
                if hasattr(layer, "window"):
                    layer.window = window
            return CapturedStep(
                lambda token, at: self.model.step_at(token, layers, at), self.cell.batch
            )
        step_at = execute(self.model.step_at, self.cell.mode)
        return lambda token, at: step_at(token, layers, at)

    @torch.no_grad()
    def _step_from(self, start: int, offset: int) -> None:
        position = start + offset
        self.logits = self.steps[start](self._token(position), position)
        self.next_token = self.logits[:, -1].argmax(-1, keepdim=True)

    def step(self) -> None:
        self._step_from(self.warm, next(self.offsets))

    @torch.no_grad()
    def eager_step(self) -> torch.Tensor:
        state = self.model.fork(self.states[self.warm])
        return self.model.step(self._token(self.warm), state)

    @torch.no_grad()
    def mode_step(self) -> torch.Tensor:
        return self.steps[self.warm](self._token(self.warm), self.warm)

    def _token(self, position: int) -> torch.Tensor:
        return self.tokens[:, position : position + 1]

    def check(self) -> None:
        if not torch.isfinite(self.logits).all():
            raise NotFinite("decode logits are not finite")

    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        """A sweep up all positions and one down, so that what drifts meanwhile tilts no curve.

        Each position gets its share of the block's seconds. Not kept are the block's first steps
        and the first of each visit to a position: they find other data in the caches, another
        arm's or another position's, and would make first seem slower than last.
        """
        n = min(MAX_STEPS, samples_per_block(protocol, step_s * len(self.positions)))
        there, back = range(n - n // 2), range(n - n // 2, n)
        visits = [(self.positions[0], there, False)]
        visits += [(start, there, True) for start in self.positions]
        visits += [(start, back, True) for start in reversed(self.positions) if back]
        steps = [step for visit in visits for step in _steps(*visit)]
        turns = iter(steps)
        times = self.world.slowest(
            run_block(clock, lambda: self._step_from(*next(turns)[:2]), len(steps), self.world.meet)
        )
        found: dict[int, list[float]] = {start: [] for start in self.positions}
        for (start, _, kept), seconds in zip(steps, times, strict=True):
            if kept:
                found[start].append(seconds)
        for start, samples in found.items():
            yield Sample("decode_step_s", "s", tuple(samples), self.phase, {"position": start})

    def memory(self) -> Iterable[Sample]:
        cfg, cell = self.model.cfg, self.cell
        element = DTYPES[cell.dtype].itemsize
        for p in self.positions:
            needed = cost.state_bytes(cfg, cell.batch, p, element) // self.world.parallel.tensor
            yield Sample("state_bytes", "bytes", (float(needed),), self.phase, {"position": p})
        yield from self._peak()

    @torch.no_grad()
    def _peak(self) -> Iterator[Sample]:
        """Peak of steps at the last position, with only that state alive."""
        last = self.positions[-1]
        self.states = {last: self.states[last]}
        self.steps = {last: self.steps[last]}
        self.warm, self.offsets = last, cycle(range(MAX_STEPS))
        weights, state = weight_bytes(self.model), held_bytes(self.states[last])
        yield Sample("weight_bytes", "bytes", (float(weights),), self.phase)
        at = {"position": self.cell.length}
        yield Sample("state_bytes", "bytes", (float(state),), self.phase, at)
        yield from self.memory_of(self.phase, self.step, weights + state)
