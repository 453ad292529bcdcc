"""Gated multi-scale retention (arXiv:2307.08621v4, section 2.2, Eq. 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, get_args

import torch
from pydantic import Field
from torch import Tensor

from retnet_bench.fields import Count, Flag
from retnet_bench.kernels import KERNELS, Kernel
from retnet_bench.kernels import retention as kernel_costs
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.gated_heads import GatedHeads
from retnet_bench.models.joined import Joined
from retnet_bench.models.layers import norm_heads
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, HeadOptions, Mixer, head_count

Decay = Literal["experiments", "eq8", "single", "none"]
DECAYS: tuple[Decay, ...] = get_args(Decay)


Own = TypeVar("Own", bound="RetentionOptions")


@dataclass(frozen=True, kw_only=True)
class RetentionOptions(HeadOptions):
    """Of the mixer `retention`."""

    execution = ("chunk",)
    chunk: Annotated[Count, Field(description="chunk length B of Eq. 7")] = 128
    decay: Annotated[
        Decay | None,
        Field(
            description="gamma of each head: of section 3.1 (experiments, by default), of Eq. 8 "
            "(eq8), 127/128 (single), 1 (none)"
        ),
    ] = None
    gate: Annotated[Flag | None, Field(description="swish gate of Eq. 8; on by default")] = None
    head_norm: Annotated[
        Literal["group", "rms", "none"] | None,
        Field(
            description="norm of each head in Eq. 8, without affine weights: group subtracts the "
            "mean (by default in the family paper), rms does not (by default in modern)"
        ),
    ] = None

    def settled(self: Own, cfg: ModelConfig) -> Own:
        """The modern family's head norm is RMS, as all its norms."""
        return replace(
            super().settled(cfg),
            decay=self.decay or "experiments",
            gate=self.gate is not False,
            head_norm=self.head_norm or ("group" if cfg.family == "paper" else "rms"),
        )


def _options(cfg: ModelConfig) -> RetentionOptions:
    assert isinstance(cfg.options, RetentionOptions)
    return cfg.options


def log_decay(schedule: str, n_heads: int) -> Tensor:
    """ln(gamma) of each head, (n_heads,) in fp64.

    `experiments` (section 3.1): gamma = 1 - exp(linspace(ln 1/32, ln 1/512, h)).
    `eq8`: gamma = 1 - 2^(-5 - i). `single` (Table 6): 127/128. `none` (Table 6): 1.
    """
    head = torch.arange(n_heads, dtype=torch.float64, device="cpu")
    if schedule == "experiments":
        # 1 - gamma; log1p keeps the digits that 1 - 2^-20 would lose.
        lost = torch.exp(
            torch.linspace(
                math.log(1 / 32), math.log(1 / 512), n_heads, dtype=torch.float64, device="cpu"
            )
        )
    elif schedule == "eq8":
        lost = 2.0 ** (-5 - head)
    else:
        lost = torch.full_like(head, 1 / 128 if schedule == "single" else 0.0)
    return torch.log1p(-lost)


def _form(cfg: ModelConfig) -> str:
    """A kernel costs what its form does."""
    return KERNELS[cfg.kernel].form


class Retention(Mixer):
    """MSR(X) = (swish(X W_G) * GroupNorm(heads)) W_O, heads by any retention kernel."""

    kernels = "retention"
    reference = "recurrent"
    Options = RetentionOptions
    state_grows = False
    state_passes = 2
    columns = ("query", "key", "value", "gate")
    rows = ("out",)
    per_head = ("log_decay",)
    log_decay: Tensor

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.options = _options(cfg)
        assert self.options.decay is not None
        self.query = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.key = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.value = Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.gate = Linear(cfg.d_model, cfg.d_value, bias=cfg.bias) if self.options.gate else None
        norm = self.options.head_norm
        assert norm is not None
        shape = (cfg.d_value, cfg.d_model)
        self.out = (
            Linear(*shape, bias=cfg.bias)
            if self.gate is None
            else GatedHeads(*shape, bias=cfg.bias, norm=norm, eps=cfg.norm_eps)
        )
        gate = () if self.gate is None else ((self.gate,),)
        self.joined = Joined((self.query, self.key), (self.value,), *gate)
        self.register_exact("log_decay", log_decay(self.options.decay, cfg.n_heads))

    def _project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        H = self.cfg.n_heads
        q, k, v = (f(x).unflatten(-1, (H, -1)) for f in (self.query, self.key, self.value))
        return context.rotate(q), context.rotate(k), v  # (B, T, H, d_k), (B, T, H, d_v)

    def _gate(self, x: Tensor) -> Tensor | None:
        return None if self.gate is None else self.gate(x)

    def _finish(self, y: Tensor, gate: Tensor | None) -> Tensor:
        """Heads y (B, T, H, d_v) and X W_G -> (B, T, d)."""
        if gate is not None:
            return self.out(y, gate)
        kind = self.options.head_norm
        if kind != "none":
            y = norm_heads(y, self.cfg.norm_eps, subtract_mean=kind == "group")
        return self.out(y.flatten(-2))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y, _ = self.kernel.run(*self._project(x, context), self.log_decay, chunk=self.options.chunk)
        return self._finish(y, self._gate(x))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> Tensor:
        c = self.cfg
        dtype = kernel_costs.state_dtype(like.dtype)
        return torch.zeros(
            batch, c.n_heads, c.key_dim, c.value_dim, dtype=dtype, device=like.device
        )

    def prefill(self, x: Tensor, context: Context, state: Tensor, start: int) -> Tensor:
        q, k, v = self._project(x, context)
        y, new = self.kernel.run(q, k, v, self.log_decay, chunk=self.options.chunk, state=state)
        state.copy_(new)
        return self._finish(y, self._gate(x))

    def step(self, x: Tensor, context: Context, state: Tensor, position: int | Tensor) -> Tensor:
        qk, v, *gate = self.joined(x)
        q, k = context.rotate(qk.view(len(x), 2 * self.cfg.n_heads, -1)).chunk(2, 1)  # (B, H, d)
        v = v.view(len(x), self.cfg.n_heads, -1)
        y = self.kernel.step(q, k, v, self.log_decay, state)
        return self._finish(y.unsqueeze(1), gate[0] if gate else None)

    @staticmethod
    def defaults(size: Size, family: str, options: RetentionOptions) -> dict[str, Any]:
        """d_v = 2 d (paper), 5/3 d (modern), or d without the gate: Table 6 then uses the
        Transformer's allocation."""
        d = size.d_model
        n_heads = head_count(d, options.head_dim or size.retention_head_dim)
        factor = 1.0 if options.gate is False else 2.0 if family == "paper" else 5 / 3
        value_dim = (
            round(factor * d / n_heads / 8) * 8 if family == "modern" else factor * d // n_heads
        )
        return {"n_heads": n_heads, "d_key": d, "d_value": int(value_dim) * n_heads}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        return _options(cfg).chunk

    @staticmethod
    def unread(kernel: Kernel) -> tuple[str, ...]:
        return () if kernel.form == "chunkwise" else ("chunk",)

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_O and W_G when gated (d x d_value)."""
        return cfg.d_model * (2 * cfg.d_key + (3 if _options(cfg).gate else 2) * cfg.d_value)

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return 2 * cfg.d_key + (2 if _options(cfg).gate else 1) * cfg.d_value + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        dims = (cfg.key_dim, cfg.value_dim, masked)
        if _form(cfg) == "parallel":
            return cfg.n_heads * kernel_costs.parallel_flops(length, *dims)
        if _form(cfg) == "recurrent":
            return cfg.n_heads * kernel_costs.recurrent_flops(length, *dims[:2])
        return cfg.n_heads * kernel_costs.chunkwise_flops(length, _options(cfg).chunk, *dims)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """Two products for each of the forward's, but for those that no loss depends on; chunkwise
        computes its scores again."""
        twice = 2 * Retention.mixing_flops(cfg, length, masked=True)
        if _form(cfg) == "recurrent":
            return twice
        dims = (cfg.key_dim, cfg.value_dim)
        if _form(cfg) == "parallel":  # the state after the last token reaches no loss
            return twice - cfg.n_heads * 4.0 * length * math.prod(dims)
        chunk = _options(cfg).chunk
        unused = kernel_costs.unused_backward_flops(length, chunk, *dims)
        return twice + cfg.n_heads * (kernel_costs.scores_flops(length, chunk, dims[0]) - unused)

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """q S, 2 d_k d_v a head; the update of S is elementwise."""
        return cfg.n_heads * kernel_costs.recurrent_flops(1, cfg.key_dim, cfg.value_dim)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """h d_k d_v numbers a sequence in fp32 (fp64 models: fp64), whatever the length."""
        return batch * cfg.n_heads * cfg.key_dim * cfg.value_dim * max(4, element_bytes)
