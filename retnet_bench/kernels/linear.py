"""Linear attention with a denominator (Linear Transformer, arXiv:2006.16236, section 3).

Shapes: q, k (B, T, H, K), positive, as `feature` makes them; v (B, T, H, V); a state of two sums,
S (B, H, K, V) and z (B, H, K), in fp32 (fp64 for fp64 input):

    S_t = S_{t-1} + k_t v_t^T,    z_t = z_{t-1} + k_t,    o_t = S_t^T q_t / (z_t . q_t + eps)

There is no scale: it would cancel. Every form takes `turned`, a rotated (q, k), or None: positions
turn the numerator alone, because a rotated denominator may reach 0. S is then a sum of rotated
keys. Every form returns the output (B, T, H, V) and the state after the last token.

Numerators and denominators grow with the length, beyond fp16's range after some hundred tokens;
so both are taken times 1/K before they are rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.kernels import retention
from retnet_bench.kernels.chunks import (
    by_chunk,
    flops_over_chunks,
    in_order,
    over_chunks,
    scan,
    state_dtype,
)

EPS = 1e-6
"""Of the denominator, as in idiap's fast-transformers. It belongs to the function: every form adds
the same."""
Turned = tuple[Tensor, Tensor]


@dataclass
class LinearState:
    """What a sequence leaves behind."""

    sums: Tensor
    """S (B, H, K, V)."""
    keys: Tensor
    """z (B, H, K)."""


def feature(x: Tensor) -> Tensor:
    """elu(x) + 1 (Eq. 7), as relu(x) + e^min(x, 0): the same function without the difference that
    loses every digit of e^x below the dtype's eps."""
    return _Feature.apply(x)


class _Feature(torch.autograd.Function):
    """`feature` with fewer passes over memory: its slope is 1 or e^x, and so min(feature, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clamp(max=0).exp_().add_(F.relu(x))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return out.clamp(max=1).mul_(grad)


def empty_state(k: Tensor, v: Tensor) -> LinearState:
    """Before the first of tokens with keys k and values v."""
    B, _, H, K = k.shape
    dtype = state_dtype(k.dtype)
    return LinearState(
        k.new_zeros(B, H, K, v.shape[-1], dtype=dtype), k.new_zeros(B, H, K, dtype=dtype)
    )


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk: int = 64,
    state: LinearState | None = None,
    eps: float = EPS,
    turned: Turned | None = None,
) -> tuple[Tensor, LinearState]:
    """Linear in T, for any length. Numerator and denominator each have a part within the chunk and
    one from the state before it; they are divided once, in the end."""
    return over_chunks(partial(_chunks, eps=eps), (q, k, v, *(turned or ())), chunk, state)


def parallel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk: int = 0,
    state: LinearState | None = None,
    eps: float = EPS,
    turned: Turned | None = None,
) -> tuple[Tensor, LinearState]:
    """tril(Q K^T) V over its row sums, quadratic in T: the whole sequence is one chunk."""
    return _chunks(q, k, v, *(turned or ()), q.shape[1], state, eps=eps)


def _chunks(q: Tensor, k: Tensor, v: Tensor, *rest: Any, eps: float) -> tuple[Tensor, LinearState]:
    """`chunkwise` where C divides T; `rest` is the turned q and k, if any, then C and the state."""
    *turned, C, state = rest
    state = empty_state(k, v) if state is None else state
    q, k, v, *turned = (by_chunk(x, C) for x in (q, k, v, *turned))
    scores = (q @ k.transpose(-1, -2)).tril()
    q_num, k_num = turned or (q, k)
    weights = (q_num @ k_num.transpose(-1, -2)).tril() if turned else scores

    wide = state.sums.dtype
    added = (k_num.transpose(-1, -2) @ v).to(wide)  # (B, H, N, K, V)
    undecayed = added.new_ones(1, 1, added.shape[2], 1, 1)
    before, sums = scan(added, state.sums, undecayed)
    del added  # as large as the states
    keys_before, keys = scan(k.sum(-2, dtype=wide), state.keys, undecayed[..., 0])  # (B, H, N, K)

    K = q.shape[-1]
    past = _share(q, keys_before.to(q.dtype)[..., None], K)  # (B, H, N, C, 1)
    denominator = past + (scores.sum(-1, keepdim=True, dtype=wide) + eps) / K
    out = _share(weights, v, K, _share(q_num, before.to(q.dtype), K)) / denominator.to(v.dtype)
    return in_order(out), LinearState(sums, keys)


def _share(a: Tensor, b: Tensor, K: int, more: Tensor | None = None) -> Tensor:
    """a @ b / K, and more, over the same leading three dimensions; scaled before it is rounded."""
    rows = a.new_zeros(1, 1, 1) if more is None else more.flatten(0, 2)
    found = torch.baddbmm(
        rows, a.flatten(0, 2), b.flatten(0, 2), beta=int(more is not None), alpha=1 / K
    )
    return found.view(*a.shape[:-1], b.shape[-1])


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk: int = 0,
    state: LinearState | None = None,
    eps: float = EPS,
    turned: Turned | None = None,
) -> tuple[Tensor, LinearState]:
    """Token by token: the reference the other forms are held against."""
    state = empty_state(k, v) if state is None else state
    sums, keys = state.sums, state.keys
    rows = (x.to(sums.dtype).unbind(1) for x in (q, k, v, *(turned or (q, k))))
    out = []
    for q_t, k_t, v_t, q_num, k_num in zip(*rows, strict=True):
        sums = sums + k_num[..., :, None] * v_t[..., None, :]
        keys = keys + k_t
        out.append(_read(q_t, q_num, sums, keys, eps))
    return torch.stack(out, 1).to(v.dtype), LinearState(sums, keys)


def recurrent_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: LinearState,
    eps: float = EPS,
    turned: Turned | None = None,
) -> Tensor:
    """One token, updating `state` in place.

    q, k (B, H, K), v (B, H, V) -> (B, H, V). For inference only: no gradient flows.
    """
    q_num, k_num = turned or (q, k)
    dtype = state.sums.dtype
    state.sums.addcmul_(k_num.to(dtype)[..., :, None], v.to(dtype)[..., None, :])
    state.keys.add_(k)
    return _read(q.to(dtype), q_num.to(dtype), state.sums, state.keys, eps).to(v.dtype)


def _read(q: Tensor, q_num: Tensor, sums: Tensor, keys: Tensor, eps: float) -> Tensor:
    """One token's output (B, H, V) from the state after it."""
    numerator = (q_num[..., None, :] @ sums).squeeze(-2)
    return numerator / ((q * keys).sum(-1, keepdim=True) + eps)


def fla_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk: int = 64,
    state: LinearState | None = None,
    eps: float = EPS,
    turned: Turned | None = None,
) -> tuple[Tensor, LinearState]:
    """The numerator by flash-linear-attention's Triton kernel. `chunk_linear_attn` calls the same
    one, but refuses sequences shorter than the heads are many, and its denominator has an eps of
    its own."""
    from fla.ops.simple_gla import chunk_simple_gla

    state = empty_state(k, v) if state is None else state
    (q_num, k_num), K = turned or (q, k), q.shape[-1]
    numerator, sums = chunk_simple_gla(
        q_num,
        k_num,
        v,
        scale=1 / K,
        initial_state=state.sums,
        output_final_state=True,
        chunk_size=chunk,
    )
    keys = state.keys[:, None] + k.cumsum(1, dtype=state.keys.dtype)  # (B, T, H, K)
    denominator = ((q * keys).sum(-1, keepdim=True) + eps) / K
    return (numerator / denominator).to(v.dtype), LinearState(sums, keys[:, -1])


def fla_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: LinearState,
    eps: float = EPS,
    turned: Turned | None = None,
) -> Tensor:
    """One token, its numerator by flash-linear-attention's fused recurrent kernel; `state` updated
    in place."""
    from fla.ops.simple_gla import fused_recurrent_simple_gla

    K = q.shape[-1]
    q_num, k_num, values = (x.unsqueeze(1) for x in (*(turned or (q, k)), v))  # (B, 1, H, d)
    numerator, sums = fused_recurrent_simple_gla(
        q_num, k_num, values, scale=1 / K, initial_state=state.sums, output_final_state=True
    )
    state.sums.copy_(sums)
    state.keys.add_(k)
    denominator = ((q * state.keys).sum(-1, keepdim=True) + eps) / K
    return (numerator.squeeze(1) / denominator).to(v.dtype)


def flops(form: str, length: int, chunk: int, K: int, V: int, turned: bool, masked: bool) -> float:
    """Matmul FLOPs of one head over `length` tokens, by the kernel's form; in `parallel` the whole
    sequence is a chunk.

    Each chunk of c tokens: Q K^T (2 c^2 K; twice where the numerator is turned), scores V
    (2 c^2 V), Q S, K^T V (2 c K V each) and Q z (2 c K). Counted with `masked=False`, the half of
    the scores that causality throws away is left out.
    """
    if form == "recurrent":
        return recurrent_flops(length, K, V)

    def one(c: int) -> float:
        pairs = c * c if masked else c * (c + 1) / 2
        return 2 * pairs * ((2 if turned else 1) * K + V) + 4 * c * K * V + 2 * c * K

    return flops_over_chunks(length, length if form == "parallel" else chunk, one)


def backward_flops(form: str, length: int, chunk: int, K: int, V: int, turned: bool) -> float:
    """Matmul FLOPs of one head's backward pass: two products for each of the forward's, but for
    those of states that no loss depends on (`retention.unused_backward_flops`)."""
    twice = 2 * flops(form, length, chunk, K, V, turned, masked=True)
    if form == "recurrent":
        return twice
    whole = length if form == "parallel" else min(chunk, length)
    unread_keys = 2.0 * whole * K if length < 2 * whole else 0.0  # of Q z, for an empty z
    return twice - unread_keys - retention.unused_backward_flops(length, whole, K, V)


def recurrent_flops(length: int, K: int, V: int) -> float:
    """Matmul FLOPs of one head's `recurrent`: q S, 2 K V a token (update and denominator are
    elementwise)."""
    return 2.0 * length * K * V
