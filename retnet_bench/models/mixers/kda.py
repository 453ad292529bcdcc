"""Kimi Delta Attention, KDA (arXiv:2510.26692): Gated DeltaNet with a decay for every channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from retnet_bench.fields import Flag
from retnet_bench.kernels import KERNELS, channel_decay
from retnet_bench.kernels.chunks import state_dtype
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.deltanet import DeltaNet, DeltaNetOptions, start_steps

A_RANGE = (1.0, 16.0)


@dataclass(frozen=True, kw_only=True)
class KDAOptions(DeltaNetOptions):
    """Of the mixer `kda`."""

    gate: Annotated[Flag, Field(description="sigmoid gate on the normed output")] = True


class KDA(DeltaNet):
    """DeltaNet whose state decays by channel before each token, S <- diag(e^g) S, with
    g = -e^A_log softplus(X W_1 W_2 + dt_bias), A_log per head and dt_bias per channel;
    O = (RMSNorm(heads) * sigmoid(X W_3 W_4 + b)) W_O.

    W_1 and W_3 have the rank of a head's values. Heads of 128 x 128 and the model's width, as in
    Kimi Linear. A ~ U(1, 16), dt as in Gated DeltaNet; decays' maps N(0, 0.02). Deviations:
    DeltaNet's; no lower bound on g, which the chunkwise form does without. Kimi Linear puts full
    attention without positions into every fourth layer: that is a pattern of layers.
    """

    Options = KDAOptions
    undecayed = (*DeltaNet.undecayed, "A_log", "dt_bias")
    fp32_parameters = ("A_log", "dt_bias")
    decay = "channel"

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.decay_down = Linear(cfg.d_model, cfg.value_dim, bias=cfg.bias)
        self.decay_up = Linear(cfg.value_dim, cfg.d_key, bias=cfg.bias)
        self.A_log = nn.Parameter(torch.zeros(cfg.n_heads))
        self.dt_bias = nn.Parameter(torch.zeros(cfg.d_key))

    @staticmethod
    def _make_gate(cfg: ModelConfig) -> nn.Module:
        down = Linear(cfg.d_model, cfg.value_dim, bias=cfg.bias)
        return nn.Sequential(down, Linear(cfg.value_dim, cfg.d_value))

    @staticmethod
    def _opened(gate: Tensor) -> Tensor:
        return torch.sigmoid(gate)

    @torch.no_grad()
    def initialise(self, gain: float) -> None:
        super().initialise(gain)
        for map_ in (self.decay_down, self.decay_up):
            nn.init.normal_(map_.weight, std=0.02)
        self.A_log.uniform_(*A_RANGE).log_()
        start_steps(self.dt_bias)

    @torch.no_grad()
    def move(self) -> None:
        """In every head from channels that lose a ten-thousandth to such as are halved often."""
        super().move()
        self.A_log.copy_(torch.linspace(0, math.log(16), self.cfg.n_heads))
        self._step_by(torch.linspace(-12, 0, self.cfg.key_dim))
        for map_ in (self.decay_down, self.decay_up):
            nn.init.normal_(map_.weight, std=map_.in_features**-0.5)

    @torch.no_grad()
    def adversarial(self) -> None:
        """Every other channel forgets all in a token (e^-48), the others next to nothing."""
        super().adversarial()
        self.A_log.fill_(math.log(16))
        fast = torch.arange(self.cfg.key_dim) % 2 == 0
        self._step_by(torch.where(fast, 3.0, -16.0))

    def _step_by(self, biases: Tensor) -> None:
        """The same in every head: biases (key_dim,)."""
        self.dt_bias.copy_(biases.repeat(self.cfg.n_heads))

    def _log_decay(self, x: Tensor, rates: Tensor) -> Tensor:
        steps = self.decay_up(self.decay_down(x))
        steps = F.softplus(steps.to(state_dtype(steps.dtype)) + self.dt_bias)
        return -torch.exp(self.A_log)[:, None] * steps.unflatten(-1, (self.cfg.n_heads, -1))

    @classmethod
    def matrix_parameters(cls, cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_O (d x d_value), W_beta (d x h); of rank value_dim the
        decays' maps to d_key and the gate's to d_value."""
        ranks = cfg.value_dim * (cfg.d_model + cfg.d_key)
        gate = cfg.value_dim * (cfg.d_model + cfg.d_value)
        ungated = 2 * (cfg.d_key + cfg.d_value) + cls._rates(cfg)
        return cfg.d_model * ungated + ranks + (gate if _gated(cfg) else 0)

    @classmethod
    def other_parameters(cls, cfg: ModelConfig) -> int:
        """DeltaNet's; A_log of each head, dt_bias of each channel of keys, the gate's bias."""
        own = cfg.n_heads + cfg.d_key + (cfg.d_value if _gated(cfg) else 0)
        return super().other_parameters(cfg) + own

    @classmethod
    def bias_count(cls, cfg: ModelConfig) -> int:
        """The gate's second map has its bias always."""
        mixed = 2 * cfg.d_key + cfg.d_value
        ranks = cfg.value_dim * (2 if _gated(cfg) else 1) + cfg.d_key
        return mixed + cls._rates(cfg) + ranks + cfg.d_model

    @classmethod
    def uncounted_flops(cls, cfg: ModelConfig, length: int) -> float:
        """DeltaNet's, and the diagonal of the scores, by element."""
        if KERNELS[cfg.kernel].form == "recurrent":
            return 0.0
        diagonal = channel_decay.diagonal_flops(length, cfg.key_dim)
        return super().uncounted_flops(cfg, length) + cfg.n_heads * diagonal


def _gated(cfg: ModelConfig) -> bool:
    assert isinstance(cfg.options, KDAOptions)
    return cfg.options.gate
