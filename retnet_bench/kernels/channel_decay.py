"""Linear attention whose decay differs by channel and token (GLA, arXiv:2312.06635, section 4).

Shapes: q, k (B, T, H, K); v (B, T, H, V); log_decay (B, T, H, K) <= 0 in fp32 or fp64; state
(B, H, K, V) in fp32 (fp64 for fp64 input):

    S_t = diag(e^{log_decay_t}) S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t K^-1/2

The scale is on the side of q, so that a state means the same to every kernel. Every form returns
the output (B, T, H, V) and the state after the last token.

Scores within a chunk are A_ij = sum over channels of q_i k_j e^{c_i - c_j}, i >= j, where c is the
inclusive sum of log_decay. The factors e^{c} and e^{-c} on their own overflow once a chunk decays
by more than e^88 (fp32). The paper's secondary chunking (section 4.3) bounds that by sub-blocks of
16 rows, the diagonal ones element by element. Here blocks are halved down to single rows: in every
block of 2m rows the later half looks back on the earlier one, both referred to the place between
them. So every exponent is <= 0, every pair of rows is met by one matmul, and only the diagonal,
which no decay touches, is left to do element by element.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.kernels.chunks import (
    by_chunk,
    flops_over_chunks,
    in_order,
    over_chunks,
    scan,
    state_dtype,
)


def _empty_state(k: Tensor, v: Tensor) -> Tensor:
    B, _, H, K = k.shape
    return k.new_zeros(B, H, K, v.shape[-1], dtype=state_dtype(k.dtype))


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    chunk: int = 64,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Section 4.2 for any length and any decay; nothing overflows."""
    return over_chunks(_chunks, (q, k, v, log_decay), chunk, state)


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, C: int, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`chunkwise` where C divides T."""
    state = _empty_state(k, v) if state is None else state
    q, k, v, log_decay = (by_chunk(x, C) for x in (q * q.shape[-1] ** -0.5, k, v, log_decay))
    A, from_start, to_end, total = within(q, k, log_decay)
    increments = (to_end.transpose(-1, -2) @ v).to(state.dtype)  # (B, H, N, K, V)
    before, state = scan(increments, state, torch.exp(total).transpose(-1, -2))
    del increments  # as large as the states
    return in_order(A @ v + from_start @ before.to(q.dtype)), state


def within(q: Tensor, k: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What one chunk needs of its decays, c being their inclusive sum: the scores A (..., C, C),
    q e^{c}, k e^{c_C - c} (..., C, K), and c_C (..., 1, K). All inputs are (..., C, K), for any C.
    """
    C = q.shape[-2]
    more = _power_of_two(C) - C
    if not more:
        return _Within.apply(q, k, log_decay)
    padded = (F.pad(x, (0, 0, 0, more)) for x in (q, k, log_decay))  # log_decay 0: nothing decays
    A, from_start, to_end, total = _Within.apply(*padded)
    return A[..., :C, :C], from_start[..., :C, :], to_end[..., :C, :], total


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()


class _Within(torch.autograd.Function):
    """`within` where C is a power of two. It keeps its inputs alone for the backward pass, which
    makes all factors again, and goes through the halves back from the largest to the smallest."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, log_decay: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.save_for_backward(q, k, log_decay)
        A = q.new_zeros(*q.shape[:-1], q.shape[-2])
        A.diagonal(dim1=-2, dim2=-1).copy_((q * k).sum(-1))
        blocks = _Blocks(q, k, log_decay)
        while blocks.m < q.shape[-2]:
            later, earlier = blocks.meeting()
            _below(A, blocks.m).copy_(later.to(q.dtype) @ earlier.to(q.dtype).transpose(-1, -2))
            blocks.join()
        return A, blocks.q.to(q.dtype), blocks.k.to(q.dtype), blocks.total

    @staticmethod
    def backward(
        ctx: Any, grad_A: Tensor, grad_from_start: Tensor, grad_to_end: Tensor, grad_total: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """c_i enters with q_i and leaves with k_i, so that its gradient is q dq - k dk."""
        q, k, log_decay = ctx.saved_tensors
        levels = []
        blocks = _Blocks(q, k, log_decay)
        while blocks.m < q.shape[-2]:
            later, earlier = (x.to(q.dtype, copy=True) for x in blocks.meeting())
            levels.append((blocks.m, later, earlier, *blocks.join()))
        d_total = grad_total + (blocks.k * grad_to_end).sum(-2, keepdim=True)
        dq, dk = (x.to(log_decay.dtype, copy=True) for x in (grad_from_start, grad_to_end))
        for m, later, earlier, before, after in reversed(levels):
            d_later, d_earlier = _halves(dq, m)[1], _halves(dk, m)[0]
            block = _below(grad_A, m).to(q.dtype)
            d_later.mul_(before).add_(block @ earlier)
            d_earlier.mul_(after).add_(block.transpose(-1, -2) @ later)
        dq *= torch.exp(log_decay)
        d_log_decay = (q * dq).addcmul_(k, dk, value=-1).flip(-2).cumsum(-2).flip(-2).add_(d_total)
        diagonal = grad_A.diagonal(dim1=-2, dim2=-1)[..., None]
        dq.addcmul_(diagonal, k)
        dk.addcmul_(diagonal, q)
        return dq.to(q.dtype), dk.to(k.dtype), d_log_decay


class _Blocks:
    """Queries decayed from their block's start, keys decayed to its end, and each block's own log
    decay, for blocks of m rows: at first of one row, in the end of the whole chunk."""

    def __init__(self, q: Tensor, k: Tensor, log_decay: Tensor) -> None:
        self.m = 1
        self.total = log_decay  # (..., C/m, K)
        self.factor = torch.exp(log_decay)
        self.q = q * self.factor  # (..., C, K)
        self.k = k.to(log_decay.dtype, copy=True)

    def meeting(self) -> tuple[Tensor, Tensor]:
        """Views of the queries of each second block and of the keys of the one before it,
        (..., C/2m, m, K) each."""
        return _halves(self.q, self.m)[1], _halves(self.k, self.m)[0]

    def join(self) -> tuple[Tensor, Tensor]:
        """Make blocks of 2m rows. Returns the decays of the earlier and of the later half,
        (..., C/2m, 1, K) each."""
        before, after = _halves(self.factor, 1)
        later, earlier = self.meeting()
        later.mul_(before)
        earlier.mul_(after)
        self.total = self.total.unflatten(-2, (-1, 2)).sum(-2)
        self.factor = torch.exp(self.total)
        self.m *= 2
        return before, after


def _halves(x: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Views of the earlier and the later m rows of every 2m: x (..., C, K) -> (..., C/2m, m, K)
    each."""
    earlier, later = x.unflatten(-2, (-1, 2, m)).unbind(-3)
    return earlier, later


def _below(A: Tensor, m: int) -> Tensor:
    """A view of those blocks of A (..., C, C) where later halves meet earlier ones,
    (..., C/2m, m, m)."""
    blocks = A.unflatten(-2, (-1, 2, m)).unflatten(-1, (-1, 2, m))
    return blocks[..., 1, :, :, 0, :].diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 0, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token by token: the reference the other forms are held against."""
    state = _empty_state(k, v) if state is None else state
    dtype, scale = state.dtype, q.shape[-1] ** -0.5
    out = []
    rows = (x.unbind(1) for x in (q.to(dtype) * scale, k.to(dtype), v.to(dtype), log_decay.exp()))
    for q_t, k_t, v_t, decay in zip(*rows, strict=True):
        state = state * decay[..., None] + k_t[..., :, None] * v_t[..., None, :]
        out.append((q_t[..., None, :] @ state).squeeze(-2))
    return torch.stack(out, 1).to(v.dtype), state


def recurrent_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> Tensor:
    """One token, updating `state` in place.

    q, k, log_decay (B, H, K), v (B, H, V) -> (B, H, V). For inference only: no gradient flows.
    """
    dtype, scale = state.dtype, q.shape[-1] ** -0.5
    state.mul_(log_decay.exp()[..., None])
    state.addcmul_(k.to(dtype)[..., :, None], v.to(dtype)[..., None, :])
    return ((q.to(dtype) * scale)[..., None, :] @ state).squeeze(-2).to(v.dtype)


def fla_chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk: int = 64, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """By flash-linear-attention's Triton kernel, whose chunks are of 64 tokens whatever is asked,
    and whose scale is K^-1/2 by itself."""
    from fla.ops.gla import chunk_gla

    return chunk_gla(q, k, v, g=log_decay, initial_state=state, output_final_state=True)


def fla_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> Tensor:
    """One token by flash-linear-attention's fused recurrent kernel, where the gate is called gk;
    `state` updated in place."""
    from fla.ops.gla import fused_recurrent_gla

    q, k, v, log_decay = (x.unsqueeze(1) for x in (q, k, v, log_decay))  # (B, 1, H, d)
    out, new = fused_recurrent_gla(
        q, k, v, gk=log_decay, initial_state=state, output_final_state=True
    )
    state.copy_(new)
    return out.squeeze(1)


def chunkwise_flops(length: int, chunk: int, K: int, V: int, masked: bool) -> float:
    """Matmul FLOPs of one head's `chunkwise` over `length` tokens.

    Each chunk of c tokens: scores V (2 c^2 V), Q S and K^T V (2 c K V each), and the scores below
    the diagonal, 2 K a pair; `masked` counts the half of scores V that causality throws away, and
    the rows that pad a chunk to a power of two.
    """

    def one(c: int) -> float:
        pairs = c * c if masked else c * (c + 1) / 2
        return score_flops(c, K, masked) + 2 * pairs * V + 4 * c * K * V

    return flops_over_chunks(length, chunk, one)


def score_flops(c: int, K: int, masked: bool) -> float:
    """Matmul FLOPs of the scores A of `within` in a chunk of c tokens."""
    rows = _power_of_two(c) if masked else c
    return rows * (rows - 1.0) * K


def diagonal_flops(length: int, K: int) -> float:
    """FLOPs of the scores' diagonal of one head, which no counter sees: q_i k_i, elementwise, 2 K
    a token."""
    return 2.0 * length * K
