"""Causal softmax attention with a preallocated (static) KV cache: the baseline to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from retnet_bench.kernels import KERNELS
from retnet_bench.kernels import attention as kernel_costs
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.mixers.base import Context, HeadOptions, Mixer, head_count


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(HeadOptions):
    """Of the mixer `attention`."""


@dataclass
class KVCache:
    """Keys and values of every position, (B, H, capacity, d), filled from the left."""

    keys: Tensor
    values: Tensor
    window: int
    """Slots a captured graph reads; an eager step reads exactly those filled."""


class Attention(Mixer):
    """softmax(Q K^T / sqrt(d)) V with rotary positions, by any attention kernel."""

    kernels = "attention"
    reference = "math"
    Options = AttentionOptions
    state_grows = True
    state_passes = 1

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.query = nn.Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.key = nn.Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.value = nn.Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.out = nn.Linear(cfg.d_value, cfg.d_model, bias=cfg.bias)

    def _project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        H = self.cfg.n_heads
        q, k, v = (f(x).unflatten(-1, (H, -1)) for f in (self.query, self.key, self.value))
        return context.rotate(q), context.rotate(k), v  # (B, T, H, d)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.out(self.kernel.run(*self._project(x, context)).flatten(-2))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> KVCache:
        c = self.cfg
        keys, values = (
            torch.zeros(batch, c.n_heads, capacity, dim, dtype=like.dtype, device=like.device)
            for dim in (c.key_dim, c.value_dim)
        )
        return KVCache(keys, values, window=capacity)

    def prefill(self, x: Tensor, context: Context, state: KVCache, start: int) -> Tensor:
        q, k, v = self._project(x, context)
        end = start + x.shape[1]
        state.keys[:, :, start:end] = k.transpose(1, 2)
        state.values[:, :, start:end] = v.transpose(1, 2)
        if start:
            # Under autocast the queries are narrower than a cache of the weights' dtype.
            k, v = (c[:, :, :end].transpose(1, 2).to(q.dtype) for c in (state.keys, state.values))
        return self.out(self.kernel.run(q, k, v).flatten(-2))

    def step(self, x: Tensor, context: Context, state: KVCache, position: int | Tensor) -> Tensor:
        q, k, v = (z.transpose(1, 2) for z in self._project(x, context))  # (B, H, 1, d)
        if isinstance(position, int):
            assert position < state.keys.shape[2], "the KV cache is full"
            state.keys[:, :, position : position + 1] = k
            state.values[:, :, position : position + 1] = v
            keys, values = (c[:, :, : position + 1] for c in (state.keys, state.values))
            mask = None
        else:
            state.keys.index_copy_(2, position, k)
            state.values.index_copy_(2, position, v)
            keys, values = (c[:, :, : state.window] for c in (state.keys, state.values))
            mask = torch.arange(state.window, device=x.device) <= position
        y = self.kernel.step(q, keys, values, mask)  # (B, H, 1, d)
        return self.out(y.transpose(1, 2).flatten(-2))

    def fork(self, state: KVCache) -> KVCache:
        """The same cache: slots up to a position don't change when later ones are written."""
        return state

    @staticmethod
    def defaults(size: Size, family: str, options: AttentionOptions) -> dict[str, Any]:
        d = size.d_model
        n_heads = head_count(d, options.head_dim or size.attention_head_dim)
        return {"n_heads": n_heads, "d_key": d, "d_value": d}

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_O (d x d_value)."""
        return cfg.d_model * 2 * (cfg.d_key + cfg.d_value)

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return 2 * cfg.d_key + cfg.d_value + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        return cfg.n_heads * kernel_costs.forward_flops(length, cfg.key_dim, masked)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """Two products for each of the forward's; fused kernels compute the scores once more."""
        factor = 2.0 if KERNELS[cfg.kernel].form == "quadratic" else 2.5
        return factor * Attention.mixing_flops(cfg, length, masked=True)

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """q K^T and scores V over the position + 1 tokens in the cache."""
        return 2.0 * (position + 1) * (cfg.d_key + cfg.d_value)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """Keys and values of every position: d_key + d_value numbers a token."""
        return batch * length * (cfg.d_key + cfg.d_value) * element_bytes
