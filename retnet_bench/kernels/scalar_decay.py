"""Linear attention whose decay is one number for each head and token, made from the data: gated
retention (arXiv:2405.05254, section 3.1) and the state-space dual of Mamba-2 (arXiv:2405.21060).

Shapes: q, k (B, T, G, K); v (B, T, H, V); log_decay (B, T, H) <= 0 in fp32 or fp64; state
(B, H, K, V) in fp32 (fp64 for fp64 input):

    S_t = e^{log_decay_t} S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t

There is no scale: mixers scale q. G divides H: the heads of a group have one key and one query
(Mamba-2's B and C), whose scores are made once, and which are never repeated in memory. Every form
returns the output (B, T, H, V) and the state after the last token.

Within a chunk c is the inclusive sum of log_decay, in log_decay's precision, and enters as
differences that are <= 0 alone: those above the diagonal are masked before the exponential, and its
values there after it, so nothing overflows however fast a state decays.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retnet_bench.kernels import retention
from retnet_bench.kernels.chunks import by_chunk, flops_over_chunks, over_chunks, scan, state_dtype


def _empty_state(k: Tensor, v: Tensor) -> Tensor:
    B, _, H, V = v.shape
    return k.new_zeros(B, H, k.shape[-1], V, dtype=state_dtype(k.dtype))


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    chunk: int = 64,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Linear in T, for any length: section 6 of Mamba-2, Eq. 7 of RetNet with its decay."""
    return over_chunks(_chunks, (q, k, v, log_decay), chunk, state)


def parallel(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 0, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(Q K^T * D) V, quadratic in T: the whole sequence is one chunk."""
    return _chunks(q, k, v, log_decay, q.shape[1], state)


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, C: int, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`chunkwise` where C divides T. Below N = T/C chunks, and R = H/G heads in each group."""
    state = _empty_state(k, v) if state is None else state
    G = k.shape[2]
    q, k = (by_chunk(x, C) for x in (q, k))  # (B, G, N, C, K)
    # (B, T, H, V) -> (B, G, N, C, R, V)
    v = v.unflatten(2, (G, -1)).unflatten(1, (-1, C)).permute(0, 3, 1, 2, 4, 5).contiguous()
    g = log_decay.unflatten(2, (G, -1)).unflatten(1, (-1, C)).permute(0, 3, 1, 4, 2)
    c = g.cumsum(-1)  # (B, G, N, R, C)
    inner = _decayed(q @ k.transpose(-1, -2), c) @ v.transpose(3, 4)  # (B, G, N, R, C, V)

    total = c[..., -1:]
    to_end = torch.exp(total - c).transpose(-1, -2)[..., None]  # (B, G, N, C, R, 1)
    increments = k.transpose(-1, -2) @ (v * to_end.to(v.dtype)).flatten(-2)  # (B, G, N, K, R V)
    increments = increments.to(state.dtype).unflatten(-1, v.shape[-2:])
    state = state.unflatten(1, (G, -1)).transpose(2, 3)  # (B, G, K, R, V)
    before, state = scan(increments, state, torch.exp(total)[:, :, :, None])
    del increments  # as large as the states
    cross = (q @ before.to(q.dtype).flatten(-2)).unflatten(-1, v.shape[-2:])
    from_start = torch.exp(c).transpose(-1, -2)[..., None].to(q.dtype)
    out = torch.addcmul(inner.transpose(3, 4), cross, from_start)  # (B, G, N, C, R, V)
    out = out.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)
    return out, state.transpose(2, 3).flatten(1, 2)


def _decayed(scores: Tensor, c: Tensor) -> Tensor:
    """Scores (B, G, N, C, C) times e^{c_i - c_j} for i >= j, else 0: (B, G, N, R, C, C)."""
    if torch.compiler.is_compiling():
        return (scores[:, :, :, None] * _decays(c).to(scores.dtype)).tril_()
    return _Decayed.apply(scores, c)


def _decays(c: Tensor) -> Tensor:
    """e^{c_i - c_j} for i >= j, else 1, to be masked: of -inf exp takes six times as long (CPU)."""
    return (c[..., :, None] - c[..., None, :]).tril_().exp_()


class _Decayed(torch.autograd.Function):
    """`_decayed` with fewer passes over scores: decays enter row i as c_i and leave it as c_j, so
    that their gradient is the rows' sums less the columns'."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, c: Tensor) -> Tensor:
        D = _decays(c).tril_().to(scores.dtype)
        out = scores[:, :, :, None] * D
        ctx.dtype = c.dtype
        ctx.save_for_backward(D, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        D, out = ctx.saved_tensors
        both = grad * out
        rows, columns = (both.sum(dim, dtype=ctx.dtype) for dim in (-1, -2))
        return (grad * D).sum(3), rows.sub_(columns)


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 0, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token by token: the reference the other forms are held against."""
    state = _empty_state(k, v) if state is None else state
    out = []
    for q_t, k_t, v_t, g_t in zip(*(x.unbind(1) for x in (q, k, v, log_decay)), strict=True):
        key, value = _outer(k_t, v_t, state.dtype)
        state = state * torch.exp(g_t)[..., None, None] + (key * value).flatten(1, 2)
        out.append(_read(q_t, state))
    return torch.stack(out, 1).to(v.dtype), state


def recurrent_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> Tensor:
    """One token, updating `state` in place.

    q, k (B, G, K), v (B, H, V), log_decay (B, H) -> (B, H, V). For inference only: no gradient
    flows.
    """
    key, value = _outer(k, v, state.dtype)
    state.mul_(torch.exp(log_decay)[..., None, None])
    state.unflatten(1, value.shape[1:3]).addcmul_(key, value)
    return _read(q, state).to(v.dtype)


def _outer(k: Tensor, v: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors of k v^T, (B, G, 1, K, 1) and (B, G, R, 1, V)."""
    return k.to(dtype)[:, :, None, :, None], v.to(dtype).unflatten(1, (k.shape[1], -1))[
        ..., None, :
    ]


def _read(q: Tensor, state: Tensor) -> Tensor:
    """S^T q of every head: (B, G, K), (B, H, K, V) -> (B, H, V)."""
    rows = q.to(state.dtype)[:, :, None, None]  # (B, G, 1, 1, K)
    return (rows @ state.unflatten(1, (q.shape[1], -1))).squeeze(-2).flatten(1, 2)


def _repeated(x: Tensor, v: Tensor) -> Tensor:
    """(..., G, K) -> (..., H, K), for kernels that know no groups."""
    return x.repeat_interleave(v.shape[-2] // x.shape[-2], -2)


def fla_chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 64, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """By flash-linear-attention's Triton kernel, which takes no groups: keys are repeated."""
    from fla.ops.simple_gla import chunk_simple_gla

    return chunk_simple_gla(
        _repeated(q, v),
        _repeated(k, v),
        v,
        g=log_decay,
        scale=1.0,
        initial_state=state,
        output_final_state=True,
        chunk_size=chunk,
    )


def fla_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> Tensor:
    """One token by flash-linear-attention's fused recurrent kernel; `state` updated in place."""
    from fla.ops.simple_gla import fused_recurrent_simple_gla

    q, k = _repeated(q, v), _repeated(k, v)
    out, new = fused_recurrent_simple_gla(
        *(x.unsqueeze(1) for x in (q, k, v)),  # (B, 1, H, d)
        g=log_decay.unsqueeze(1),
        scale=1.0,
        initial_state=state,
        output_final_state=True,
    )
    state.copy_(new)
    return out.squeeze(1)


def chunkwise_flops(
    length: int, chunk: int, heads: int, groups: int, d_k: int, d_v: int, masked: bool
) -> float:
    """Matmul FLOPs of one layer's `chunkwise` over `length` tokens; `parallel`'s where chunk is
    `length`.

    Each chunk of c tokens: Q K^T (2 c^2 d_k) for each group; scores V (2 c^2 d_v), Q S and K^T V
    (2 c d_k d_v each) for each head. Counted with `masked=False`, the half of the scores that
    causality throws away is left out.
    """

    def one(c: int) -> float:
        pairs = c * c if masked else c * (c + 1) / 2
        return 2 * pairs * (groups * d_k + heads * d_v) + 4 * c * heads * d_k * d_v

    return flops_over_chunks(length, chunk, one)


def flops(
    form: str,
    length: int,
    chunk: int,
    heads: int,
    groups: int,
    d_k: int,
    d_v: int,
    masked: bool = True,
) -> float:
    """Matmul FLOPs of one layer's forward pass by that form of a kernel."""
    if form == "recurrent":
        return heads * retention.recurrent_flops(length, d_k, d_v)
    chunk = chunk if form == "chunkwise" else length
    return chunkwise_flops(length, chunk, heads, groups, d_k, d_v, masked)


def backward_flops(
    form: str, length: int, chunk: int, heads: int, groups: int, d_k: int, d_v: int
) -> float:
    """Matmul FLOPs of the backward pass: two products for each of the forward's, but for those that
    only the state after the last token depends on, or that only an empty one would need."""
    twice = 2 * flops(form, length, chunk, heads, groups, d_k, d_v)
    if form == "recurrent":
        return twice
    chunk = chunk if form == "chunkwise" else length
    return twice - heads * retention.unused_backward_flops(length, chunk, d_k, d_v)
