"""Retention in its three forms (arXiv:2307.08621v4, Eq. 5-7). One answer, three costs.

Shapes: q, k (B, T, H, d_k); v (B, T, H, d_v); log_decay (H,) = ln(gamma) in fp32 or fp64;
state (B, H, d_k, d_v) = sum over m of gamma^(n-m) k_m^T v_m, in fp32 (fp64 for fp64 input).
Scores are scaled by d_k^-1/2 (section 2.2), on the side of q, so that a state means the same to
every kernel. Every form returns the output (B, T, H, d_v) and the state after the last token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retnet_bench.kernels.chunks import (
    by_chunk,
    flops_over_chunks,
    in_order,
    over_chunks,
    scan,
    state_dtype,
)
from retnet_bench.kernels.device import Device, device_of
from retnet_bench.kernels.products import add_product


def _empty_state(q: Tensor, v: Tensor) -> Tensor:
    B, _, H, d_k = q.shape
    return q.new_zeros(B, H, d_k, v.shape[-1], dtype=state_dtype(q.dtype))


def _decay_mask(log_decay: Tensor, rows: int) -> Tensor:
    """D of Eq. 5, (H, rows, rows): gamma^(n-m) on and below the diagonal, 0 above."""
    n = torch.arange(rows, device=log_decay.device, dtype=log_decay.dtype)
    return torch.exp((n[:, None] - n[None, :]) * log_decay[:, None, None]).tril()


def parallel(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 0, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Eq. 5: (Q K^T * D) V, quadratic in T. An initial state adds gamma^(n+1) Q state (Eq. 6)."""
    T, scale = q.shape[1], q.shape[-1] ** -0.5
    row = torch.arange(T, device=q.device, dtype=log_decay.dtype)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, d)
    D = (_decay_mask(log_decay, T) * scale).to(q.dtype)
    out = ((q @ k.transpose(-1, -2)) * D) @ v
    to_end = torch.exp((T - 1 - row) * log_decay[:, None])[..., None]  # (H, T, 1)
    new = ((k * to_end.to(k.dtype)).transpose(-1, -2) @ v).to(state_dtype(q.dtype))
    if state is not None:
        from_start = torch.exp((row + 1) * log_decay[:, None])[..., None]
        out = out + (q * (from_start * scale).to(q.dtype)) @ state.to(q.dtype)
        new = new + torch.exp(T * log_decay)[:, None, None] * state
    return out.transpose(1, 2), new


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    chunk: int = 128,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Eq. 7 for any length: whole chunks together, then the remainder as one shorter chunk."""
    return over_chunks(partial(_chunks, log_decay), (q, k, v), chunk, state)


def _chunks(
    log_decay: Tensor, q: Tensor, k: Tensor, v: Tensor, C: int, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Eq. 7 where C divides T."""
    state = _empty_state(q, v) if state is None else state
    if torch.compiler.is_compiling():
        return _all_chunks(_Factors.of(log_decay, C, q, state), q, k, v, C, state)
    device = device_of(q)
    if device.low is not None:
        q, k, v = (x.to(device.low) for x in (q, k, v))
    factors = _Factors.of(log_decay, C, q, state)
    return _Chunkwise.apply(q, k, v, state, factors, C, device)


@dataclass(frozen=True)
class _Factors:
    """What decays by place in a chunk, of the dtype of q (`whole`: of the state), for operands
    (..., H, C, d)."""

    inner: Tensor
    """D of Eq. 5 times the scale d_k^-1/2: (H, C, C)."""
    to_end: Tensor
    """gamma^(C-1-n): (H, C, 1)."""
    from_start: Tensor
    """gamma^(n+1) times the scale: (H, C, 1)."""
    whole: Tensor
    """gamma^C: (H, 1, 1)."""

    @staticmethod
    def of(log_decay: Tensor, C: int, q: Tensor, state: Tensor) -> _Factors:
        scale = q.shape[-1] ** -0.5
        row = torch.arange(C, device=q.device, dtype=log_decay.dtype)
        return _Factors(
            (_decay_mask(log_decay, C) * scale).to(q.dtype),
            torch.exp((C - 1 - row) * log_decay[:, None])[..., None].to(q.dtype),
            (torch.exp((row + 1) * log_decay[:, None]) * scale)[..., None].to(q.dtype),
            torch.exp(C * log_decay)[:, None, None].to(state.dtype),
        )


def _all_chunks(
    factors: _Factors, q: Tensor, k: Tensor, v: Tensor, C: int, state: Tensor
) -> tuple[Tensor, Tensor]:
    """All chunks together, in operators that a compiler fuses and differentiates."""
    q, k, v = (by_chunk(x, C) for x in (q, k, v))
    to_end, from_start = factors.to_end[:, None], factors.from_start[:, None]
    increments = ((k * to_end).transpose(-1, -2) @ v).to(state.dtype)  # (B, H, N, d_k, d_v)
    decay = factors.whole[None, :, None].expand(-1, -1, increments.shape[2], 1, 1)
    before, state = scan(increments, state, decay)
    inner = (q @ k.transpose(-1, -2)).mul(factors.inner[:, None]) @ v
    cross = q @ before.to(q.dtype)
    return in_order(inner.addcmul(cross, from_start)), state


class _Chunkwise(torch.autograd.Function):
    """Eq. 7 that keeps q, k, v and the state before each chunk, and computes all else again in the
    backward pass. Chunks are worked on in groups, in place; on a CPU a group stays in its caches.

    Of N chunks, in groups of n: what is kept (N B H, C, d), a group (n B H, C, d), states
    (n B H, d_k, d_v). `log_decay` is a constant. A second derivative raises RuntimeError.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: Tensor,
        factors: _Factors,
        C: int,
        device: Device,
    ) -> tuple[Tensor, Tensor]:
        groups = device.slices(_chunk_bytes(q, v, C), q.shape[1] // C)
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        learns = any(ctx.needs_input_grad)
        kept = [_taken(x, C, slice(None)) for x in (q, k, v)] if learns else []
        before = q.new_empty(len(kept[0]) if kept else 0, *state.shape[2:])
        for group in groups:
            rows = _rows(group, state)
            Q, K, V = [x[rows] for x in kept] or [_taken(x, C, group) for x in (q, k, v)]
            scores = _scale_(torch.bmm(Q, K.mT), factors.inner)
            part = torch.bmm(scores, V)
            del scores
            increments = torch.bmm(_scaled(K, factors.to_end).mT, V)
            states = before[rows] if learns else torch.empty_like(increments)
            state = _through(increments, state, factors.whole, states)
            del increments
            _put(out, C, group, add_product(part, _scaled(Q, factors.from_start), states))
        ctx.save_for_backward(*kept, before, *vars(factors).values())
        ctx.C, ctx.groups, ctx.state = C, groups, (state.shape, state.dtype)
        ctx.set_materialize_grads(False)
        return out, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_state: Tensor | None) -> tuple[Any, ...]:
        q, k, v, before, *rest = ctx.saved_tensors
        factors, C = _Factors(*rest), ctx.C
        shape, state_dtype = ctx.state
        alone, to_start = len(before) == shape[0] * shape[1], ctx.needs_input_grad[3]
        to_end = not alone or grad_state is not None
        if grad_state is None:
            grad_state = before.new_zeros(shape, dtype=state_dtype)
        B, T = shape[0], C * (len(before) // (shape[0] * shape[1]))
        if grad_out is None:
            grad_out = v.new_zeros(B, T, shape[1], shape[3])
        grads = [q.new_empty(B, T, shape[1], x.shape[-1]) for x in (q, k, v)]
        for group in reversed(ctx.groups):
            rows = _rows(group, grad_state)
            Q, K, V, R = q[rows], k[rows], v[rows], before[rows]
            G = _taken(grad_out, C, group)
            scores = _scale_(torch.bmm(Q, K.mT), factors.inner)
            to_v = torch.bmm(scores.mT, G)
            del scores
            to_scores = _scale_(torch.bmm(G, V.mT), factors.inner)
            to_q = _scale_(torch.bmm(G, R.mT), factors.from_start)
            _put(grads[0], C, group, add_product(to_q, to_scores, K))
            to_k = torch.bmm(to_scores.mT, Q)
            del to_q, to_scores
            after = torch.empty_like(R)
            if to_start or not alone:
                read = torch.bmm(_scaled(Q, factors.from_start).mT, G)
                grad_state = _through(read, grad_state, factors.whole, after, back=True)
            else:
                after.copy_(grad_state.view_as(after))
            if to_end:
                add_product(to_k, _scaled(V, factors.to_end), after.mT)
                add_product(to_v, _scaled(K, factors.to_end), after)
            _put(grads[1], C, group, to_k)
            _put(grads[2], C, group, to_v)
        return *grads, grad_state if to_start else None, None, None, None


def _chunk_bytes(q: Tensor, v: Tensor, C: int) -> int:
    """What the scores and operands of a chunk of q, v (B, T, H, d) take."""
    B, _, H, d_k = q.shape
    return B * H * C * (2 * C + 3 * d_k + 3 * v.shape[-1]) * q.element_size()


def _rows(chunks: slice, state: Tensor) -> slice:
    """Some chunks among what is kept, which has a row for each chunk, sequence and head."""
    each = state.shape[0] * state.shape[1]
    return slice(chunks.start * each, chunks.stop * each)


def _taken(x: Tensor, C: int, chunks: slice) -> Tensor:
    """A copy of some chunks of x (B, T, H, d): (n B H, C, d)."""
    part = x.unflatten(1, (-1, C))[:, chunks].permute(1, 0, 3, 2, 4)
    return part.clone(memory_format=torch.contiguous_format).flatten(0, 2)


def _put(x: Tensor, C: int, chunks: slice, part: Tensor) -> None:
    """Write a group to its place in x (B, T, H, d): the reverse of `_taken`."""
    place = x.unflatten(1, (-1, C))[:, chunks].permute(1, 0, 3, 2, 4)
    place.copy_(part.view(place.shape))


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    """x (n B H, ...) times what each head (H, ...) has of a factor."""
    return (x.unflatten(0, (-1, len(factor))) * factor).flatten(0, 1)


def _scale_(x: Tensor, factor: Tensor) -> Tensor:
    """The same in place."""
    x.unflatten(0, (-1, len(factor))).mul_(factor)
    return x


def _through(
    increments: Tensor, state: Tensor, decay: Tensor, states: Tensor, back: bool = False
) -> Tensor:
    """Write the state (B, H, d_k, d_v) before each chunk of a group to `states`; returns the one
    after the last. `back`: likewise for gradients, from the last chunk to the first."""
    shape = (-1, *state.shape[:2])
    places, added = (x.unflatten(0, shape).unbind(0) for x in (states, increments))
    order = range(len(places))
    for n in reversed(order) if back else order:
        places[n].copy_(state)
        state = torch.addcmul(added[n].to(state.dtype), state, decay)
    return state


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 0, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Eq. 6 token by token: the reference the other forms are held against."""
    state = _empty_state(q, v) if state is None else state
    gamma = torch.exp(log_decay)[:, None, None]
    dtype, scale = state.dtype, q.shape[-1] ** -0.5
    out = []
    for q_n, k_n, v_n in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True):
        state = state * gamma + k_n.to(dtype)[..., :, None] * v_n.to(dtype)[..., None, :]
        out.append(((q_n.to(dtype) * scale)[..., None, :] @ state).squeeze(-2))
    return torch.stack(out, 1).to(v.dtype), state


def recurrent_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> Tensor:
    """One step of Eq. 6, updating `state` in place.

    q, k (B, H, d_k), v (B, H, d_v) -> (B, H, d_v). For inference only: no gradient flows.
    """
    dtype, scale = state.dtype, q.shape[-1] ** -0.5
    gamma = torch.exp(log_decay)[:, None, None]
    state.mul_(gamma).addcmul_(k.to(dtype)[..., :, None], v.to(dtype)[..., None, :])
    q = (q.to(dtype) * scale).flatten(0, 1)[:, None]  # (B H, 1, d_k)
    return torch.bmm(q, state.flatten(0, 1)).view(v.shape).to(v.dtype)


def fla_chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 64, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Eq. 7 by flash-linear-attention's Triton kernel with one scalar gate per head.

    `fla.ops.retention` hard-codes Eq. 8's decay; simple_gla with g_gamma = ln(gamma) takes ours.
    """
    from fla.ops.simple_gla import chunk_simple_gla

    return chunk_simple_gla(
        q, k, v, g_gamma=log_decay, initial_state=state, output_final_state=True, chunk_size=chunk
    )


def fla_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> Tensor:
    """One step by flash-linear-attention's fused recurrent kernel; `state` updated in place."""
    from fla.ops.simple_gla import fused_recurrent_simple_gla

    q, k, v = (x.unsqueeze(1) for x in (q, k, v))  # (B, H, d) -> (B, 1, H, d)
    out, new = fused_recurrent_simple_gla(
        q, k, v, g_gamma=log_decay, initial_state=state, output_final_state=True
    )
    state.copy_(new)
    return out.squeeze(1)


def parallel_flops(length: int, d_k: int, d_v: int, masked: bool) -> float:
    """Matmul FLOPs of one head's `parallel` from an empty state: Q K^T, scores V, and K^T V."""
    pairs = length * length if masked else length * (length + 1) / 2
    return 2 * pairs * (d_k + d_v) + 2 * length * d_k * d_v


def chunkwise_flops(length: int, chunk: int, d_k: int, d_v: int, masked: bool) -> float:
    """Matmul FLOPs of one head's `chunkwise` over `length` tokens.

    Each chunk of c tokens: Q K^T (2 c^2 d_k), scores V (2 c^2 d_v), Q R, K^T V (2 c d_k d_v each).
    Counted with `masked=False`, the half of the scores that causality throws away is left out.
    """

    def one(c: int) -> float:
        pairs = c * c if masked else c * (c + 1) / 2
        return 2 * pairs * (d_k + d_v) + 4 * c * d_k * d_v

    return flops_over_chunks(length, chunk, one)


def scores_flops(length: int, chunk: int, d_k: int) -> float:
    """Matmul FLOPs of Q K^T of one head's `chunkwise`, masked scores included: what the backward
    pass computes again."""
    return flops_over_chunks(length, chunk, lambda c: 2.0 * c * c * d_k)


def unused_backward_flops(length: int, chunk: int, d_k: int, d_v: int) -> float:
    """What the backward pass of one head's `chunkwise` spares of twice the forward's FLOPs.

    The state after the last token reaches no loss: where the last chunk stands alone (a shorter
    rest, or the only one), both gradients of its K^T V are spared. An only first chunk's Q R needs
    no gradient of the empty state R.
    """
    whole, rest = divmod(length, min(chunk, length))
    first = min(chunk, length) if whole == 1 else 0
    last = rest or first
    return 2.0 * d_k * d_v * (first + 2 * last)


def recurrent_flops(length: int, d_k: int, d_v: int) -> float:
    """Matmul FLOPs of one head's `recurrent`: q state, 2 d_k d_v a token (the update is
    elementwise)."""
    return 2.0 * length * d_k * d_v
