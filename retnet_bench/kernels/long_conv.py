"""Causal convolution as long as the sequence: Hyena's (arXiv:2302.10866, section 3), and the
Fourier transforms that H3 shares. One answer, three costs.

Shapes: z (B, S, d) the inputs of all tokens so far; filter h (d, L), L >= S, in fp32 (fp64 for fp64
input): y_t = sum over s <= t of h_(t-s) z_s, channel by channel. A term b z_t of its own (Hyena's
bias) is the same as b added to h_0. Forms return the last `rows` of the S rows of output, in z's
dtype: what a prefill after a state wants.

By Fourier transforms of size 2 S: no product of matrices, and so nothing that FlopCounterMode sees
(`fft_flops`). Toeplitz: quadratic in S, the reference. A step is a cached convolution: it reads all
z so far, so its work and its state grow with the position, half as fast as attention's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.kernels.chunks import state_dtype, without_autocast

TILE = 2**17
"""Numbers that a step on CPU multiplies before it sums them: what stays in the processor's cache
(half the time of all at once at 8 sequences, a width of 256 and 2,000 tokens)."""


def fft(z: Tensor, h: Tensor, rows: int | None = None) -> Tensor:
    """By Fourier transforms: S log S."""
    S = z.shape[1]
    u = time_last(z)
    y = convolve(u, h[None])[..., S - (rows or S) :]
    return y.transpose(1, 2).to(z.dtype)


def toeplitz(z: Tensor, h: Tensor, rows: int | None = None) -> Tensor:
    """By a matrix of S x S for each channel, row t of it h_t ... h_0 0 ... 0."""
    S = z.shape[1]
    rows = rows or S
    with without_autocast(z):
        backward = F.pad(h[:, :S].flip(1), (0, S - 1))  # (d, 2 S - 1): h_(S-1) ... h_0 0 ... 0
        matrix = backward.unfold(1, S, 1)[:, :rows].flip(1)  # (d, rows, S)
        y = torch.bmm(matrix, z.permute(2, 1, 0).to(h.dtype))  # (d, rows, B)
    return y.permute(2, 1, 0).to(z.dtype)


def cached_step(z: Tensor, taps: Tensor) -> Tensor:
    """The output (B, d) for the last of the tokens in the cache z (B, d, S): the inner product with
    `taps` (d, S), the filter backward in time (`backward_taps`). For inference.

    On CUDA a batched product; on CPU, where that starts anew for each channel, some channels at a
    time.
    """
    if z.is_cuda:
        return torch.bmm(z.transpose(0, 1), taps[..., None]).squeeze(-1).t()  # (d, B, 1)
    at_once = max(1, TILE // (z.numel() // len(taps)))
    if at_once >= len(taps) or torch.compiler.is_compiling():  # the compiler sums as it multiplies
        return (z * taps).sum(-1)
    tiles = zip(z.split(at_once, 1), taps.split(at_once), strict=True)
    return torch.cat([(of_z * of_taps).sum(-1) for of_z, of_taps in tiles], 1)


def backward_taps(backward: Tensor, slots: int, position: int | Tensor) -> Tensor:
    """The taps (d, slots) for tokens 0 ... slots - 1 at a step to `position`: h_(position - slot),
    and 0 for slots beyond. `backward` (d, L) is the filter h_(L-1) ... h_0.

    An int (`slots` is then position + 1) costs nothing; a tensor keeps the shapes that a captured
    graph needs.
    """
    L = backward.shape[1]
    if isinstance(position, int):
        return backward[:, L - slots :]
    lag = position - torch.arange(slots, device=backward.device)
    taps = backward.index_select(1, (L - 1 - lag).clamp(max=L - 1))
    return taps.masked_fill(lag < 0, 0)


def time_last(x: Tensor) -> Tensor:
    """(B, T, d) to (B, d, T), in fp32 at least: neither Fourier transforms nor complex numbers come
    in less."""
    return x.transpose(1, 2).to(state_dtype(x.dtype)).contiguous()


def convolve(u: Tensor, h: Tensor) -> Tensor:
    """u (..., T) with a filter h (..., L), causal, by transforms of twice the length, so that
    nothing comes round from the end. h has as many dimensions as u, 1 where it is shared."""
    if torch.compiler.is_compiling():
        return causal(spectrum(u) * spectrum(h, u.shape[-1]))
    return _Convolution.apply(u, h)


def spectrum(x: Tensor, length: int | None = None) -> Tensor:
    """Of the first `length` (by default all) numbers of x (..., T): (..., length + 1), complex."""
    length = length or x.shape[-1]
    return torch.fft.rfft(x[..., :length], n=2 * length)


def causal(spectrum: Tensor) -> Tensor:
    """The first half of what has that spectrum: (..., T + 1), complex, to (..., T)."""
    length = spectrum.shape[-1] - 1
    return torch.fft.irfft(spectrum, n=2 * length)[..., :length]


class _Convolution(torch.autograd.Function):
    """`convolve`, whose gradients are convolutions back in time. torch's own gradient of a real
    transform is a complex one of twice the work."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, h: Tensor) -> Tensor:
        of_u, of_h = spectrum(u), spectrum(h, u.shape[-1])
        ctx.save_for_backward(of_u, of_h)
        ctx.taps = h.shape
        return causal(of_u * of_h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        of_u, of_h = ctx.saved_tensors
        *sizes, taps = ctx.taps
        of_grad, to_u, to_h = spectrum(grad), None, None
        if ctx.needs_input_grad[0]:
            to_u = causal(of_grad * of_h.conj())
        if ctx.needs_input_grad[1]:
            product = of_grad * of_u.conj()
            to_h = causal(product.sum_to_size(*sizes, product.shape[-1]))[..., :taps]
            to_h = F.pad(to_h, (0, taps - to_h.shape[-1]))
        return to_u, to_h


def fft_flops(length: int) -> float:
    """FLOPs of `convolve` for one channel, by hand: two real transforms of N = 2 T numbers, 2.5 N
    log2 N each, and T complex products of 6. The filter's own transform is one for the batch and
    left out."""
    size = 2 * length
    return 2 * 2.5 * size * math.log2(size) + 6.0 * length


def toeplitz_flops(length: int, masked: bool) -> float:
    """Matmul FLOPs of `toeplitz` for one channel."""
    return 2.0 * length**2 if masked else length * (length + 1.0)


def cached_step_flops(position: int) -> float:
    """FLOPs of `cached_step` for one channel, by hand: on CPU FlopCounterMode sees none."""
    return 2.0 * (position + 1)
