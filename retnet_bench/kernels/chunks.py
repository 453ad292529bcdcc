"""What chunkwise forms share: a sequence cut into chunks, and a state carried along them.

Shapes: inputs (B, T, H, d); by chunk (B, H, N, C, d) for N chunks of C tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """States and decays never fall below fp32, whatever the model's dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Every product in the dtype of its operands. (The meta device knows no autocast.)"""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def over_chunks(
    run: Callable[..., tuple[Tensor, Any]], inputs: Sequence[Tensor], chunk: int, state: Any
) -> tuple[Tensor, Any]:
    """`run(*inputs, C, state)` for any length: whole chunks together, then the remainder as one
    shorter chunk. `run` takes inputs (B, T, ...) where C divides T, and returns (B, T, ...)."""
    T = inputs[0].shape[1]
    whole = T // chunk * chunk
    if whole in (0, T):
        return run(*inputs, min(chunk, T), state)
    first, state = run(*(x[:, :whole] for x in inputs), chunk, state)
    last, state = run(*(x[:, whole:] for x in inputs), T - whole, state)
    return torch.cat([first, last], dim=1), state


def by_chunk(x: Tensor, C: int) -> Tensor:
    """(B, T, H, d) -> (B, H, T/C, C, d)."""
    return x.unflatten(1, (-1, C)).permute(0, 3, 1, 2, 4).contiguous()


def in_order(x: Tensor) -> Tensor:
    """(B, H, N, C, d) -> (B, N C, H, d)."""
    return x.permute(0, 2, 3, 1, 4).flatten(1, 2)


def scan(increments: Tensor, state: Tensor, decay: Tensor, dim: int = 2) -> tuple[Tensor, Tensor]:
    """state <- decay * state + increment along `dim`.

    increments (..., N, ...); state the same without `dim`; decay broadcasts to the increments and
    has N entries along `dim`. Returns the states before each increment, and the one after the last.
    """
    if increments.shape[dim] > 1 and not torch.compiler.is_compiling():
        return _Scan.apply(increments, state, decay, dim)
    before = []
    for increment, factor in zip(increments.unbind(dim), decay.unbind(dim), strict=True):
        before.append(state)
        state = torch.addcmul(increment, state, factor)
    return torch.stack(before, dim), state


class _Scan(torch.autograd.Function):
    """`scan` with fewer passes over memory: every state is written where it stays, not stacked
    afterwards, and gradients run back likewise."""

    @staticmethod
    def forward(
        ctx: Any, increments: Tensor, state: Tensor, decay: Tensor, dim: int
    ) -> tuple[Tensor, Tensor]:
        before, last = torch.empty_like(increments), torch.empty_like(state)
        before.select(dim, 0).copy_(state)
        states = [*before.unbind(dim), last]
        _decay_along(states, increments.unbind(dim), decay.unbind(dim))
        ctx.dim = dim
        ctx.save_for_backward(decay, before if ctx.needs_input_grad[2] else None)
        return before, last

    @staticmethod
    def backward(
        ctx: Any, grad_before: Tensor, grad_last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None]:
        """What reaches a state reaches its increment as it is, and the state before it decayed."""
        decay, before = ctx.saved_tensors
        increments, state = torch.empty_like(grad_before), torch.empty_like(grad_last)
        increments.select(ctx.dim, -1).copy_(grad_last)
        grads = [*increments.unbind(ctx.dim)[::-1], state]
        _decay_along(grads, grad_before.unbind(ctx.dim)[::-1], decay.unbind(ctx.dim)[::-1])
        lost = None if before is None else (increments * before).sum_to_size(decay.shape)
        return increments, state, lost, None


def _decay_along(
    states: Sequence[Tensor], added: Sequence[Tensor], decays: Sequence[Tensor]
) -> None:
    """Each state but the first: what is added to the one before it, decayed."""
    for before, more, after, decay in zip(states[:-1], added, states[1:], decays, strict=True):
        torch.addcmul(more, before, decay, out=after)


def flops_over_chunks(length: int, chunk: int, one: Callable[[int], float]) -> float:
    """FLOPs of `over_chunks` where one chunk of c tokens costs one(c)."""
    whole, rest = divmod(length, min(chunk, length))
    return whole * one(min(chunk, length)) + (one(rest) if rest else 0.0)
