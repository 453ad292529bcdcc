"""Layers both arms share: exact constants, rotation, norms, feed-forward, initialisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.models.config import ModelConfig


class Exact(nn.Module):
    """A module whose constants stay in fp32 (fp64 in an fp64 model) through `.to(bfloat16)`.

    Decay and angles cast to bf16 are wrong from position 257 on; so after every move the constants
    are made again from the fp64 originals.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def register_exact(self, name: str, value: Tensor) -> None:
        self._exact[name] = value.double().cpu()
        start = self._exact[name].to(torch.get_default_device(), torch.float32)
        self.register_buffer(name, start, persistent=False)

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        for name, exact in self._exact.items():
            moved = getattr(self, name)
            dtype = torch.float64 if moved.dtype == torch.float64 else torch.float32
            setattr(self, name, exact.to(moved.device, dtype))
        return self


class Rotary(Exact):
    """Theta of Eq. 5: rotates pairs (i, i + d/2) of a head by position times 10000^(-2i/d)."""

    frequency: Tensor

    def __init__(self, d_head: int) -> None:
        super().__init__()
        pairs = torch.arange(0, d_head, 2, dtype=torch.float64, device="cpu")
        self.register_exact("frequency", 10000.0 ** (-pairs / d_head))

    def at(self, start: int | Tensor, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin for positions start .. start + length - 1, each (length, 1, d/2).

        `start` may be a tensor of one position, so that a captured graph can move along.
        """
        steps = torch.arange(length, device=self.frequency.device, dtype=self.frequency.dtype)
        angle = ((steps + start)[:, None] * self.frequency)[:, None, :]
        return angle.cos(), angle.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x (B, T, H, d); the product is taken in the angles' precision."""
    cos, sin = angles
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def make_norm(cfg: ModelConfig, width: int) -> nn.Module:
    """Pre-norm of a block: LayerNorm (paper) or RMSNorm (modern), both with weights."""
    if cfg.family == "paper":
        return nn.LayerNorm(width, eps=cfg.norm_eps)
    return nn.RMSNorm(width, eps=cfg.norm_eps)


def drop(x: Tensor, module: nn.Module, cfg: ModelConfig) -> Tensor:
    """Dropout while `module` is training; no work at all where none is asked for."""
    return F.dropout(x, cfg.dropout) if cfg.dropout and module.training else x


def norm_parameters(cfg: ModelConfig) -> int:
    return cfg.d_model * (2 if cfg.family == "paper" else 1)


class FeedForward(nn.Module):
    """gelu(x W1) W2 (section 2.3), or SwiGLU (modern). No biases."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(cfg.d_model, cfg.d_ffn, bias=False)
        self.down = nn.Linear(cfg.d_ffn, cfg.d_model, bias=False)
        modern = cfg.family == "modern"
        self.gate = nn.Linear(cfg.d_model, cfg.d_ffn, bias=False) if modern else None

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))
        return self.down(F.silu(self.gate(x)) * self.up(x))


def ffn_matrices(cfg: ModelConfig) -> int:
    """How many d_model x d_ffn matrices a feed-forward has."""
    return 3 if cfg.family == "modern" else 2


def initialise(model: nn.Module, cfg: ModelConfig) -> None:
    """DeepNet's gains for both arms: Xavier normal, queries and keys with gain 1, all else with
    (8 L)^-1/4 (Wang et al. 2022, decoder-only); embedding N(0, d^-1/2)."""
    gain = (8 * cfg.n_layers) ** -0.25
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            scores = name.endswith((".query", ".key"))
            nn.init.xavier_normal_(module.weight, gain=1.0 if scores else gain)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=cfg.d_model**-0.5)
