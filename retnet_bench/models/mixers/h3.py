"""H3, two state-space models in a row with products between (arXiv:2212.14052, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import torch
import torch.nn as nn
from pydantic import Field
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS, h3
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, HeadOptions, Mixer, head_count
from retnet_bench.models.mixers.held import Held

Own = TypeVar("Own", bound="H3Options")
HEAD_DIM = 8
"""Of Table 5 of the RetNet paper."""
STEP_RANGE = (1e-3, 0.1)
"""What time steps start between."""


@dataclass(frozen=True, kw_only=True)
class H3Options(HeadOptions):
    """Of the mixer `h3`."""

    head_dim: Annotated[
        Count | None, Field(description="channels of a head, p; the state has p numbers a channel")
    ] = None
    state_dim: Annotated[
        Count, Field(multiple_of=2, description="numbers of state of a channel of both models, N")
    ] = 64

    def settled(self: Own, cfg: ModelConfig) -> Own:
        if cfg.d_key != cfg.d_value:
            raise UserError(
                f"mixer h3 has values as wide as keys; d_key is {cfg.d_key}, d_value {cfg.d_value}"
            )
        return super().settled(cfg)


def _states(cfg: ModelConfig) -> int:
    assert isinstance(cfg.options, H3Options)
    return cfg.options.state_dim


_SHAPES = {
    "shift_in": "dN",
    "shift_out": "dN",
    "shift_skip": "d",
    "log_step": "H",
    "log_rate": "Hm",
    "frequency": "Hm",
    "mode_in": "Hmc",
    "mode_out": "Hmc",
    "skip": "H",
}
"""Parameters of both models: d channels, N numbers of state, H heads, m modes, c real and imaginary
part."""


def _sizes(cfg: ModelConfig) -> dict[str, int]:
    N = _states(cfg)
    return {"d": cfg.d_value, "N": N, "H": cfg.n_heads, "m": N // 2, "c": 2}


def _shape(cfg: ModelConfig, name: str) -> list[int]:
    sizes = _sizes(cfg)
    return [sizes[letter] for letter in _SHAPES[name]]


class H3(Mixer):
    """q, k, v = X W; o_j = sum over i of q_i diag(shift(k)_i v_j) in each head; out = o W_O.

    shift is a state-space model that remembers the last N keys, diag one of N/2 complex modes; both
    are as in S4D (arXiv:2206.11893), discretised by the bilinear rule. Keys and values, their order
    of channels and B's place in the state: `kernels.h3`. All four maps have biases. Without
    positions: published language models of that name have attention in two layers, this has none.
    Linear maps start as those of other mixers (the authors: normal, 0.02).
    """

    kernels = "h3"
    reference = "h3_recurrent"
    Options = H3Options
    state_grows = False
    state_passes = 2
    rotates = False
    fp32_parameters = tuple(_SHAPES)
    undecayed = tuple(_SHAPES)
    shift_in: Tensor
    shift_out: Tensor
    shift_skip: Tensor
    log_step: Tensor
    log_rate: Tensor
    frequency: Tensor
    mode_in: Tensor
    mode_out: Tensor
    skip: Tensor

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.query = Linear(cfg.d_model, cfg.d_key)
        self.key = Linear(cfg.d_model, cfg.d_key)
        self.value = Linear(cfg.d_model, cfg.d_value)
        self.out = Linear(cfg.d_value, cfg.d_model)
        for name in _SHAPES:
            self.register_parameter(name, nn.Parameter(torch.empty(_shape(cfg, name))))
        self.held = Held()
        """Both models as the last `new_state` found them."""

    @torch.no_grad()
    def initialise(self, gain: float) -> None:
        """shift: b = e_1, c uniform as a convolution of N taps. diag: A_n = -1/2 + i pi n, B = 1, C
        complex normal, time steps log-uniform. What is added of the input: normal."""
        super().initialise(gain)
        nn.init.zeros_(self.shift_in)[:, 0] = 1
        bound = _states(self.cfg) ** -0.5
        nn.init.uniform_(self.shift_out, -bound, bound)
        low, high = map(math.log, STEP_RANGE)
        nn.init.uniform_(self.log_step, low, high)
        nn.init.constant_(self.log_rate, math.log(0.5))
        modes = torch.arange(self.frequency.shape[1], device=self.frequency.device)
        self.frequency.copy_((math.pi * modes).expand_as(self.frequency))
        nn.init.zeros_(self.mode_in)[..., 0] = 1
        nn.init.normal_(self.mode_out, std=0.5**0.5)
        nn.init.normal_(self.shift_skip)
        nn.init.normal_(self.skip)

    @torch.no_grad()
    def move(self) -> None:
        """Decays of e^-0.0005 to e^-0.5 a token, head by head, and others mode by mode."""
        super().move()
        low, high = math.log(1e-3), math.log(1.0)
        self.log_step.copy_(torch.linspace(low, high, self.cfg.n_heads))
        self.log_rate.add_(torch.randn_like(self.log_rate), alpha=0.5)

    @torch.no_grad()
    def adversarial(self) -> None:
        """The first head forgets nothing in a million tokens, the last all but a hundredth in one
        (its slowest mode)."""
        self.move()
        self.log_step[0], self.log_rate[0] = math.log(1e-4), math.log(1e-2)
        self.log_step[-1], self.log_rate[-1] = math.log(3.9), math.log(0.5)
        self.frequency[-1, 0] = 0

    def _filters(self) -> h3.Filters:
        diagonal = (self.log_step, self.log_rate, self.frequency, self.mode_in, self.mode_out)
        shift = (self.shift_in, self.shift_out, self.shift_skip)
        return h3.Filters(*shift, *h3.discretised(*diagonal), self.skip)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.query(x), self.key(x), self.value(x)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.out(self.kernel.run(*self._project(x), self._filters())[0])

    @torch.no_grad()
    def new_state(self, batch: int, capacity: int, like: Tensor) -> h3.State:
        """For the weights as they are now: steps read both models from here on."""
        self.held.renew(self._filters())
        return h3.new_state(like.new_zeros(batch, 0), h3.Filters(*self.held.tensors))

    def prefill(self, x: Tensor, context: Context, state: h3.State, start: int) -> Tensor:
        filters = h3.Filters(*self.held.tensors)
        y, new = self.kernel.run(*self._project(x), filters, state, empty=start == 0)
        state.shift.copy_(new.shift)
        state.modes.copy_(new.modes)
        return self.out(y)

    def step(self, x: Tensor, context: Context, state: h3.State, position: int | Tensor) -> Tensor:
        filters = h3.Filters(*self.held.tensors)
        y = self.kernel.step(*self._project(x.squeeze(1)), filters, state)
        return self.out(y.unsqueeze(1))

    @staticmethod
    def defaults(size: Size, family: str, options: H3Options) -> dict[str, Any]:
        d = size.d_model
        return {"n_heads": head_count(d, options.head_dim or HEAD_DIM), "d_key": d, "d_value": d}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        """Tokens whose states are made by one product."""
        return h3.BLOCK

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_O (d x d_value)."""
        return cfg.d_model * 2 * (cfg.d_key + cfg.d_value)

    @staticmethod
    def other_parameters(cfg: ModelConfig) -> int:
        """Biases of the four maps; 2 N + 1 of each channel, 3 N + 2 of each head."""
        biases = 2 * cfg.d_key + cfg.d_value + cfg.d_model
        return biases + sum(math.prod(_shape(cfg, name)) for name in _SHAPES)

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        """None more: they are always there."""
        return 0

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        """Of `h3_fft` only what makes the filter is a product of matrices; nothing is masked."""
        if KERNELS[cfg.kernel].form == "recurrent":
            return length * H3.step_flops(cfg, 0)
        return h3.counted_flops(length, cfg.n_heads, _states(cfg))

    @staticmethod
    def uncounted_flops(cfg: ModelConfig, length: int) -> float:
        """Fourier transforms; without those that the backward pass does again."""
        if KERNELS[cfg.kernel].form == "recurrent":
            return length * H3.uncounted_step_flops(cfg, 0)
        return h3.uncounted_flops(length, cfg.n_heads, cfg.d_value)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """Two products for each of the forward's."""
        return 2 * H3.mixing_flops(cfg, length, masked=True)

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        return h3.step_flops(cfg.n_heads, cfg.d_value, _states(cfg))

    @staticmethod
    def uncounted_step_flops(cfg: ModelConfig, position: int) -> float:
        return h3.uncounted_step_flops(cfg.n_heads, cfg.d_value, _states(cfg))

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """N numbers of each channel and of each pair of a head's, in fp32 (fp64 models: fp64)."""
        numbers = _states(cfg) * cfg.d_value * (1 + cfg.value_dim)
        return batch * numbers * max(4, element_bytes)
