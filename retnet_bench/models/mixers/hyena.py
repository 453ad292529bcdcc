"""Hyena of order 2: a gated convolution as long as the sequence (arXiv:2302.10866, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS, long_conv
from retnet_bench.kernels.chunks import without_autocast
from retnet_bench.models import convolution
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.convolution import ShortConvolution
from retnet_bench.models.layers import Exact
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, Mixer
from retnet_bench.models.mixers.held import Held
from retnet_bench.models.options import MixerOptions

Own = TypeVar("Own", bound="HyenaOptions")
TAPS = 3
"""Of the short convolution."""
BANDS, HIDDEN, SHARPNESS = 16, 64, 14.0
"""Of the filter's network: frequencies of its positions, its width, and what its sines start at."""
FEATURES = 1 + 2 * BANDS
FALLS_TO, SLOWEST, FASTEST = 1e-2, 1.5, 0.3
"""A channel's filter falls to a hundredth in 1.5 ... 0.3 times the longest length."""


@dataclass(frozen=True, kw_only=True)
class HyenaOptions(MixerOptions):
    """Of the mixer `hyena`."""

    max_length: Annotated[
        Count,
        Field(description="tokens of the longest sequence; its filter is made for that length"),
    ] = 2048

    def checked(self: Own) -> Own:
        """Long enough for the comparison."""
        return replace(self, max_length=max(128, self.max_length))


def _max_length(cfg: ModelConfig) -> int:
    assert isinstance(cfg.options, HyenaOptions)
    return cfg.options.max_length


class ImplicitFilter(Exact):
    """h_t = MLP(pos(t)) exp(-|delta| t / (L - 1)) for each channel, L the longest length.

    pos(t) is t / (L - 1) and the cosines and negative sines of 2 pi t / L times 16 frequencies;
    the MLP has three layers of 64 with sin(w x), w shared and learned, and a last one without bias.
    A function of t / L: another L makes another model of the same weights. Always in fp32 at least.
    """

    fp32_parameters = ("first", "first_bias", "inner", "inner_bias", "last", "sharpness")

    def __init__(self, channels: int, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.first = nn.Parameter(torch.empty(HIDDEN, FEATURES))
        self.first_bias = nn.Parameter(torch.empty(HIDDEN))
        self.inner = nn.Parameter(torch.empty(2, HIDDEN, HIDDEN))
        self.inner_bias = nn.Parameter(torch.empty(2, HIDDEN))
        self.last = nn.Parameter(torch.empty(channels, HIDDEN))
        self.sharpness = nn.Parameter(torch.empty(HIDDEN))

    def initialise(self) -> None:
        """As nn.Linear starts; w = 14 (the published language models')."""
        for name, parameter in self.named_parameters():
            bound = (FEATURES if name.startswith("first") else HIDDEN) ** -0.5
            nn.init.uniform_(parameter, -bound, bound)
        nn.init.constant_(self.sharpness, SHARPNESS)

    def forward(self, length: int) -> Tensor:
        """The first `length` taps, (channels, length)."""
        with without_autocast(self.last):
            t = torch.arange(length, device=self.last.device, dtype=self.last.dtype)
            x = self._positions(t)
            layers = [(self.first, self.first_bias), *zip(self.inner, self.inner_bias, strict=True)]
            for weight, bias in layers:
                x = torch.sin(self.sharpness * torch.addmm(bias, x, weight.t()))
            h = torch.mm(self.last, x.t())
            start, end = (math.log(1 / FALLS_TO) / reach for reach in (SLOWEST, FASTEST))
            rate = torch.linspace(start, end, len(h), device=t.device, dtype=t.dtype)
            return h * torch.exp(-rate[:, None] * (t / max(1, self.max_length - 1)))

    def _positions(self, t: Tensor) -> Tensor:
        """(T,) to (T, 33)."""
        bands = torch.linspace(1e-4, BANDS - 1, BANDS, device=t.device, dtype=t.dtype)
        angle = t[:, None] * (2 * math.pi / self.max_length) * bands
        along = t[:, None] / max(1, self.max_length - 1)
        return torch.cat([along, angle.cos(), -angle.sin()], 1)


def _filter_parameters(channels: int) -> int:
    return HIDDEN * (FEATURES + 1) + 2 * HIDDEN * (HIDDEN + 1) + HIDDEN * channels + HIDDEN


def _filter_flops(channels: int, length: int) -> float:
    """Matmul FLOPs of the filter's network, which runs once for the batch."""
    return 2.0 * length * HIDDEN * (FEATURES + 2 * HIDDEN + channels)


@dataclass
class HyenaState:
    """z of every token (B, d, capacity), filled from the left; the last two inputs of the short
    convolution (B, 2, 3 d)."""

    values: Tensor
    inputs: Tensor
    window: int
    """Slots a captured graph reads; an eager step reads exactly those filled."""


class Hyena(Mixer):
    """x_0, x_1, v = conv_3(X W); z = x_1 * v; y = x_0 * (h conv z + b * z); out = y W_O.

    The filter h is as long as the sequence, so decoding keeps every z: a cached convolution, whose
    state and work grow with the position, at half of attention's bytes. Both maps and the short
    convolution have biases; no positions but the filter's. Deviations from the authors' language
    models: the filter's positions are constants, not learned; linear maps start as those of other
    mixers, the filter as nn.Linear does (the authors: all normal, 0.02).
    """

    kernels = "long_conv"
    reference = "long_conv_toeplitz"
    Options = HyenaOptions
    state_grows = True
    state_passes = 1
    rotates = False
    fp32_parameters = ("skip",)
    undecayed = (
        "skip",
        "convolution.weight",
        "convolution.bias",
        *(f"filter.{name}" for name in ImplicitFilter.fp32_parameters),
    )

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.branches = Linear(cfg.d_model, 3 * cfg.d_value)
        self.convolution = ShortConvolution(3 * cfg.d_value, TAPS, bias=True, silu=False)
        self.filter = ImplicitFilter(cfg.d_value, _max_length(cfg))
        self.skip = nn.Parameter(torch.empty(cfg.d_value))
        self.out = Linear(cfg.d_value, cfg.d_model)
        self.held = Held()
        """The filter backward in time (d, max_length) as the last `new_state` found it: in fp32 and
        in the dtype of the weights, where that is another."""

    @torch.no_grad()
    def initialise(self, gain: float) -> None:
        """Each branch as a map of its own; b normal."""
        super().initialise(gain)
        for branch in self.branches.weight.chunk(3):
            nn.init.xavier_normal_(branch, gain)
        self.filter.initialise()
        nn.init.normal_(self.skip)

    @torch.no_grad()
    def adversarial(self) -> None:
        """A filter so large that what comes before outweighs the token itself: what a sum of equal
        tokens loses in rounding is seen."""
        self.move()
        self.filter.last.mul_(5)

    def _taps(self, length: int) -> Tensor:
        """The filter with b at its first tap: (d, length)."""
        if length > self.filter.max_length:
            raise UserError(
                f"mixer hyena is defined for at most max_length = {self.filter.max_length} tokens, "
                f"not for {length}"
            )
        return self.filter(length) + F.pad(self.skip[:, None], (0, length - 1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x_0, x_1, v = self.convolution(self.branches(x)).chunk(3, -1)
        return self.out(x_0 * self.kernel.run(x_1 * v, self._taps(x.shape[1])))

    @torch.no_grad()
    def new_state(self, batch: int, capacity: int, like: Tensor) -> HyenaState:
        """For the weights as they are now: prefill and steps read the filter from here on."""
        self._taps(capacity)  # or refused
        backward = self._taps(self.filter.max_length).flip(1)
        self.held.renew({backward.dtype: backward, like.dtype: backward.to(like.dtype)}.values())
        values = like.new_zeros(batch, self.cfg.d_value, capacity)
        return HyenaState(values, self.convolution.new_state(batch, like), window=capacity)

    def prefill(self, x: Tensor, context: Context, state: HyenaState, start: int) -> Tensor:
        end = start + x.shape[1]
        x_0, x_1, v = self.convolution.prefill(self.branches(x), state.inputs).chunk(3, -1)
        z = x_1 * v
        state.values[:, :, start:end] = z.transpose(1, 2)
        if start:  # the new rows meet all that came before
            z = state.values[:, :, :end].transpose(1, 2).to(z.dtype)
        taps = self.held.tensors[0][:, -end:].flip(1)
        return self.out(x_0 * self.kernel.run(z, taps, x.shape[1]))

    def step(
        self, x: Tensor, context: Context, state: HyenaState, position: int | Tensor
    ) -> Tensor:
        x_0, x_1, v = self.convolution.step(self.branches(x), state.inputs).squeeze(1).chunk(3, -1)
        z = (x_1 * v)[..., None]  # (B, d, 1)
        if isinstance(position, int):
            state.values[:, :, position : position + 1] = z
            slots = position + 1
        else:
            state.values.index_copy_(2, position, z.to(state.values.dtype))
            slots = min(state.window, state.values.shape[2])
        taps = long_conv.backward_taps(self.held.tensors[-1], slots, position)
        y = self.kernel.step(state.values[:, :, :slots], taps).to(x_0.dtype)
        return self.out((x_0 * y).unsqueeze(1))

    def fork(self, state: HyenaState) -> HyenaState:
        """Slots up to a position don't change when later ones are written; the last inputs do."""
        return replace(state, inputs=state.inputs.clone())

    @staticmethod
    def defaults(size: Size, family: str, options: HyenaOptions) -> dict[str, Any]:
        return {"n_heads": 1, "d_key": size.d_model, "d_value": size.d_model}

    @staticmethod
    def widths(cfg: ModelConfig) -> dict[str, int]:
        return {"branches": 3 * cfg.d_value}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        """There are no chunks: short sequences tell as much as long ones."""
        return 32

    @staticmethod
    def longest(cfg: ModelConfig) -> int:
        return _max_length(cfg)

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """Of the branches (d x 3 d_value) and of the output."""
        return 4 * cfg.d_model * cfg.d_value

    @staticmethod
    def other_parameters(cfg: ModelConfig) -> int:
        """Biases of both maps, the short convolution, the filter and b."""
        d = cfg.d_value
        short = convolution.parameters(3 * d, TAPS, bias=True)
        return 3 * d + cfg.d_model + short + _filter_parameters(d) + d

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        """None more: they are always there."""
        return 0

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        """The filter's network, once a pass whatever the batch, and by a matrix the convolution."""
        network = _filter_flops(cfg.d_value, length)
        if KERNELS[cfg.kernel].form == "fft":
            return network
        return network + cfg.d_value * long_conv.toeplitz_flops(length, masked)

    @staticmethod
    def uncounted_flops(cfg: ModelConfig, length: int) -> float:
        """Fourier transforms."""
        by_fft = KERNELS[cfg.kernel].form == "fft"
        return cfg.d_value * long_conv.fft_flops(length) if by_fft else 0.0

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """Two products for each of the forward's, but for the positions, which are constants."""
        spared = 2.0 * length * HIDDEN * FEATURES
        return 2 * Hyena.mixing_flops(cfg, length, masked=True) - spared

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        return 0.0

    @staticmethod
    def uncounted_step_flops(cfg: ModelConfig, position: int) -> float:
        """Every z so far times its tap. The filter was made with the state."""
        return cfg.d_value * long_conv.cached_step_flops(position)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """z of every position and the last inputs of the short convolution."""
        short = convolution.state_bytes(3 * cfg.d_value, TAPS, element_bytes)
        return batch * (length * cfg.d_value * element_bytes + short)
