"""The wkv operator of RWKV-4 (arXiv:2305.13048, section 3.1; RWKV-LM, wkv_cuda.cu): an average of
values whose weights decay by channel, the current token's under a bonus of its own.

Shapes: k, v (B, T, d); time_decay, time_first (d,), as parameters: a step decays by e^w with
w = -e^{time_decay}, and u = time_first:

    wkv_t = (sum_{i<t} e^{(t-1-i) w + k_i} v_i + e^{u + k_t} v_t) / (the same without v)

Sums are kept as a, b relative to e^p with p near the largest exponent in them, so that no e^{k}
overflows; p is a reference alone, and no gradient flows through it. All is in fp32 (fp64 for fp64
input), and by element: no form has a matmul. Every form returns the output (B, T, d) in v's dtype
and the state after the last token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from retnet_bench.kernels.chunks import over_chunks, scan, state_dtype

NOTHING = -1e38
"""p of an empty state: as good as -inf, but its difference to itself is 0."""


@dataclass
class WKVState:
    """The weighted sums over all tokens so far, (B, d) each: a e^p and b e^p."""

    a: Tensor
    """Of the values."""
    b: Tensor
    """Of the weights."""
    p: Tensor

    def become(self, new: WKVState) -> None:
        """Take over its sums, in place."""
        self.a.copy_(new.a)
        self.b.copy_(new.b)
        self.p.copy_(new.p)


def empty_state(batch: int, width: int, like: Tensor) -> WKVState:
    """Before the first token, on the device and for the dtype of `like`."""
    zeros = like.new_zeros(batch, width, dtype=state_dtype(like.dtype))
    return WKVState(zeros, zeros.clone(), zeros + NOTHING)


def chunkwise(
    k: Tensor,
    v: Tensor,
    time_decay: Tensor,
    time_first: Tensor,
    chunk: int = 32,
    state: WKVState | None = None,
) -> tuple[Tensor, WKVState]:
    """For any length: all chunks at once row by row, then the state along the chunks."""
    wide = state_dtype(k.dtype)
    state = empty_state(k.shape[0], k.shape[2], k) if state is None else state
    w, u = -torch.exp(time_decay.to(wide)), time_first.to(wide)
    run = partial(_chunks, w=w, u=u)
    out, state = over_chunks(run, (k.to(wide), v.to(wide)), chunk, state)
    return out.to(v.dtype), state


def _chunks(
    k: Tensor, v: Tensor, C: int, state: WKVState, w: Tensor, u: Tensor
) -> tuple[Tensor, WKVState]:
    """`chunkwise` where C divides T. Sums after row i are relative to e^{p_i}."""
    k, v = (x.unflatten(1, (-1, C)) for x in (k, v))  # (B, N, C, d)
    start, p = _references(k.detach(), w.detach(), state.p)
    before = torch.cat([start[:, :, None], p[:, :, :-1]], 2)  # p before each row
    end = p[:, :, -1]

    # Within each chunk, from nothing, (B, N, C, 2, d); then the states before each chunk.
    fresh = torch.exp(k - p)
    added = torch.stack([fresh * v, fresh], -2)
    empty = added.new_zeros(added[:, :, 0].shape)
    within, whole = scan(added, empty, torch.exp(before + w - p)[..., None, :])
    first = torch.stack([state.a, state.b], -2)  # (B, 2, d)
    carried, last = scan(whole, first, torch.exp(start + C * w - end)[..., None, :], dim=1)

    rows = torch.arange(C, device=k.device, dtype=k.dtype)[:, None]
    from_start = torch.exp(start[:, :, None] + rows * w - before)[..., None, :]
    a, b = torch.addcmul(within, carried[:, :, None], from_start).unbind(-2)
    out = _average(a, b, before, k + u, v)  # (B, N, C, d)
    a, b = last.unbind(-2)
    return out.flatten(1, 2), WKVState(a, b, end[:, -1])


def _references(k: Tensor, w: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """The largest exponent in the sums before each chunk (B, N, d), from p (B, d) on, and after
    each row of k (B, N, C, d)."""
    largest = torch.empty_like(k)
    row = k[:, :, 0]
    largest[:, :, 0] = row
    for i, own in enumerate(k.unbind(2)[1:], 1):
        row = torch.maximum(row + w, own)
        largest[:, :, i] = row
    C = k.shape[2]
    start = torch.empty_like(row)
    for n, own in enumerate(row.unbind(1)):
        start[:, n] = p
        p = torch.maximum(p + C * w, own)
    steps = torch.arange(1, C + 1, device=k.device, dtype=k.dtype)[:, None] * w
    return start, torch.maximum(largest, start[:, :, None] + steps)


def _average(a: Tensor, b: Tensor, p: Tensor, bonus: Tensor, v: Tensor) -> Tensor:
    """Of the sums before a token and the token itself, whose weight is e^bonus."""
    most = torch.maximum(p, bonus.detach())
    past, own = torch.exp(p - most), torch.exp(bonus - most)
    return (past * a + own * v) / (past * b + own)


def recurrent(
    k: Tensor,
    v: Tensor,
    time_decay: Tensor,
    time_first: Tensor,
    chunk: int = 0,
    state: WKVState | None = None,
) -> tuple[Tensor, WKVState]:
    """Token by token: the reference the other forms are held against."""
    wide = state_dtype(k.dtype)
    state = empty_state(k.shape[0], k.shape[2], k) if state is None else state
    w, u = -torch.exp(time_decay.to(wide)), time_first.to(wide)
    out = []
    for k_t, v_t in zip(k.to(wide).unbind(1), v.to(wide).unbind(1), strict=True):
        out.append(_average(state.a, state.b, state.p, u + k_t, v_t))
        state = _after(state, k_t, v_t, w)
    return torch.stack(out, 1).to(v.dtype), state


def recurrent_step(
    k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, state: WKVState
) -> Tensor:
    """One token, updating `state` in place. k, v (B, d) -> (B, d). For inference only: no gradient
    flows."""
    wide = state.p.dtype
    w, u, k, own = -torch.exp(time_decay.to(wide)), time_first.to(wide), k.to(wide), v.to(wide)
    out = _average(state.a, state.b, state.p, u + k, own)
    state.become(_after(state, k, own, w))
    return out.to(v.dtype)


def _after(state: WKVState, k: Tensor, v: Tensor, w: Tensor) -> WKVState:
    """The state after one token (B, d)."""
    p = torch.maximum(state.p + w.detach(), k.detach())
    past, own = torch.exp(state.p + w - p), torch.exp(k - p)
    return WKVState(past * state.a + own * v, past * state.b + own, p)


def fla_recurrent(
    k: Tensor,
    v: Tensor,
    time_decay: Tensor,
    time_first: Tensor,
    chunk: int = 0,
    state: WKVState | None = None,
) -> tuple[Tensor, WKVState]:
    """By flash-linear-attention's Triton kernel, one program a channel, token after token. It makes
    -e^{time_decay} itself, and keeps states in k's dtype, so k goes in as fp32."""
    from fla.ops.rwkv4 import fused_recurrent_rwkv4

    state = empty_state(k.shape[0], k.shape[2], k) if state is None else state
    packed = torch.stack([state.a, state.b, state.p], 1)[:, :, None]  # (B, 3, 1, d)
    out, packed = fused_recurrent_rwkv4(
        time_decay.float(), time_first.float(), k.float(), v.float(), packed
    )
    return out.to(v.dtype), WKVState(*packed[:, :, 0].unbind(1))


def fla_step(
    k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, state: WKVState
) -> Tensor:
    """One token by the same; `state` updated in place."""
    out, new = fla_recurrent(k[:, None], v[:, None], time_decay, time_first, state=state)
    state.become(new)
    return out[:, 0]


def chunkwise_flops(length: int, width: int) -> float:
    """FLOPs of `chunkwise`, all by element and so seen by no counter, an exponential or a maximum
    being one: 13 a channel and token for the references and exponents, 5 exponentials, 1 + 4 to
    add to both sums, 4 to carry them, 6 for the average."""
    return 33.0 * length * width


def recurrent_flops(length: int, width: int) -> float:
    """The same of `recurrent` and of a step: 12 for the average, 11 to go on."""
    return 23.0 * length * width
