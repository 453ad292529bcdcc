"""A short convolution with a gate: what the recall probe puts before every other mixer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn as nn
from pydantic import Field
from torch import Tensor

from retnet_bench.fields import Integer
from retnet_bench.models import convolution
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.convolution import ShortConvolution
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, Mixer
from retnet_bench.models.options import MixerOptions


@dataclass(frozen=True, kw_only=True)
class GatedConvOptions(MixerOptions):
    """Of the mixer `gated_conv`."""

    width: Annotated[
        Integer, Field(ge=2, le=64, description="taps of the convolution, the last the token's own")
    ] = 3


def _width(cfg: ModelConfig) -> int:
    assert isinstance(cfg.options, GatedConvOptions)
    return cfg.options.width


class GatedConv(Mixer):
    """conv(X) * (X W_G + b): a depthwise convolution of a few taps times a gate.

    BaseConv of Zoology (arXiv:2312.04927) with a short filter, as Based (arXiv:2402.18668) puts it
    before each mixer under test. Deviations: the convolution has no bias; BaseConv adds its input
    a second time beside the block's own residual, this does not. b is always there, or no gate
    could let a neighbour through unchanged; it starts at 1, where all do.
    """

    kernels = "short_conv"
    reference = "short_conv"
    Options = GatedConvOptions
    state_grows = False
    state_passes = 2
    rotates = False
    undecayed = ("conv.weight", "offset")

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.conv = ShortConvolution(cfg.d_value, _width(cfg), silu=False)
        self.gate = Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.offset = nn.Parameter(torch.ones(cfg.d_value))

    def _gated(self, x: Tensor, y: Tensor) -> Tensor:
        return y * (self.gate(x) + self.offset.to(y.dtype))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self._gated(x, self.conv(x))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> Tensor:
        """(B, width - 1, d): the last inputs."""
        return self.conv.new_state(batch, like)

    def prefill(self, x: Tensor, context: Context, state: Tensor, start: int) -> Tensor:
        return self._gated(x, self.conv.prefill(x, state))

    def step(self, x: Tensor, context: Context, state: Tensor, position: int | Tensor) -> Tensor:
        return self._gated(x, self.conv.step(x, state))

    @staticmethod
    def defaults(size: Size, family: str, options: GatedConvOptions) -> dict[str, Any]:
        """No heads, no keys: the widths are the model's."""
        return {"n_heads": 1, "d_key": size.d_model, "d_value": size.d_model}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        """The taps, so that forms are held against each other at lengths around them: nothing
        reaches further."""
        return _width(cfg)

    @staticmethod
    def widths(cfg: ModelConfig) -> dict[str, int]:
        return {"gate": cfg.d_value}

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_G."""
        return cfg.d_model * cfg.d_value

    @staticmethod
    def other_parameters(cfg: ModelConfig) -> int:
        """The taps, and b."""
        return convolution.parameters(cfg.d_value, _width(cfg)) + cfg.d_value

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return cfg.d_value

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        """No counter sees a convolution that is done by passes over memory."""
        return 0.0

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        return 0.0

    @staticmethod
    def uncounted_flops(cfg: ModelConfig, length: int) -> float:
        """A multiply-add for each tap, channel and token."""
        return 2.0 * _width(cfg) * cfg.d_value * length

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        return 0.0

    @staticmethod
    def uncounted_step_flops(cfg: ModelConfig, position: int) -> float:
        return GatedConv.uncounted_flops(cfg, 1)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        return batch * convolution.state_bytes(cfg.d_value, _width(cfg), element_bytes)
