"""Depthwise causal convolution of a few taps, with the inputs before it carried along.

Of Mamba-2, DeltaNet and many others: out_t = sum over s < k of w[:, k-1-s] x_(t-s) + b, channel by
channel, then SiLU where it is asked for. Shapes: x (B, T, C), weight (C, k) with the tap of the
token itself last (as nn.Conv1d and causal-conv1d have it), bias (C,), state (B, k-1, C): the last
k-1 inputs, oldest first, zeros before the first token.

It is memory-bound: 2 k FLOPs for each number it reads. FlopCounterMode sees none of them, in none
of the ways it is computed here, so that models count the same on every device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Whole sequence in plain torch: out (B, T, C) in x's dtype, and the new state, which may be a
    view of x."""
    before = weight.shape[1] - 1
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if state is None:
        out, seen = _convolve(x, weight, bias), x
    else:
        seen = torch.cat([state.to(x.dtype), x], 1)
        out = _convolve(seen, weight, bias)[:, before:]
    missing = before - seen.shape[1]
    if missing > 0:
        seen = F.pad(seen, (0, 0, missing, 0))
    return F.silu(out) if silu else out, seen[:, seen.shape[1] - before :]


def step(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, silu: bool = False
) -> Tensor:
    """One token (B, C) -> (B, C), updating `state` in place. For inference: no gradient flows."""
    window = torch.cat([state, x[:, None].to(state.dtype)], 1)  # (B, k, C)
    state.copy_(window[:, 1:])
    out = (window.to(x.dtype) * weight.t().to(x.dtype)).sum(1)
    if bias is not None:
        out = out + bias.to(x.dtype)
    return F.silu(out) if silu else out


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """From zeros before the first token."""
    if not torch.compiler.is_compiling():
        return _Convolution.apply(x, weight, bias)
    k, T = weight.shape[1], x.shape[1]  # written out: the compiler makes one pass of it
    seen = F.pad(x, (0, 0, k - 1, 0))
    out = torch.stack([seen[:, i : i + T] * weight[:, i] for i in range(k)]).sum(0)
    return out if bias is None else out + bias


class _Convolution(torch.autograd.Function):
    """Both directions without padded copies; conv1d's own gradient of depthwise weights takes most
    of its time on CPU, so the weights' gradient is k products and sums here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _correlate(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        T, lags = grad.shape[1], reversed(range(weight.shape[1]))
        need_x, need_weight = ctx.needs_input_grad[:2]
        return (
            _correlate(grad, weight, ahead=True) if need_x else None,
            torch.stack([(grad[:, s:] * x[:, : max(0, T - s)]).sum((0, 1)) for s in lags], 1)
            if need_weight
            else None,
            grad.sum((0, 1)) if ctx.biased else None,
        )


def _correlate(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, ahead: bool = False
) -> Tensor:
    """sum over s of w[:, k-1-s] x_(t-s), or with `ahead` (the gradient) x_(t+s); zeros outside."""
    if x.device.type == "cpu" and _onednn_takes(x.dtype):
        return _by_onednn(x, weight, bias, ahead)
    taps = weight.t().contiguous()
    out = x * taps[-1] if bias is None else torch.addcmul(bias, x, taps[-1])
    for s in range(1, min(len(taps), x.shape[1])):
        to, of = (out[:, :-s], x[:, s:]) if ahead else (out[:, s:], x[:, :-s])
        to.addcmul_(of, taps[-1 - s])
    return out


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None, ahead: bool) -> Tensor:
    """On CPU twice (fp32) to four times (bf16) as fast as k passes over memory.

    By its own name, because FlopCounterMode counts aten.convolution but no pass over memory.
    """
    (C, k), T = weight.shape, x.shape[1]
    weight = weight.flip(1) if ahead else weight
    out = torch.mkldnn_convolution(
        x.transpose(1, 2)[:, :, None],  # (B, C, 1, T), channels last in memory
        weight[:, None, None].contiguous(),
        bias,
        padding=(0, k - 1),
        stride=(1, 1),
        dilation=(1, 1),
        groups=C,
    )
    out = out[:, :, 0].transpose(1, 2)  # (B, T + k - 1, C)
    return out[:, k - 1 :] if ahead else out[:, :T]


def _onednn_takes(dtype: torch.dtype) -> bool:
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _onednn_takes_bf16())


@lru_cache(maxsize=1)
def _onednn_takes_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def package_takes(channels: int, width: int) -> bool:
    """Whether causal-conv1d has a kernel of that shape."""
    return channels % 8 == 0 and 2 <= width <= 4


def package_run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Whole sequence by causal-conv1d (Dao-AILab), which takes (B, C, T), channels last where a
    state goes in or out."""
    from causal_conv1d import causal_conv1d_fn

    if x.stride(2) != 1 or x.stride(1) % 8 or x.stride(0) % 8:
        x = x.contiguous()
    out, new = causal_conv1d_fn(
        x.transpose(1, 2),
        weight,
        bias,
        initial_states=None if state is None else state.to(x.dtype).transpose(1, 2),
        return_final_states=True,
        activation="silu" if silu else None,
    )
    return out.transpose(1, 2), new.transpose(1, 2)


def package_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, silu: bool = False
) -> Tensor:
    """One token by causal-conv1d; `state` updated in place."""
    from causal_conv1d import causal_conv1d_update

    activation = "silu" if silu else None
    state = state.transpose(1, 2)  # (B, C, k - 1), a view
    return causal_conv1d_update(x.to(state.dtype), state, weight, bias, activation=activation).to(
        x.dtype
    )
