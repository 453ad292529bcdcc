"""H3's two state-space models in a row (arXiv:2212.14052, section 3; the diagonal one is S4D,
arXiv:2206.11893).

With k' = shift(k), o_j = sum over i of q_i diag(k'_i v_j): each pair (i, j) of a head's channels is
a channel of the second model. Shapes: q, k, v (B, T, d), the d channels H heads of p; N numbers of
state a channel.

shift, for each of d channels: s <- (b_0 u, s_0 + b_1 u, s_1 + b_2 u, ...), y = c s + D u. As a
filter: h_l = sum over j of b_j c_(j+l), l < N.
diag, for each pair: N/2 complex modes x <- A x + u, y = Re(w x) + D u with w = 2 C B. As a filter:
h_l = Re(sum of w A^l). (The official code has B in the state; in w it leaves the state's update one
product and a real sum.)

All in fp32 at least (fp64 for fp64 input), outside autocast. Every form returns the output
(B, T, d) and, if it was given a state, the one after the last token. Two deviations from the
official code (HazyResearch/safari): the output's channels come in the order of the inputs, head by
head, not transposed; and heads of more than one channel can be decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.kernels.chunks import state_dtype, without_autocast
from retnet_bench.kernels.long_conv import causal, convolve, fft_flops, spectrum, time_last

BLOCK = 64
"""Tokens for which powers of the modes are made at once: all others are these by a block's own."""


class Filters(NamedTuple):
    """Both models of a layer, in fp32 or fp64; H heads, d channels, N numbers of state."""

    shift_in: Tensor
    """b (d, N)."""
    shift_out: Tensor
    """c (d, N)."""
    shift_skip: Tensor
    """D (d,)."""
    pole: Tensor
    """A (H, N/2), complex, inside the unit circle."""
    weight: Tensor
    """w (H, N/2), complex."""
    skip: Tensor
    """D (H,)."""


@dataclass
class State:
    """After some tokens, in fp32 (fp64 for fp64 input)."""

    shift: Tensor
    """s (B, d, N)."""
    modes: Tensor
    """x (B, H, p, p, N/2, 2): real and imaginary parts."""


def discretised(
    log_step: Tensor, log_rate: Tensor, frequency: Tensor, b: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """`pole` and `weight` of the diagonal model by the bilinear rule: from ln(dt) (H,), ln(-Re A)
    and Im A (H, N/2) of the continuous one, and its B, C (H, N/2, 2) as real and imaginary parts.
    A = (1 + dt A / 2) / (1 - dt A / 2), B = dt B / (1 - dt A / 2)."""
    step = log_step.exp()[:, None]
    half = torch.complex(-log_rate.exp(), frequency) * (step / 2)
    b, c = (torch.view_as_complex(x) for x in (b, c))
    return (1 + half) / (1 - half), 2 * step * b * c / (1 - half)


def fft(
    q: Tensor, k: Tensor, v: Tensor, f: Filters, state: State | None = None, empty: bool = False
) -> tuple[Tensor, State | None]:
    """By Fourier transforms of size 2 T of every pair of channels: p times the memory of the input,
    several times over. What a state adds (unless it is known to be `empty`) and the state after are
    products of matrices, block by block."""
    T, dtype = q.shape[1], q.dtype
    with without_autocast(q):
        q, k, v = (time_last(x) for x in (q, k, v))  # (B, d, T)
        h = _with_skip(_correlation(f.shift_out, f.shift_in), f.shift_skip)
        shifted = convolve(k, h[None])
        if state is not None and not empty:
            rest = _correlation(f.shift_out, state.shift)[..., 1:]
            shifted = shifted + F.pad(rest, (0, T - rest.shape[-1]))  # or cut
        q, shifted, v = (x.unflatten(1, (len(f.skip), -1)) for x in (q, shifted, v))
        h = _with_skip(_diagonal_filter(f, T), f.skip)  # (H, T)
        out = _convolved_pairs(q, shifted, v, h)
        if state is not None:
            if not empty:
                out = out + _of_old_modes(q, f, state.modes)
            state = State(_next_shift(k, f, state.shift), _next_modes(shifted, v, f, state.modes))
    return out.flatten(1, 2).transpose(1, 2).to(dtype), state


def _convolved_pairs(q: Tensor, k: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """sum over i of q_i (h * (k_i v_j)): q, k, v (B, H, p, T), h (H, T) -> (B, H, p, T)."""
    if not torch.compiler.is_compiling():
        return _Pairs.apply(q, k, v, h)
    out = torch.zeros_like(v)
    for q_i, k_i in zip(_channels(q), _channels(k), strict=True):
        out = torch.addcmul(out, q_i, convolve(k_i * v, h[:, None]))
    return out


def _channels(x: Tensor) -> list[Tensor]:
    """(B, H, p, T) as p of (B, H, 1, T)."""
    return [channel.unsqueeze(2) for channel in x.unbind(2)]


class _Pairs(torch.autograd.Function):
    """`_convolved_pairs`, which keeps no pairs for the backward pass but computes them again: they
    are p times the input, and their spectra as much again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, h)
        out, of_h = torch.zeros_like(v), spectrum(h[:, None], v.shape[-1])
        for q_i, k_i in zip(_channels(q), _channels(k), strict=True):
            out.addcmul_(q_i, causal(spectrum(k_i * v) * of_h))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, h = ctx.saved_tensors
        T = v.shape[-1]
        of_h = spectrum(h[:, None], T)
        to_q, to_k, to_v, to_h = [], [], torch.zeros_like(v), torch.zeros_like(of_h)
        for q_i, k_i in zip(_channels(q), _channels(k), strict=True):
            of_pairs = spectrum(k_i * v)
            to_q.append((grad * causal(of_pairs * of_h)).sum(2))
            of_grad = spectrum(grad * q_i)
            to_h += (of_grad * of_pairs.conj()).sum((0, 2))[:, None]
            to_pairs = causal(of_grad * of_h.conj())
            to_k.append((to_pairs * v).sum(2))
            to_v.addcmul_(to_pairs, k_i)
        return torch.stack(to_q, 2), torch.stack(to_k, 2), to_v, causal(to_h).squeeze(1)


def _correlation(c: Tensor, x: Tensor) -> Tensor:
    """sum over j of c_(j+l) x_j for l < N, of c (d, N) and x (..., d, N)."""
    N = c.shape[-1]
    product = torch.fft.rfft(c, n=2 * N) * torch.fft.rfft(x, n=2 * N).conj()
    return torch.fft.irfft(product, n=2 * N)[..., :N]


def _with_skip(h: Tensor, skip: Tensor) -> Tensor:
    """The filter h (n, L) whose output has skip (n,) times the input added."""
    return h + F.pad(skip[:, None], (0, h.shape[1] - 1))


def _powers(pole: Tensor, exponents: Tensor) -> Tensor:
    """(H, N/2) to the power of integers (n,): (H, N/2, n)."""
    return torch.exp(pole.log()[..., None] * exponents)


def _real(x: Tensor) -> Tensor:
    """Complex (H, N/2, n) as real (H, N, n): each real part followed by its imaginary part."""
    return torch.view_as_real(x.resolve_conj()).movedim(-1, 2).flatten(1, 2)


def _count(f: Filters, stop: int, step: int = 1) -> Tensor:
    return torch.arange(0, stop, step, device=f.skip.device, dtype=f.skip.dtype)


def _diagonal_filter(f: Filters, length: int) -> Tensor:
    """Re(sum of w A^l) for l < length, (H, length): powers of block starts by powers in a block."""
    block = min(BLOCK, length)
    starts = f.weight[..., None] * _powers(f.pole, _count(f, length, block))
    inside = _real(_powers(f.pole, _count(f, block)))  # (H, N, block)
    # Re(a b) = Re a Re b - Im a Im b
    return torch.bmm(_real(starts.conj()).mT, inside).flatten(1)[:, :length]


def _blocks(f: Filters, length: int) -> Iterator[tuple[slice, Tensor]]:
    """Each block's tokens, and A^0 ... A^n for its n tokens (H, N/2, n + 1)."""
    powers = _powers(f.pole, _count(f, 1 + min(BLOCK, length)))
    for at in range(0, length, BLOCK):
        n = min(BLOCK, length - at)
        yield slice(at, at + n), powers[..., : n + 1]


def _of_old_modes(q: Tensor, f: Filters, modes: Tensor) -> Tensor:
    """What modes that only decay add to the outputs, (B, H, p, T); q (B, H, p, T)."""
    p, out = q.shape[2], []
    x = torch.view_as_complex(modes).flatten(2, 3)  # (B, H, p p, N/2)
    for tokens, powers in _blocks(f, q.shape[3]):
        reads = _real((f.weight[..., None] * powers[..., 1:]).conj())  # (H, N, n)
        y = torch.view_as_real(x).flatten(3) @ reads  # (B, H, p p, n)
        out.append((q[:, :, :, None, tokens] * y.unflatten(2, (p, p))).sum(2))
        x = x * powers[:, None, :, -1]
    return torch.cat(out, -1)


def _next_modes(shifted: Tensor, v: Tensor, f: Filters, modes: Tensor) -> Tensor:
    """The modes after k' and v (B, H, p, T): the sum over t of A^(T-1-t) k'_t v_t, and what is left
    of the old ones."""
    x = torch.view_as_complex(modes).flatten(2, 3)  # (B, H, p p, N/2)
    for tokens, powers in _blocks(f, v.shape[3]):
        to_end = _real(powers[..., :-1].flip(-1)).mT  # (H, n, N)
        pairs = (shifted[:, :, :, None, tokens] * v[:, :, None, :, tokens]).flatten(2, 3)
        more = (pairs @ to_end).unflatten(3, (-1, 2))  # (B, H, p p, N/2, 2)
        x = x * powers[:, None, :, -1] + torch.view_as_complex(more)
    return torch.view_as_real(x).view(modes.shape)


def _next_shift(k: Tensor, f: Filters, shift: Tensor) -> Tensor:
    """s after the keys k (B, d, T): b folded with the last N of them, and the old s moved on."""
    T, N = k.shape[-1], shift.shape[-1]
    last = F.pad(k, (N, 0))[..., -N:].flip(-1)  # the newest first
    return convolve(last, f.shift_in[None]) + F.pad(shift, (T, 0))[..., :N]


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, f: Filters, state: State | None = None, empty: bool = False
) -> tuple[Tensor, State]:
    """Token by token: the reference the other forms are held against."""
    state = new_state(q, f) if state is None else state
    out = []
    with without_autocast(q):
        for token in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True):
            y, state = _step(*token, f, state)
            out.append(y)
    return torch.stack(out, 1).to(q.dtype), state


def recurrent_step(q: Tensor, k: Tensor, v: Tensor, f: Filters, state: State) -> Tensor:
    """One token (B, d) -> (B, d), updating `state` in place. For inference: no gradient flows."""
    with without_autocast(q):
        return _step(q, k, v, f, state, into=state)[0].to(q.dtype)


def _step(
    q: Tensor, k: Tensor, v: Tensor, f: Filters, state: State, into: State | None = None
) -> tuple[Tensor, State]:
    """One token; the new state is written into `into`, if given."""
    q, k, v = (x.to(state.shift.dtype) for x in (q, k, v))
    moved = F.pad(state.shift[..., :-1], (1, 0))
    kept = (None, None) if into is None else (into.shift, torch.view_as_complex(into.modes))
    shift = torch.addcmul(moved, f.shift_in, k[..., None], out=kept[0])
    shifted = (shift * f.shift_out).sum(-1) + f.shift_skip * k
    q, shifted, v = (x.unflatten(1, (len(f.skip), -1)) for x in (q, shifted, v))  # (B, H, p)
    pairs = shifted[..., None] * v[..., None, :]  # (B, H, p, p)
    old = torch.view_as_complex(state.modes)
    x = torch.addcmul(pairs[..., None].to(old.dtype), old, f.pole[:, None, None], out=kept[1])
    reads = torch.view_as_real(f.weight.conj().resolve_conj()).flatten(1)[..., None]  # (H, N, 1)
    y = torch.view_as_real(x).flatten(4).flatten(2, 3) @ reads  # (B, H, p p, 1)
    y = y.view(pairs.shape) + f.skip[:, None, None] * pairs
    out = (q[..., None] * y).sum(-2)
    return out.flatten(1), State(shift, torch.view_as_real(x))


def new_state(q: Tensor, f: Filters) -> State:
    """Nothing so far, for inputs (B, ..., d) like q."""
    (d, N), H = f.shift_in.shape, len(f.skip)
    like = q.new_zeros(0, dtype=state_dtype(q.dtype))
    pairs = (d // H, d // H)
    return State(like.new_zeros(len(q), d, N), like.new_zeros(len(q), H, *pairs, N // 2, 2))


def counted_flops(length: int, heads: int, states: int) -> float:
    """What FlopCounterMode sees of one layer's `fft`: the product that makes the diagonal model's
    filter, once for the batch."""
    block = min(BLOCK, length)
    return 2.0 * heads * states * block * -(-length // block)


def uncounted_flops(length: int, heads: int, width: int) -> float:
    """What it does not: the transforms, by hand (`long_conv.fft_flops`), of d channels and of d p
    pairs."""
    return width * (1 + width // heads) * fft_flops(length)


def step_flops(heads: int, width: int, states: int) -> float:
    """What FlopCounterMode sees of a step: the modes' product with w."""
    return 2.0 * states * width * (width // heads)


def uncounted_step_flops(heads: int, width: int, states: int) -> float:
    """What it does not: shift's update and output, 2 each for a number of its state, and the modes'
    update, a complex product and sum of 8 each."""
    return 4.0 * states * width + 4.0 * states * width * (width // heads)
