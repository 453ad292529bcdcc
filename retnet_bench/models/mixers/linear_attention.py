"""The Linear Transformer (arXiv:2006.16236): attention without softmax, as a sum over the past."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import torch
import torch.nn as nn
from pydantic import Field
from torch import Tensor

from retnet_bench.fields import Count, Flag
from retnet_bench.kernels import KERNELS, Kernel
from retnet_bench.kernels import linear as kernel_costs
from retnet_bench.kernels.linear import LinearState, feature
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, HeadOptions, Mixer, head_count

Own = TypeVar("Own", bound="LinearAttentionOptions")
EXTREME = 6.0
"""Size of the adversarial queries and keys before their feature map: e^-6 to 7."""


@dataclass(frozen=True, kw_only=True)
class LinearAttentionOptions(HeadOptions):
    """Of the mixer `linear_attention`."""

    execution = ("chunk",)
    chunk: Annotated[Count, Field(description="tokens of a chunk of the chunkwise form")] = 64
    turned: Annotated[
        Flag | None,
        Field(description="rotate queries and keys in the numerator; off by default"),
    ] = None

    def settled(self: Own, cfg: ModelConfig) -> Own:
        return replace(super().settled(cfg), turned=bool(self.turned))


def _options(cfg: ModelConfig) -> LinearAttentionOptions:
    assert isinstance(cfg.options, LinearAttentionOptions)
    return cfg.options


class LinearAttention(Mixer):
    """phi(Q) (phi(K)^T V) over phi(Q) (phi(K)^T 1), causal, phi = elu + 1 (section 3.2 to 3.4);
    then W_O.

    No decay, no gate, no head norm. The denominator has an eps of 1e-6, as the authors' code, which
    belongs to the function: it is not the config's. Positions: the paper adds them to the
    embedding, and RetNet's Table 5 does not say; here there are none (a causal sum without decay
    knows the length of its past alone), or, `turned`, those of the other mixers in the numerator:
    a rotated denominator may reach 0.
    """

    kernels = "linear"
    reference = "linear_recurrent"
    Options = LinearAttentionOptions
    state_grows = False
    state_passes = 2
    columns = ("query", "key", "value")
    rows = ("out",)

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.query = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.key = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.value = Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.out = Linear(cfg.d_value, cfg.d_model, bias=cfg.bias)

    @torch.no_grad()
    def adversarial(self) -> None:
        """Features close to 0 beside large ones."""
        super().move()
        for map_ in (self.query, self.key):
            nn.init.normal_(map_.weight, std=EXTREME / 3 * self.cfg.d_model**-0.5)

    def _project(self, x: Tensor, context: Context) -> tuple[list[Tensor], dict[str, Any]]:
        """q, k, v (B, T, H, d), and what else kernels take."""
        maps = (self.query, self.key, self.value)
        q, k, v = (f(x).unflatten(-1, (self.cfg.n_heads, -1)) for f in maps)
        q, k = feature(q), feature(k)
        turned = (context.rotate(q), context.rotate(k)) if _options(self.cfg).turned else None
        return [q, k, v], {"turned": turned}

    def forward(self, x: Tensor, context: Context) -> Tensor:
        inputs, more = self._project(x, context)
        y, _ = self.kernel.run(*inputs, chunk=_options(self.cfg).chunk, **more)
        return self.out(y.flatten(-2))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> LinearState:
        c = self.cfg
        k, v = (like.new_empty(batch, 0, c.n_heads, dim) for dim in (c.key_dim, c.value_dim))
        return kernel_costs.empty_state(k, v)

    def prefill(self, x: Tensor, context: Context, state: LinearState, start: int) -> Tensor:
        inputs, more = self._project(x, context)
        y, new = self.kernel.run(*inputs, chunk=_options(self.cfg).chunk, state=state, **more)
        state.sums.copy_(new.sums)
        state.keys.copy_(new.keys)
        return self.out(y.flatten(-2))

    def step(
        self, x: Tensor, context: Context, state: LinearState, position: int | Tensor
    ) -> Tensor:
        inputs, more = self._project(x, context)
        turned = more["turned"] and tuple(z.squeeze(1) for z in more["turned"])
        y = self.kernel.step(*(z.squeeze(1) for z in inputs), state, turned=turned)
        return self.out(y.flatten(-2).unsqueeze(1))

    @staticmethod
    def defaults(size: Size, family: str, options: LinearAttentionOptions) -> dict[str, Any]:
        """The Transformer's heads."""
        d = size.d_model
        n_heads = head_count(d, options.head_dim or size.attention_head_dim)
        return {"n_heads": n_heads, "d_key": d, "d_value": d}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        return _options(cfg).chunk

    @staticmethod
    def unread(kernel: Kernel) -> tuple[str, ...]:
        return () if kernel.form == "chunkwise" else ("chunk",)

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_O (d x d_value)."""
        return cfg.d_model * 2 * (cfg.d_key + cfg.d_value)

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return 2 * cfg.d_key + cfg.d_value + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        return cfg.n_heads * kernel_costs.flops(*_costs(cfg, length), masked)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        return cfg.n_heads * kernel_costs.backward_flops(*_costs(cfg, length))

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """q S, 2 d_k d_v a head; update and denominator are elementwise."""
        return cfg.n_heads * kernel_costs.recurrent_flops(1, cfg.key_dim, cfg.value_dim)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """h d_k (d_v + 1) numbers a sequence in fp32 (fp64 models: fp64), whatever the length."""
        return batch * cfg.d_key * (cfg.value_dim + 1) * max(4, element_bytes)


def _costs(cfg: ModelConfig, length: int) -> tuple[str, int, int, int, int, bool]:
    """What FLOPs depend on: a kernel costs what its form does."""
    own, form = _options(cfg), KERNELS[cfg.kernel].form
    return form, length, own.chunk, cfg.key_dim, cfg.value_dim, bool(own.turned)
