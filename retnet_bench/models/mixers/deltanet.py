"""DeltaNet (arXiv:2406.06484): linear attention whose state is corrected by the delta rule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.fields import Count, Flag, Index, Number
from retnet_bench.kernels import KERNELS, Kernel
from retnet_bench.kernels import delta as kernel_costs
from retnet_bench.kernels.chunks import state_dtype
from retnet_bench.models import convolution
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.convolution import ShortConvolution
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, HeadOptions, Mixer, head_count

Own = TypeVar("Own", bound="DeltaNetOptions")
WIDEST_KEYS = 256
"""That all kernels of the family take."""


@dataclass(frozen=True, kw_only=True)
class DeltaNetOptions(HeadOptions):
    """Of the mixer `deltanet`."""

    execution = ("chunk",)
    chunk: Annotated[Count, Field(description="tokens of a chunk of the chunkwise form")] = 64
    expand: Annotated[
        Number | None,
        Field(
            gt=0,
            le=64,
            description="value dimension of a head, in key dimensions: by default 1, in "
            "gated_deltanet 2",
        ),
    ] = None
    conv_width: Annotated[
        Index, Field(le=64, description="taps of the convolution of q, k and v; 0: there is none")
    ] = 4
    allow_neg_eigval: Annotated[
        Flag, Field(description="beta up to 2 instead of 1, so that a key can reflect the state")
    ] = False
    gate: Annotated[Flag, Field(description="swish gate on the normed output")] = False

    def settled(self: Own, cfg: ModelConfig) -> Own:
        """`d_value` says the expansion."""
        if self.expand not in (None, cfg.value_dim / cfg.key_dim):
            raise UserError(
                f"expand is {self.expand:g}, but heads have keys of {cfg.key_dim} and values of "
                f"{cfg.value_dim}"
            )
        return replace(super().settled(cfg), expand=None)


def _options(cfg: ModelConfig) -> DeltaNetOptions:
    assert isinstance(cfg.options, DeltaNetOptions)
    return cfg.options


def _mixed_width(cfg: ModelConfig) -> int:
    """Channels of q, k and v together."""
    return 2 * cfg.d_key + cfg.d_value


def _form(cfg: ModelConfig) -> str:
    """A kernel costs what its form does."""
    return KERNELS[cfg.kernel].form


@dataclass
class DeltaState:
    """The state of the delta rule, and what the short convolution still needs."""

    memory: Tensor
    """S, (B, H, key_dim, value_dim), in fp32 at least."""
    inputs: Tensor
    """The last conv_width - 1 rows of q, k and v before the convolution, (B, ., channels)."""


class DeltaNet(Mixer):
    """O = RMSNorm(delta rule of q, k, v, beta) W_O; q, k, v = SiLU(conv(X W)), q and k of length 1;
    beta = sigmoid(X W_beta) per head, or twice that.

    Section 3 and Figure 1 of the paper: convolution of 4 taps over q, k and v each, SiLU, head
    norm with weights, no positions. Length 1 is x (|x|^2 + norm_eps)^-1/2, in fp32 before it is
    rounded. By default heads of 128, or the size's own where they are smaller.

    Deviations: W_Q, W_K, W_V start by DeepNet's gains, as in all arms (the paper: N(0, 0.02)); one
    matrix holds the three, so that a step has fewer products; filters are not decayed.
    """

    kernels = "delta"
    reference = "delta_recurrent"
    Options = DeltaNetOptions
    state_grows = False
    state_passes = 2
    rotates = False
    undecayed: ClassVar[tuple[str, ...]] = ("conv.weight", "norm.weight")
    decay: ClassVar[str] = "none"
    """Of what each decay is: of a `head`, of a `channel`, or there are none."""
    key_share: ClassVar[float] = 1.0
    """Width of all keys, in model widths."""
    widest_head: ClassVar[int] = 128
    expansion: ClassVar[float] = 1.0

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        options = _options(cfg)
        self.options = options
        self.qkv = Linear(cfg.d_model, _mixed_width(cfg), bias=cfg.bias)
        self.conv = (
            ShortConvolution(_mixed_width(cfg), options.conv_width) if options.conv_width else None
        )
        self.rates = Linear(cfg.d_model, self._rates(cfg), bias=cfg.bias)
        self.gate = self._make_gate(cfg) if options.gate else None
        self.norm = nn.RMSNorm(cfg.value_dim, eps=cfg.norm_eps)
        self.out = Linear(cfg.d_value, cfg.d_model, bias=cfg.bias)

    @classmethod
    def _rates(cls, cfg: ModelConfig) -> int:
        """Numbers a token has beside q, k, v: beta of each head, and what its decay comes from."""
        return cfg.n_heads * (2 if cls.decay == "head" else 1)

    @staticmethod
    def _make_gate(cfg: ModelConfig) -> nn.Module:
        return Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)

    def initialise(self, gain: float) -> None:
        """W_Q and W_K with gain 1, W_V with `gain`, as in all arms; the rates' maps N(0, 0.02)."""
        super().initialise(gain)
        parts = self.qkv.weight.split([self.cfg.d_key, self.cfg.d_key, self.cfg.d_value])
        for part, own in zip(parts, (1.0, 1.0, gain), strict=True):
            nn.init.xavier_normal_(part, gain=own)
        nn.init.normal_(self.rates.weight, std=0.02)

    @torch.no_grad()
    def move(self) -> None:
        """beta of every token its own."""
        super().move()
        nn.init.normal_(self.rates.weight, std=self.cfg.d_model**-0.5)

    @torch.no_grad()
    def adversarial(self) -> None:
        """beta near its ends, where keys repeat in one sequence. Nearer to 2 bf16 is wrong by
        itself: a key reflects the state at every token and no rounding is ever forgotten."""
        self.move()
        self.rates.weight[: self.cfg.n_heads].mul_(2 if self.options.allow_neg_eigval else 3)

    def _mixing(self, x: Tensor, mixed: Tensor) -> tuple[Tensor | None, ...]:
        """What the kernel takes: q, k (B, T, H, key_dim), v, beta (B, T, H), log decay or None."""
        cfg, H = self.cfg, self.cfg.n_heads
        if self.conv is None:
            mixed = F.silu(mixed)
        q, k, v = (
            part.unflatten(-1, (H, -1))
            for part in mixed.split([cfg.d_key, cfg.d_key, cfg.d_value], -1)
        )
        rates = self.rates(x)
        rates = rates.to(state_dtype(rates.dtype))
        beta = torch.sigmoid(rates[..., :H]) * (2 if self.options.allow_neg_eigval else 1)
        q, k = (_of_length_one(part, cfg.norm_eps) for part in (q, k))
        return q, k, v, beta, self._log_decay(x, rates[..., H:])

    def _log_decay(self, x: Tensor, rates: Tensor) -> Tensor | None:
        return None

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        weight = self.norm.weight.to(y.dtype)  # under autocast y is narrower
        y = F.rms_norm(y, y.shape[-1:], weight, self.cfg.norm_eps)  # (B, T, H, value_dim)
        if self.gate is not None:
            y = self._opened(self.gate(x)).view(y.shape) * y
        return self.out(y.flatten(-2))

    @staticmethod
    def _opened(gate: Tensor) -> Tensor:
        return F.silu(gate)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        mixed = self.qkv(x)
        mixed = mixed if self.conv is None else self.conv(mixed)
        y, _ = self.kernel.run(*self._mixing(x, mixed), chunk=self.options.chunk)
        return self._finish(x, y)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> DeltaState:
        c = self.cfg
        memory = torch.zeros(
            (batch, c.n_heads, c.key_dim, c.value_dim),
            dtype=state_dtype(like.dtype),
            device=like.device,
        )
        nothing = like.new_zeros(batch, 0, _mixed_width(c))
        return DeltaState(memory, self.conv.new_state(batch, like) if self.conv else nothing)

    def prefill(self, x: Tensor, context: Context, state: DeltaState, start: int) -> Tensor:
        mixed = self.qkv(x)
        mixed = mixed if self.conv is None else self.conv.prefill(mixed, state.inputs)
        inputs = self._mixing(x, mixed)
        y, new = self.kernel.run(*inputs, chunk=self.options.chunk, state=state.memory)
        state.memory.copy_(new)
        return self._finish(x, y)

    def step(
        self, x: Tensor, context: Context, state: DeltaState, position: int | Tensor
    ) -> Tensor:
        mixed = self.qkv(x)
        mixed = mixed if self.conv is None else self.conv.step(mixed, state.inputs)
        token = (None if part is None else part.squeeze(1) for part in self._mixing(x, mixed))
        return self._finish(x, self.kernel.step(*token, state.memory).unsqueeze(1))

    @classmethod
    def defaults(cls, size: Size, family: str, options: DeltaNetOptions) -> dict[str, Any]:
        """The fewest heads whose keys are no wider than the size's RetNet's and `widest_head`."""
        d_key = int(cls.key_share * size.d_model)
        widest = min(cls.widest_head, size.retention_head_dim)
        heads = head_count(d_key, options.head_dim) if options.head_dim else _heads(d_key, widest)
        expand = options.expand or cls.expansion
        if (expand * d_key) % heads:
            raise UserError(
                f"expand {expand:g} of keys of {d_key // heads} is no whole value dimension"
            )
        return {"n_heads": heads, "d_key": d_key, "d_value": int(expand * d_key)}

    @classmethod
    def state_choices(
        cls, size: Size, family: str, options: DeltaNetOptions
    ) -> Iterator[DeltaNetOptions]:
        """Key dimensions by 8 up to 256, and expansions by quarters up to twice the mixer's own
        (wider values would leave nothing for a feed-forward), as far as neither is given."""
        d_key = int(cls.key_share * size.d_model)
        keys = [n for n in range(8, min(d_key, WIDEST_KEYS) + 1, 8) if d_key % n == 0]
        quarters = [n / 4 for n in range(1, int(8 * cls.expansion) + 1)]
        for expand in [options.expand] if options.expand else quarters:
            for head_dim in [options.head_dim] if options.head_dim else keys:
                yield replace(options, expand=expand, head_dim=head_dim)

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        return _options(cfg).chunk

    @staticmethod
    def unread(kernel: Kernel) -> tuple[str, ...]:
        return () if kernel.form == "chunkwise" else ("chunk",)

    @staticmethod
    def widths(cfg: ModelConfig) -> dict[str, int]:
        return {"qkv": _mixed_width(cfg)}

    @classmethod
    def matrix_parameters(cls, cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_O, W_G when gated (d x d_value); the rates' (d x h each)."""
        gate = cfg.d_value if _options(cfg).gate else 0
        return cfg.d_model * (_mixed_width(cfg) + cls._rates(cfg) + gate + cfg.d_value)

    @classmethod
    def other_parameters(cls, cfg: ModelConfig) -> int:
        """Filters, the head norm's weights, A_log and dt_bias of each head."""
        filters = convolution.parameters(_mixed_width(cfg), _options(cfg).conv_width)
        return filters + cfg.value_dim + (2 * cfg.n_heads if cls.decay == "head" else 0)

    @classmethod
    def bias_count(cls, cfg: ModelConfig) -> int:
        gate = cfg.d_value if _options(cfg).gate else 0
        return _mixed_width(cfg) + cls._rates(cfg) + gate + cfg.d_model

    @classmethod
    def mixing_flops(cls, cfg: ModelConfig, length: int, masked: bool) -> float:
        dims = (cfg.key_dim, cfg.value_dim)
        if _form(cfg) == "recurrent":
            return cfg.n_heads * kernel_costs.recurrent_flops(length, *dims)
        by_channel = cls.decay == "channel"
        return cfg.n_heads * kernel_costs.chunkwise_flops(
            length, _options(cfg).chunk, *dims, masked, by_channel
        )

    @classmethod
    def uncounted_flops(cls, cfg: ModelConfig, length: int) -> float:
        """The triangular inverses; the convolution, 2 conv_width FLOPs a channel, is no product."""
        if _form(cfg) == "recurrent":
            return 0.0
        return cfg.n_heads * kernel_costs.inverse_flops(length, _options(cfg).chunk)

    @classmethod
    def backward_flops(cls, cfg: ModelConfig, length: int) -> float:
        """Two products for each of the forward's; one, and a solve, for each inverse."""
        dims = (cfg.key_dim, cfg.value_dim)
        if _form(cfg) == "recurrent":
            one = kernel_costs.recurrent_backward_flops(length, *dims, cls.decay != "none")
        else:
            one = kernel_costs.chunkwise_backward_flops(
                length, _options(cfg).chunk, *dims, cls.decay == "channel"
            )
        return cfg.n_heads * one

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """S^T k and S^T q, 2 d_k d_v a head each; the update of S is elementwise."""
        return cfg.n_heads * kernel_costs.recurrent_flops(1, cfg.key_dim, cfg.value_dim)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """h d_k d_v numbers in fp32 (fp64 models: fp64), and the convolution's last inputs."""
        memory = cfg.d_key * cfg.value_dim * max(4, element_bytes)
        width = _options(cfg).conv_width
        kept = convolution.state_bytes(_mixed_width(cfg), width, element_bytes) if width else 0
        return batch * (memory + kept)


def start_steps(dt_bias: Tensor) -> None:
    """softplus(dt_bias) log-uniform in [0.001, 0.1], as in Mamba-2's code and all that follow."""
    dt = torch.empty_like(dt_bias).uniform_(math.log(1e-3), math.log(0.1)).exp_()
    dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))


def _of_length_one(x: Tensor, eps: float) -> Tensor:
    """x (|x|^2 + eps)^-1/2 over the last dimension, rounded once: a key whose length is off lets
    the state grow."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=state_dtype(x.dtype))
    return (x * torch.rsqrt(length.square() + eps)).to(x.dtype)


def _heads(width: int, widest: int) -> int:
    """The fewest heads of an even dimension up to `widest` that divide the width."""
    counts = range(-(-width // widest), width // 2 + 1)
    return next((n for n in counts if width % (2 * n) == 0), 1)
