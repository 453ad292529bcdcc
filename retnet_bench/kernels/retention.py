"""Retention in its three forms (arXiv:2307.08621v4, Eq. 5-7). One answer, three costs.

Shapes: q, k (B, T, H, d_k); v (B, T, H, d_v); log_decay (H,) = ln(gamma) in fp32 or fp64;
state (B, H, d_k, d_v) = sum over m of gamma^(n-m) k_m^T v_m, in fp32 (fp64 for fp64 input).
Scores are scaled by d_k^-1/2 (section 2.2), on the side of q, so that a state means the same to
every kernel. Every form returns the output (B, T, H, d_v) and the state after the last token.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from retnet_bench.kernels.chunks import (
    by_chunk,
    flops_over_chunks,
    in_order,
    over_chunks,
    scan,
    state_dtype,
)


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
    row = torch.arange(C, device=q.device, dtype=log_decay.dtype)
    scale = q.shape[-1] ** -0.5
    D = (_decay_mask(log_decay, C) * scale).to(q.dtype)[:, None]  # (H, 1, C, C)
    zeta = torch.exp((C - 1 - row) * log_decay[:, None]).to(q.dtype)[:, None, :, None]
    xi = (torch.exp((row + 1) * log_decay[:, None]) * scale).to(q.dtype)[:, None, :, None]
    gamma_C = torch.exp(C * log_decay)[None, :, None, None, None]

    q, k, v = (by_chunk(x, C) for x in (q, k, v))
    increments = ((k * zeta).transpose(-1, -2) @ v).to(state.dtype)  # (B, H, T/C, d_k, d_v)
    before, state = scan(increments, state, gamma_C.expand(-1, -1, increments.shape[2], 1, 1))
    del increments  # as large as the states
    inner = (q @ k.transpose(-1, -2)).mul_(D) @ v
    cross = q @ before.to(q.dtype)
    return in_order(inner.addcmul_(cross, xi)), state


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
