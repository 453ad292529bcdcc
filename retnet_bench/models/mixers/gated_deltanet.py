"""Gated DeltaNet (arXiv:2412.06464): DeltaNet whose state also decays, by a learned rate a head."""

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
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.mixers.deltanet import DeltaNet, DeltaNetOptions, start_steps


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNetOptions(DeltaNetOptions):
    """Of the mixer `gated_deltanet`."""

    gate: Annotated[Flag, Field(description="swish gate on the normed output")] = True


class GatedDeltaNet(DeltaNet):
    """DeltaNet whose state decays by e^g before each token: g = -e^A_log softplus(X W_a + dt_bias)
    per head; O = (RMSNorm(heads) * swish(X W_G)) W_O.

    By default keys of 3/4 and values of 3/2 model widths, heads of at most 256 x 512: 6 d^2 as the
    authors' models (the norm comes before the gate, the other way round than in Mamba-2).
    A ~ U(0.001, 16) and dt log-uniform in [0.001, 0.1], dt_bias its inverse softplus, as theirs,
    but for the lower end of A (0, whose logarithm is -inf). Other deviations: DeltaNet's; W_beta
    has no bias (as in flash-linear-attention; the first code has one).
    """

    Options = GatedDeltaNetOptions
    undecayed = (*DeltaNet.undecayed, "A_log", "dt_bias")
    fp32_parameters = ("A_log", "dt_bias")
    decay = "head"
    key_share = 0.75
    widest_head = 256
    expansion = 2.0

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.A_log = nn.Parameter(torch.zeros(cfg.n_heads))
        self.dt_bias = nn.Parameter(torch.zeros(cfg.n_heads))

    @torch.no_grad()
    def initialise(self, gain: float) -> None:
        super().initialise(gain)
        self.A_log.uniform_(1e-3, 16).log_()
        start_steps(self.dt_bias)

    @torch.no_grad()
    def move(self) -> None:
        """From a state that is halved by a token to one that loses a ten-thousandth."""
        super().move()
        self.A_log.copy_(torch.linspace(0, math.log(16), self.cfg.n_heads))
        self.dt_bias.copy_(torch.linspace(0, -12, self.cfg.n_heads))

    @torch.no_grad()
    def adversarial(self) -> None:
        """Every other head forgets all in a token (e^-48), the others next to nothing (1e-4)."""
        super().adversarial()
        self.A_log.fill_(math.log(16))
        self.dt_bias[::2], self.dt_bias[1::2] = 3.0, -12.0

    def _log_decay(self, x: Tensor, rates: Tensor) -> Tensor:
        return -torch.exp(self.A_log) * F.softplus(rates + self.dt_bias)
