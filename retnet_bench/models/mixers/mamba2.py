"""Mamba-2 (arXiv:2405.21060, section 7): the state-space dual behind a short convolution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS, Kernel
from retnet_bench.kernels import scalar_decay as kernel_costs
from retnet_bench.kernels.chunks import state_dtype
from retnet_bench.models import convolution
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.convolution import ShortConvolution
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, Mixer, head_count
from retnet_bench.models.options import MixerOptions

Own = TypeVar("Own", bound="Mamba2Options")
PAPERS_STATE_DIM, PAPERS_HEAD_DIM = 128, 64
A_RANGE = (1.0, 16.0)
DT_RANGE = (1e-3, 0.1)
DT_FLOOR = 1e-4
"""Of the authors' code: what A and the time steps start between."""


@dataclass(frozen=True, kw_only=True)
class Mamba2Options(MixerOptions):
    """Of the mixer `mamba2`."""

    execution = ("chunk",)
    chunk: Annotated[Count, Field(description="tokens of a chunk of the chunkwise form")] = 64
    conv_width: Annotated[
        Count, Field(le=64, description="taps of the short convolution of x, B and C")
    ] = 4
    groups: Annotated[Count, Field(description="groups of heads, each with one B and one C")] = 1
    state_dim: Annotated[
        Count | None,
        Field(description="N, rows of a head's state; 128 or half a small model's width"),
    ] = None
    head_dim: Annotated[
        Count | None, Field(description="P, channels of a head; 64 where that divides them")
    ] = None
    expand: Annotated[
        Count | None, Field(description="channels of x by the model's width; 2 by default")
    ] = None

    def settled(self: Own, cfg: ModelConfig) -> Own:
        """Heads and widths say what is None then."""
        if cfg.n_heads % self.groups:
            fitting = (n for n in range(1, min(cfg.n_heads, 256) + 1) if cfg.n_heads % n == 0)
            raise UserError(
                f"groups {self.groups} does not divide the {cfg.n_heads} heads; choose one of "
                f"{', '.join(map(str, fitting))}"
            )
        said = {
            "state_dim": cfg.key_dim,
            "head_dim": cfg.value_dim,
            "expand": cfg.d_value / cfg.d_model,
        }
        for name, value in said.items():
            if getattr(self, name) not in (None, value):
                raise UserError(
                    f"{name} is {getattr(self, name)}, but the model's widths make it {value:g}"
                )
        return replace(self, state_dim=None, head_dim=None, expand=None)


def _options(cfg: ModelConfig) -> Mamba2Options:
    assert isinstance(cfg.options, Mamba2Options)
    return cfg.options


def _convolved(cfg: ModelConfig) -> int:
    """Channels of x, B and C together."""
    return cfg.d_value + 2 * _options(cfg).groups * cfg.key_dim


def _projected(cfg: ModelConfig) -> int:
    """Channels of z, of x, B and C, and of dt."""
    return cfg.d_value + _convolved(cfg) + cfg.n_heads


def _costs(cfg: ModelConfig, length: int) -> tuple[str, int, int, int, int, int, int]:
    """What FLOPs depend on: a kernel costs what its form does."""
    own = _options(cfg)
    form = KERNELS[cfg.kernel].form
    return form, length, own.chunk, cfg.n_heads, own.groups, cfg.key_dim, cfg.value_dim


@dataclass
class Mamba2State:
    """Last inputs of the convolution (B, width - 1, channels); states (B, H, N, P)."""

    conv: Tensor
    ssm: Tensor


class Mamba2(Mixer):
    """z, xBC, dt = X W; x, B, C = silu(conv(xBC)); y = SSD(x, softplus(dt + b), -e^A_log, B, C)
    + D x; out = RMSNorm(y * silu(z)) W_O, the gate before the norm, which is over each group.

    Published models have no feed-forward and twice the layers; here the feed-forward is the size's,
    matched as for every mixer. The config's d_key is n_heads N, as if B and C were each head's own,
    and d_value the channels of x. All maps start as in the authors' code, out divided by
    sqrt(n_layers); A_log, dt_bias and D stay in fp32.
    """

    kernels = "ssd"
    reference = "ssd_recurrent"
    Options = Mamba2Options
    state_grows = False
    state_passes = 2
    rotates = False
    fp32_parameters = ("A_log", "dt_bias", "D")
    undecayed = ("A_log", "dt_bias", "D", "norm", "conv.weight", "conv.bias")

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.options = _options(cfg)
        self.project = Linear(cfg.d_model, _projected(cfg), bias=cfg.bias)
        self.conv = ShortConvolution(_convolved(cfg), self.options.conv_width, bias=True)
        self.A_log = nn.Parameter(torch.empty(cfg.n_heads))
        self.dt_bias = nn.Parameter(torch.empty(cfg.n_heads))
        self.D = nn.Parameter(torch.empty(cfg.n_heads))
        self.norm = nn.Parameter(torch.empty(cfg.d_value))
        self.out = Linear(cfg.d_value, cfg.d_model, bias=cfg.bias)

    @torch.no_grad()
    def initialise(self, gain: float) -> None:
        """A uniform in 1 .. 16, time steps log-uniform in 0.001 .. 0.1, D and the norm 1."""
        for linear in (self.project, self.out):
            nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        self.out.weight.div_(math.sqrt(self.cfg.n_layers))
        self.A_log.uniform_(*A_RANGE).log_()
        steps = torch.empty_like(self.dt_bias).uniform_(*map(math.log, DT_RANGE)).exp_()
        self.dt_bias.copy_(_softplus_inverse(steps.clamp_(min=DT_FLOOR)))
        nn.init.ones_(self.D)
        nn.init.ones_(self.norm)

    @torch.no_grad()
    def move(self) -> None:
        """Decays of e^-0.001 to e^-1.6 a token, head by head: all that there are at the start."""
        super().move()
        self._spread(DT_RANGE[0], DT_RANGE[1])

    @torch.no_grad()
    def adversarial(self) -> None:
        """Heads from those that never forget to such as keep e^-100 of a token at the next."""
        super().move()
        self._spread(1e-9, 100 / A_RANGE[1])

    def _spread(self, first: float, last: float) -> None:
        heads = self.cfg.n_heads
        steps = torch.logspace(math.log10(first), math.log10(last), heads, dtype=torch.float64)
        self.dt_bias.copy_(_softplus_inverse(steps))
        self.A_log.copy_(torch.linspace(*A_RANGE, heads, dtype=torch.float64).log())

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gate z (B, T, d_value), xBC before its convolution, and dt (B, T, H) in fp32 at
        least."""
        c = self.cfg
        z, xBC, dt = self.project(x).split([c.d_value, _convolved(c), c.n_heads], -1)
        return z, xBC, F.softplus(dt.to(state_dtype(x.dtype)) + self.dt_bias)

    def _inputs(self, xBC: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x (..., H, P), dt, A, B and C (..., G, N)."""
        c, G = self.cfg, self.options.groups
        x, B, C = xBC.split([c.d_value, G * c.key_dim, G * c.key_dim], -1)
        x = x.unflatten(-1, (c.n_heads, -1))
        return x, dt, -torch.exp(self.A_log), *(y.unflatten(-1, (G, -1)) for y in (B, C))

    def _finish(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """x, y (..., H, P)."""
        y = torch.addcmul(y, x, self.D[:, None].to(x.dtype)).flatten(-2)
        y = (y * F.silu(z)).unflatten(-1, (self.options.groups, -1))
        y = F.rms_norm(y, y.shape[-1:], eps=self.cfg.norm_eps).flatten(-2)
        return self.out(y * self.norm)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        z, xBC, dt = self._split(x)
        inputs = self._inputs(self.conv(xBC), dt)
        y, _ = self.kernel.run(*inputs, chunk=self.options.chunk)
        return self._finish(inputs[0], y, z)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> Mamba2State:
        c = self.cfg
        shape = (batch, c.n_heads, c.key_dim, c.value_dim)
        ssm = like.new_zeros(shape, dtype=state_dtype(like.dtype))
        return Mamba2State(self.conv.new_state(batch, like), ssm)

    def prefill(self, x: Tensor, context: Context, state: Mamba2State, start: int) -> Tensor:
        z, xBC, dt = self._split(x)
        inputs = self._inputs(self.conv.prefill(xBC, state.conv), dt)
        y, new = self.kernel.run(*inputs, chunk=self.options.chunk, state=state.ssm)
        state.ssm.copy_(new)
        return self._finish(inputs[0], y, z)

    def step(
        self, x: Tensor, context: Context, state: Mamba2State, position: int | Tensor
    ) -> Tensor:
        z, xBC, dt = self._split(x)
        xBC = self.conv.step(xBC, state.conv)
        inputs = self._inputs(xBC.squeeze(1), dt.squeeze(1))
        y = self.kernel.step(*inputs, state.ssm)
        return self._finish(inputs[0], y, z.squeeze(1)).unsqueeze(1)

    @staticmethod
    def defaults(size: Size, family: str, options: Mamba2Options) -> dict[str, Any]:
        """N = 128, P = 64 and twice the width, as in the paper; a model narrower than 256 has N of
        half its width, one whose channels 64 does not divide the largest power of 2 that does."""
        channels = (options.expand or 2) * size.d_model
        heads = head_count(channels, options.head_dim or math.gcd(PAPERS_HEAD_DIM, channels))
        state_dim = options.state_dim or min(PAPERS_STATE_DIM, size.d_model // 4 * 2)
        return {"n_heads": heads, "d_key": heads * state_dim, "d_value": channels}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        return _options(cfg).chunk

    @staticmethod
    def unread(kernel: Kernel) -> tuple[str, ...]:
        return () if kernel.form == "chunkwise" else ("chunk",)

    @staticmethod
    def widths(cfg: ModelConfig) -> dict[str, int]:
        return {"project": _projected(cfg)}

    @staticmethod
    def state_choices(size: Size, family: str, options: Mamba2Options) -> Iterator[Mamba2Options]:
        """Every N in steps of 8, if none is given."""
        if options.state_dim is None:
            for state_dim in range(8, 1025, 8):
                yield replace(options, state_dim=state_dim)

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """Of d into z, x, B, C and dt, and of the channels of x back."""
        return cfg.d_model * (_projected(cfg) + cfg.d_value)

    @staticmethod
    def other_parameters(cfg: ModelConfig) -> int:
        """Convolution and its bias, A, dt's bias and D of each head, the norm's weights."""
        conv = convolution.parameters(_convolved(cfg), _options(cfg).conv_width, bias=True)
        return conv + 3 * cfg.n_heads + cfg.d_value

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return _projected(cfg) + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        """The convolution, 8 FLOPs a channel, is left out, as all that is elementwise."""
        return kernel_costs.flops(*_costs(cfg, length), masked)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        return kernel_costs.backward_flops(*_costs(cfg, length))

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """S^T C, 2 N P a head; the update of S is elementwise."""
        return 2.0 * cfg.n_heads * cfg.key_dim * cfg.value_dim

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """h N P numbers a sequence in fp32 (fp64 models: fp64), and the convolution's last inputs,
        whatever the length."""
        ssm = cfg.n_heads * cfg.key_dim * cfg.value_dim * max(4, element_bytes)
        width = _options(cfg).conv_width
        return batch * (ssm + convolution.state_bytes(_convolved(cfg), width, element_bytes))


def _softplus_inverse(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
