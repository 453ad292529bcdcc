"""The delta rule without a gate (DeltaNet, arXiv:2406.06484, section 3), with one for each head
(Gated DeltaNet, arXiv:2412.06464, section 3) or for each channel (KDA, arXiv:2510.26692).

Shapes: q, k (B, T, H, K); v (B, T, H, V); beta (B, T, H); log_decay g <= 0, (B, T, H) or
(B, T, H, K) in fp32 or fp64, or None for no gate; state (B, H, K, V) in fp32 (fp64 for fp64 input):

    S <- diag(e^g) S,    u = beta (v - S^T k),    S <- S + k u^T,    o = K^-1/2 S^T q

The scale is on the side of q, so that a state means the same to every kernel. Along k the state is
multiplied by 1 - beta |k|^2, which must lie in [-1, 1] for it to stay bounded: callers give keys of
length 1 and beta in [0, 2]. Every form returns the output (B, T, H, V) and the state after the last
token. States, decays and the inverse below never fall below fp32, nor are they left to autocast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from retnet_bench.kernels import channel_decay
from retnet_bench.kernels.chunks import (
    flops_over_chunks,
    over_chunks,
    state_dtype,
    without_autocast,
)


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    chunk: int = 64,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Linear in T, for any length, by the UT transform (section 3.2 of DeltaNet).

    With c the inclusive sum of g in a chunk and S the state before the chunk, its rows u obey

        (I + L) U = diag(beta) (V - (K * e^c) S),    L_ij = beta_i k_i . (e^(c_i - c_j) k_j), i > j

    so U = U_0 - W S with U_0, W = (I + L)^-1 diag(beta) [V, K * e^c], all chunks at once. The
    inverse is a triangular solve: repeated squaring loses every digit where keys repeat. (Gated
    DeltaNet's section 3.3 prints L without its decays; its step form needs them.)
    """
    if log_decay is not None:
        return over_chunks(_chunks, (q, k, v, beta, log_decay), chunk, state)
    return over_chunks(_ungated_chunks, (q, k, v, beta), chunk, state)


def _ungated_chunks(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, C: int, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _chunks(q, k, v, beta, None, C, state)


def _chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    C: int,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`chunkwise` where C divides T. Below R = N B H rows: N = T/C chunks, then sequences and
    heads."""
    B, _, H, K = q.shape
    state = _empty_state(q, v) if state is None else state
    with without_autocast(q):
        beta = _by_chunk(beta[..., None].to(state.dtype), C)  # (R, C, 1)
        q, k, v = (_by_chunk(x, C) for x in (q * K**-0.5, k, v))  # (R, C, d)
        inside = _inside(q, k, log_decay, state)
        targets, reads = _ut(inside, v, beta)
        U, before, state = _scan(targets, reads, inside.to_end, inside.total, state)
        cross = torch.bmm(inside.queries, before.to(q.dtype))
        out = torch.baddbmm(cross, inside.scores, U)  # (R, C, V)
    return out.unflatten(0, (-1, B, H)).permute(1, 0, 3, 2, 4).flatten(1, 2), state


class _Inside(NamedTuple):
    """What the decays inside chunks come to. Exponents are differences of c that are <= 0."""

    scores: Tensor
    """q_i . (e^(c_i - c_j) k_j) for i >= j, else 0, (R, C, C)."""
    gram: Tensor
    """The same of k_i, in fp32 at least; what is not below the diagonal is never read."""
    queries: Tensor
    """q e^c, (R, C, K)."""
    keys: Tensor
    """k e^c, in fp32 at least."""
    to_end: Tensor
    """k e^(c_C - c)."""
    total: Tensor
    """e^(c_C), (R, 1 or K, 1)."""


def _inside(q: Tensor, k: Tensor, log_decay: Tensor | None, state: Tensor) -> _Inside:
    wide, C = k.to(state.dtype), k.shape[1]
    if log_decay is None:
        scores, total = torch.bmm(q, k.mT).tril(), state.new_ones(len(k), 1, 1)
        return _Inside(scores, torch.bmm(wide, wide.mT), q, wide, k, total)
    if log_decay.dim() == 4:
        g = _by_chunk(log_decay.to(state.dtype), C)
        scores, queries, to_end, total = channel_decay.within(q, k, g)
        gram, keys, *_ = channel_decay.within(wide, wide, g)
        return _Inside(scores, gram, queries, keys, to_end, torch.exp(total).mT)
    c = _by_chunk(log_decay[..., None].to(state.dtype), C).cumsum(1)  # (R, C, 1)
    # 1 above the diagonal, masked below: of -inf exp takes six times as long on CPU.
    D = torch.exp((c - c.mT).tril_())
    from_start, to_end, total = torch.exp(c), torch.exp(c[:, -1:] - c), torch.exp(c[:, -1:])
    return _Inside(
        scores=(torch.bmm(q, k.mT) * D.to(q.dtype)).tril_(),
        gram=torch.bmm(wide, wide.mT) * D,
        queries=q * from_start.to(q.dtype),
        keys=wide * from_start,
        to_end=k * to_end.to(k.dtype),
        total=total,
    )


def _ut(inside: _Inside, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """U_0 (R, C, V) and W (R, C, K), in the dtype of v."""
    L = inside.gram * beta
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device).expand_as(L)
    inverse = torch.linalg.solve_triangular(L, eye, upper=False, unitriangular=True) * beta.mT
    products = torch.bmm(inverse, v.to(L.dtype)), torch.bmm(inverse, inside.keys)
    return products[0].to(v.dtype), products[1].to(v.dtype)


def _scan(
    targets: Tensor, reads: Tensor, writes: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Along the chunks U = targets - reads S, then S <- decay S + writes^T U.

    All but the state by chunk, (R, ...). Returns U (R, C, V), the states before each chunk
    (R, K, V), and the one after the last (B, H, K, V).
    """
    heads = state.shape[0] * state.shape[1]
    rows = (x.unflatten(0, (-1, heads)) for x in (targets, reads, writes, decay))
    U, before, last = _Scan.apply(*rows, state.flatten(0, 1))
    return U.flatten(0, 1), before.flatten(0, 1), last.view_as(state)


class _Scan(torch.autograd.Function):
    """`_scan` with its gradient by hand: the loop back has two products a chunk, too, and every
    state is written where it stays."""

    @staticmethod
    def forward(
        ctx: Any, targets: Tensor, reads: Tensor, writes: Tensor, decay: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        N, dtype = len(targets), targets.dtype
        U, states = torch.empty_like(targets), state.new_empty(N + 1, *state.shape)
        states[0] = state
        for n in range(N):
            torch.baddbmm(targets[n], reads[n], states[n].to(dtype), alpha=-1, out=U[n])
            added = torch.bmm(writes[n].mT, U[n]).to(state.dtype)
            torch.addcmul(added, states[n], decay[n], out=states[n + 1])
        before = states[:N]
        ctx.save_for_backward(reads, writes, decay, U, before)
        return U, before, states[N].clone()

    @staticmethod
    def backward(ctx: Any, dU: Tensor, dbefore: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        reads, writes, decay, U, before = ctx.saved_tensors
        N, dtype = len(U), U.dtype
        targets, states = torch.empty_like(U), dlast.new_empty(N + 1, *dlast.shape)
        states[N] = dlast
        for n in reversed(range(N)):
            torch.baddbmm(dU[n], writes[n], states[n + 1].to(dtype), out=targets[n])
            torch.addcmul(dbefore[n], states[n + 1], decay[n], out=states[n])
            states[n] -= torch.bmm(reads[n].mT, targets[n])
        after = states[1:]
        return (
            targets,
            _product(targets, before.mT.to(dtype)).neg_(),
            _product(U, after.mT.to(dtype)),
            (before * after).sum_to_size(decay.shape) if ctx.needs_input_grad[3] else None,
            states[0],
        )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b of (N, M, ., .): bmm, as all products here, because autocast is off."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    chunk: int = 0,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Token by token: the reference the other forms are held against."""
    S = _empty_state(q, v) if state is None else state
    dtype, out = v.dtype, []
    q, k, v, beta = (x.to(S.dtype) for x in (q * q.shape[-1] ** -0.5, k, v, beta))
    with without_autocast(q):
        for t in range(q.shape[1]):
            if log_decay is not None:
                S = S * _decay(log_decay[:, t], S)
            u = beta[:, t, :, None] * (v[:, t] - _read(k[:, t], S))
            S = S + k[:, t, :, :, None] * u[:, :, None]
            out.append(_read(q[:, t], S))
    return torch.stack(out, 1).to(dtype), S


def recurrent_step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, state: Tensor
) -> Tensor:
    """One token, updating `state` in place.

    q, k (B, H, K), v (B, H, V), beta (B, H), log_decay (B, H) or (B, H, K) -> (B, H, V). For
    inference only: no gradient flows.
    """
    dtype = v.dtype
    q, k, v, beta = (x.to(state.dtype) for x in (q * q.shape[-1] ** -0.5, k, v, beta))
    if log_decay is not None:
        state.mul_(_decay(log_decay, state))
    # Both are read from the state before the update, in one pass over it: S'^T q = S^T q + q.k u.
    told, said = (torch.stack([k, q], -2) @ state).unbind(-2)  # (B, H, V) each
    u = beta[..., None] * (v - told)
    state.addcmul_(k[..., None], u[..., None, :])
    return torch.addcmul(said, (q * k).sum(-1, keepdim=True), u).to(dtype)


def _read(q: Tensor, state: Tensor) -> Tensor:
    """S^T q: (B, H, K), (B, H, K, V) -> (B, H, V)."""
    return (q[..., None, :] @ state).squeeze(-2)


def _decay(log_decay: Tensor, state: Tensor) -> Tensor:
    """e^g of one token, as it multiplies a state (B, H, K, V)."""
    factor = torch.exp(log_decay.to(state.dtype))
    return factor[..., None] if log_decay.dim() == 3 else factor[..., None, None]


def _empty_state(q: Tensor, v: Tensor) -> Tensor:
    B, _, H, K = q.shape
    return q.new_zeros(B, H, K, v.shape[-1], dtype=state_dtype(q.dtype))


def _by_chunk(x: Tensor, C: int) -> Tensor:
    """(B, T, H, d) -> (T/C B H, C, d): chunks first, so that each step of the scan reads one
    block of memory."""
    return x.unflatten(1, (-1, C)).permute(1, 0, 3, 2, 4).flatten(0, 2).contiguous()


def fla_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    chunk: int = 64,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """By flash-linear-attention's Triton kernels: chunks of 16 (not with a gate by channel), 32 or
    64."""
    from fla.ops.delta_rule import chunk_delta_rule
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    from fla.ops.kda import chunk_kda

    common: dict[str, Any] = {
        "scale": q.shape[-1] ** -0.5,
        "initial_state": state,
        "output_final_state": True,
        "chunk_size": chunk,
    }
    if log_decay is None:
        return chunk_delta_rule(q, k, v, beta, **common)
    gated = chunk_kda if log_decay.dim() == 4 else chunk_gated_delta_rule
    return gated(q, k, v, g=log_decay, beta=beta, state_v_first=False, **common)


def fla_step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, state: Tensor
) -> Tensor:
    """One token by flash-linear-attention's fused recurrent kernels; `state` updated in place."""
    from fla.ops.delta_rule import fused_recurrent_delta_rule
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule
    from fla.ops.kda import fused_recurrent_kda

    common: dict[str, Any] = {
        "beta": beta.unsqueeze(1),
        "scale": q.shape[-1] ** -0.5,
        "initial_state": state,
        "output_final_state": True,
    }
    q, k, v = (x.unsqueeze(1) for x in (q, k, v))  # (B, H, d) -> (B, 1, H, d)
    if log_decay is None:
        out, new = fused_recurrent_delta_rule(q, k, v, **common)
    else:
        gated = fused_recurrent_kda if log_decay.dim() == 3 else fused_recurrent_gated_delta_rule
        out, new = gated(q, k, v, g=log_decay.unsqueeze(1), state_v_first=False, **common)
    state.copy_(new)
    return out.squeeze(1)


def chunkwise_flops(
    length: int, chunk: int, d_k: int, d_v: int, masked: bool, by_channel: bool = False
) -> float:
    """Matmul FLOPs of one head's `chunkwise` over `length` tokens, but for `inverse_flops`.

    A chunk of c tokens: K K^T, Q K^T and the inverse by K (2 c^2 d_k each), the inverse by V and
    the scores by U (2 c^2 d_v each); W S, Q S and K^T U (2 c d_k d_v each). Counted with
    `masked=False`, the half of each c x c matrix that is zero is left out. `by_channel`: K K^T and
    Q K^T are those of `channel_decay`, made of halves without the diagonal.
    """

    def one(c: int) -> float:
        pairs = c * c if masked else c * (c + 1) / 2
        scores = channel_decay.score_flops(c, d_k, masked) if by_channel else 2 * pairs * d_k
        return 2 * scores + 2 * pairs * (d_k + 2 * d_v) + 6 * c * d_k * d_v

    return flops_over_chunks(length, chunk, one)


def chunkwise_backward_flops(
    length: int, chunk: int, d_k: int, d_v: int, by_channel: bool = False
) -> float:
    """Matmul FLOPs of the backward pass that FlopCounterMode sees: two products for each of the
    forward's, and one for the inverse, beside a triangular solve."""
    inverse = flops_over_chunks(length, chunk, lambda c: 2.0 * c**3)
    return 2 * chunkwise_flops(length, chunk, d_k, d_v, True, by_channel) + inverse


def inverse_flops(length: int, chunk: int) -> float:
    """FLOPs of one head's triangular inverses, which FlopCounterMode does not see: 2 for each
    multiply-add of forward substitution, c (c - 1) (c - 2) / 6 of them in a chunk of c tokens."""
    return flops_over_chunks(length, chunk, lambda c: c * (c - 1) * (c - 2) / 3)


def recurrent_flops(length: int, d_k: int, d_v: int) -> float:
    """Matmul FLOPs of one head's `recurrent`: S^T k and S^T q, 2 d_k d_v each a token (the update
    is elementwise)."""
    return 4.0 * length * d_k * d_v


def recurrent_backward_flops(length: int, d_k: int, d_v: int, gated: bool) -> float:
    """Two products for each of the forward's; without a gate the empty state that the first token
    reads needs no gradient."""
    return 2 * recurrent_flops(length, d_k, d_v) - (0.0 if gated else 2.0 * d_k * d_v)
