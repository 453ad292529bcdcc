"""Gated multi-scale retention (arXiv:2307.08621v4, section 2.2, Eq. 8)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.kernels import KERNELS
from retnet_bench.kernels import retention as kernel_costs
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.layers import rotate
from retnet_bench.models.mixers.base import Angles, Mixer, head_count


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
    options = ("chunk", "decay", "gate", "head_norm", "head_dim")
    state_grows = False
    state_passes = 2
    log_decay: Tensor

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg)
        self.query = nn.Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.key = nn.Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.value = nn.Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.gate = nn.Linear(cfg.d_model, cfg.d_value, bias=cfg.bias) if cfg.gate else None
        self.out = nn.Linear(cfg.d_value, cfg.d_model, bias=cfg.bias)
        self.register_exact("log_decay", log_decay(cfg.decay, cfg.n_heads))

    def _project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        H = self.cfg.n_heads
        q, k, v = (f(x).unflatten(-1, (H, -1)) for f in (self.query, self.key, self.value))
        return rotate(q, angles), rotate(k, angles), v  # (B, T, H, d_k), (B, T, H, d_v)

    def _head_norm(self, y: Tensor) -> Tensor:
        """Normalise each head's output on its own, without affine weights (Eq. 8)."""
        if self.cfg.head_norm == "none":
            return y
        norm = F.layer_norm if self.cfg.head_norm == "group" else F.rms_norm
        if y.is_contiguous():
            return norm(y, y.shape[-1:], eps=self.cfg.norm_eps)
        y = y.transpose(1, 2)  # as chunkwise leaves it, head by head: normed there, not copied
        return norm(y, y.shape[-1:], eps=self.cfg.norm_eps).transpose(1, 2)

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        y = self._head_norm(y)  # (B, T, H, d_v)
        if self.gate is not None:
            y = F.silu(self.gate(x)).view(y.shape) * y
        return self.out(y.flatten(-2))

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        y, _ = self.kernel.run(*self._project(x, angles), self.log_decay, chunk=self.cfg.chunk)
        return self._finish(x, y)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> Tensor:
        c = self.cfg
        dtype = kernel_costs.state_dtype(like.dtype)
        return torch.zeros(
            batch, c.n_heads, c.key_dim, c.value_dim, dtype=dtype, device=like.device
        )

    def prefill(self, x: Tensor, angles: Angles, state: Tensor, start: int) -> Tensor:
        q, k, v = self._project(x, angles)
        y, new = self.kernel.run(q, k, v, self.log_decay, chunk=self.cfg.chunk, state=state)
        state.copy_(new)
        return self._finish(x, y)

    def step(self, x: Tensor, angles: Angles, state: Tensor, position: int | Tensor) -> Tensor:
        q, k, v = (z.squeeze(1) for z in self._project(x, angles))  # (B, H, d)
        y = self.kernel.step(q, k, v, self.log_decay, state)
        return self._finish(x, y.unsqueeze(1))

    def fork(self, state: Tensor) -> Tensor:
        return state.clone()

    @staticmethod
    def defaults(size: Size, family: str, options: dict[str, Any]) -> dict[str, Any]:
        """d_v = 2 d (paper), 5/3 d (modern), or d without the gate: Table 6 then uses the
        Transformer's allocation. The modern family's head norm is RMS, as all its norms."""
        d = size.d_model
        n_heads = head_count(d, options.get("head_dim", size.retention_head_dim))
        factor = 1.0 if not options.get("gate", True) else 2.0 if family == "paper" else 5 / 3
        value_dim = (
            round(factor * d / n_heads / 8) * 8 if family == "modern" else factor * d // n_heads
        )
        norm = "group" if family == "paper" else "rms"
        d_value = int(value_dim) * n_heads
        return {"n_heads": n_heads, "d_key": d, "d_value": d_value, "head_norm": norm}

    @staticmethod
    def parameter_count(cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_O and W_G when gated (d x d_value)."""
        return cfg.d_model * (2 * cfg.d_key + (3 if cfg.gate else 2) * cfg.d_value)

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return 2 * cfg.d_key + (2 if cfg.gate else 1) * cfg.d_value + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        dims = (cfg.key_dim, cfg.value_dim, masked)
        if _form(cfg) == "parallel":
            return cfg.n_heads * kernel_costs.parallel_flops(length, *dims)
        if _form(cfg) == "recurrent":
            return cfg.n_heads * kernel_costs.recurrent_flops(length, *dims[:2])
        return cfg.n_heads * kernel_costs.chunkwise_flops(length, cfg.chunk, *dims)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """Two products for each of the forward's, but for those that no loss depends on."""
        twice = 2 * Retention.mixing_flops(cfg, length, masked=True)
        if _form(cfg) == "recurrent":
            return twice
        dims = (cfg.key_dim, cfg.value_dim)
        if _form(cfg) == "parallel":  # the state after the last token reaches no loss
            return twice - cfg.n_heads * 4.0 * length * math.prod(dims)
        return twice - cfg.n_heads * kernel_costs.unused_backward_flops(length, cfg.chunk, *dims)

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """q S, 2 d_k d_v a head; the update of S is elementwise."""
        return cfg.n_heads * kernel_costs.recurrent_flops(1, cfg.key_dim, cfg.value_dim)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """h d_k d_v numbers a sequence in fp32 (fp64 models: fp64), whatever the length."""
        return batch * cfg.n_heads * cfg.key_dim * cfg.value_dim * max(4, element_bytes)
