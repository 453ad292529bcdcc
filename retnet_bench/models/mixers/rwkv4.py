"""RWKV-4's TimeMix (arXiv:2305.13048, section 3.1; RWKV-LM, RWKV-v4neo)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import torch
import torch.nn as nn
from pydantic import Field
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS, Kernel
from retnet_bench.kernels import wkv as kernel_costs
from retnet_bench.kernels.wkv import WKVState
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, Mixer
from retnet_bench.models.options import MixerOptions

Own = TypeVar("Own", bound="RWKV4Options")
SPREAD = (-9.0, 3.0)
"""time_decay over the channels, for the check of forms: from e^-0.0001 a token to e^-20."""
SLOWEST, FASTEST = -30.0, 5.0
"""Adversarial: no decay in fp32, and e^-148 a token."""
EXTREME = 4.0
"""Standard deviation of the adversarial keys, the logarithms of weights."""


@dataclass(frozen=True, kw_only=True)
class RWKV4Options(MixerOptions):
    """Of the mixer `rwkv4`."""

    execution = ("chunk",)
    chunk: Annotated[Count, Field(description="tokens of a chunk of the chunkwise form")] = 32

    def settled(self: Own, cfg: ModelConfig) -> Own:
        if cfg.d_key != cfg.d_value:
            raise UserError(
                f"mixer rwkv4 weighs each channel of its values by one of its keys, but d_key is "
                f"{cfg.d_key} and d_value {cfg.d_value}"
            )
        return replace(self)


def _options(cfg: ModelConfig) -> RWKV4Options:
    assert isinstance(cfg.options, RWKV4Options)
    return cfg.options


@dataclass
class RWKV4State(WKVState):
    """That of wkv, and the last token's input."""

    last: Tensor
    """(B, d_model), in the model's dtype."""


class RWKV4(Mixer):
    """(sigmoid(X_r W_r) * wkv(X_k W_k, X_v W_v)) W_O, where X_* is a mean of each token's input and
    the one before it, weighed by channel (time mixing alone, without channel mixing).

    wkv averages values by e^k, decayed e^{-e^time_decay} a token and channel, the current one
    under the bonus time_first instead. Start values as RWKV-v4neo's: decays spread over the
    channels, slower on the whole in deeper layers; W_k, W_r and W_O are 0, so that the layer puts
    out 0.

    Deviations: W_v starts as every mixer's do here (theirs: orthogonal); the feed-forward is the
    common one, as in RetNet's Table 5 (theirs: channel mixing with a token shift of its own);
    no LayerNorm after the embedding; decays and the means' weights are not decayed by AdamW.
    """

    kernels = "wkv"
    reference = "wkv_recurrent"
    Options = RWKV4Options
    state_grows = False
    state_passes = 2
    rotates = False
    undecayed = ("time_decay", "time_first", "mix_key", "mix_value", "mix_receptance")
    fp32_parameters = ("time_decay", "time_first")

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        d, width = cfg.d_model, cfg.d_value
        self.time_decay, self.time_first = (nn.Parameter(torch.empty(width)) for _ in range(2))
        self.mix_key, self.mix_value, self.mix_receptance = (
            nn.Parameter(torch.empty(d)) for _ in range(3)
        )
        self.key = Linear(d, width, bias=cfg.bias)
        self.value = Linear(d, width, bias=cfg.bias)
        self.receptance = Linear(d, width, bias=cfg.bias)
        self.out = Linear(width, d, bias=cfg.bias)

    @torch.no_grad()
    def initialise(self, gain: float) -> None:
        super().initialise(gain)
        for map_ in (self.key, self.receptance, self.out):
            nn.init.zeros_(map_.weight)
        width, d = self.cfg.d_value, self.cfg.d_model
        depth = self.layer / max(1, self.cfg.n_layers - 1)
        left = 1 - self.layer / self.cfg.n_layers
        channel = torch.arange(width) / max(1, width - 1)
        self.time_decay.copy_(-5 + 8 * channel ** (0.7 + 1.3 * depth))
        self.time_first.copy_(math.log(0.3) + 0.5 * ((torch.arange(width) + 1) % 3 - 1))
        share = torch.arange(d) / d
        self.mix_key.copy_(share**left)
        self.mix_value.copy_(share**left + 0.3 * depth)
        self.mix_receptance.copy_(share ** (0.5 * left))

    @torch.no_grad()
    def move(self) -> None:
        """Maps that start at 0 as others do, and decays over their range."""
        super().initialise(1.0)
        super().move()
        self.time_decay.copy_(torch.linspace(*SPREAD, self.cfg.d_value))

    @torch.no_grad()
    def adversarial(self) -> None:
        """Channels that forget at once beside such as never do, and weights that differ by some
        orders of magnitude."""
        self.move()
        never = torch.arange(self.cfg.d_value) % 2 == 0
        self.time_decay.copy_(torch.where(never, SLOWEST, FASTEST))
        nn.init.normal_(self.key.weight, std=EXTREME * self.cfg.d_model**-0.5)

    def _project(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """k, v and the receptance (B, T, width) from x and the inputs before it (B, T, d)."""
        maps = (
            (self.key, self.mix_key),
            (self.value, self.mix_value),
            (self.receptance, self.mix_receptance),
        )
        k, v, r = (f(torch.lerp(before, x, mix.to(x.dtype))) for f, mix in maps)
        return k, v, torch.sigmoid(r)

    def _run(self, x: Tensor, last: Tensor, state: WKVState | None) -> tuple[Tensor, WKVState]:
        """Tokens x (B, T, d) after one whose input was `last` (B, d)."""
        before = torch.cat([last.to(x.dtype)[:, None], x[:, :-1]], 1)
        k, v, r = self._project(x, before)
        y, new = self.kernel.run(
            k, v, self.time_decay, self.time_first, chunk=_options(self.cfg).chunk, state=state
        )
        return self.out(r * y), new

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self._run(x, torch.zeros_like(x[:, 0]), None)[0]

    def new_state(self, batch: int, capacity: int, like: Tensor) -> RWKV4State:
        sums = kernel_costs.empty_state(batch, self.cfg.d_value, like)
        return RWKV4State(sums.a, sums.b, sums.p, like.new_zeros(batch, self.cfg.d_model))

    def prefill(self, x: Tensor, context: Context, state: RWKV4State, start: int) -> Tensor:
        y, new = self._run(x, state.last, state)
        state.become(new)
        state.last.copy_(x[:, -1])
        return y

    def step(
        self, x: Tensor, context: Context, state: RWKV4State, position: int | Tensor
    ) -> Tensor:
        token = x.squeeze(1)  # (B, d)
        k, v, r = self._project(token, state.last.to(x.dtype))
        y = self.kernel.step(k, v, self.time_decay, self.time_first, state)
        state.last.copy_(token)
        return self.out(r * y).unsqueeze(1)

    @staticmethod
    def defaults(size: Size, family: str, options: RWKV4Options) -> dict[str, Any]:
        """Every channel is on its own: one head of the model's width."""
        return {"n_heads": 1, "d_key": size.d_model, "d_value": size.d_model}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        return _options(cfg).chunk

    @staticmethod
    def unread(kernel: Kernel) -> tuple[str, ...]:
        return () if kernel.form == "chunkwise" else ("chunk",)

    @staticmethod
    def widths(cfg: ModelConfig) -> dict[str, int]:
        return {"key": cfg.d_key, "value": cfg.d_value}

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_k, W_v, W_r and W_O."""
        return 4 * cfg.d_model * cfg.d_value

    @staticmethod
    def other_parameters(cfg: ModelConfig) -> int:
        """time_decay and time_first, and three means' weights."""
        return 2 * cfg.d_value + 3 * cfg.d_model

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return 3 * cfg.d_value + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        """No matmul: all is by element."""
        return 0.0

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        return 0.0

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        return 0.0

    @staticmethod
    def uncounted_flops(cfg: ModelConfig, length: int) -> float:
        """All of wkv, by hand."""
        if KERNELS[cfg.kernel].form == "chunkwise":
            return kernel_costs.chunkwise_flops(length, cfg.d_value)
        return kernel_costs.recurrent_flops(length, cfg.d_value)

    @staticmethod
    def uncounted_step_flops(cfg: ModelConfig, position: int) -> float:
        return kernel_costs.recurrent_flops(1, cfg.d_value)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """a, b, p in fp32 (fp64 models: fp64), and the last input, whatever the length."""
        return batch * (3 * cfg.d_value * max(4, element_bytes) + cfg.d_model * element_bytes)
