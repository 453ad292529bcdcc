"""The short convolution that several mixers put before their token mixing."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn as nn
from torch import Tensor

from retnet_bench.kernels import KERNELS, Kernel, Setting, best
from retnet_bench.kernels.short_conv import package_takes


class ShortConvolution(nn.Module):
    """Depthwise causal convolution of `width` taps over `channels`, then SiLU if `silu`.

    Starts as nn.Conv1d does, U(+-width^-1/2), which is how Mamba-2 and DeltaNet start theirs. Its
    parameters are `weight` (channels, width) and, if `bias`, `bias`; a mixer names them in
    `undecayed`. State (B, width - 1, channels): the last inputs, before the activation.
    """

    def __init__(
        self, channels: int, width: int = 4, *, bias: bool = False, silu: bool = True
    ) -> None:
        super().__init__()
        self.silu = silu
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        bound = width**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Whole sequence from an empty state: (B, T, C) -> (B, T, C)."""
        return self._kernel(x).run(x, self.weight, self.bias, silu=self.silu)[0]

    def new_state(self, batch: int, like: Tensor) -> Tensor:
        """Nothing before the first token, on the device and dtype of `like`."""
        channels, width = self.weight.shape
        return like.new_zeros(batch, width - 1, channels)

    def prefill(self, x: Tensor, state: Tensor) -> Tensor:
        """Tokens (B, T, C) after those of `state`, which takes them in, in place."""
        out, new = self._kernel(x).run(x, self.weight, self.bias, state, silu=self.silu)
        state.copy_(new)
        return out

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """One token (B, 1, C) after those of `state`, which takes it in, in place."""
        step = self._kernel(x).step
        return step(x.squeeze(1), self.weight, self.bias, state, silu=self.silu).unsqueeze(1)

    def _kernel(self, x: Tensor) -> Kernel:
        """Plain torch under the compiler, too, which makes one pass of it."""
        if torch.compiler.is_compiling():
            return KERNELS["short_conv"]
        return KERNELS[_fastest(x.device.type, x.dtype, *self.weight.shape)]


_NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16"}


@lru_cache(maxsize=64)
def _fastest(device: str, dtype: torch.dtype, channels: int, width: int) -> str:
    if not package_takes(channels, width):
        return "short_conv"
    return best("short_conv", Setting(device, _NAMES.get(dtype, "fp16"))).name


def parameters(channels: int, width: int, bias: bool = False) -> int:
    """Of a ShortConvolution."""
    return channels * (width + bias)


def state_bytes(channels: int, width: int, element_bytes: int) -> int:
    """Of one sequence's state, whatever its length."""
    return (width - 1) * channels * element_bytes
