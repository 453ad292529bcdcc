"""Causal softmax attention with a preallocated (static) KV cache: the baseline to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS, Setting
from retnet_bench.kernels import attention as kernel_costs
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.joined import Joined
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, HeadOptions, Mixer, head_count
from retnet_bench.models.options import MixerOptions

Own = TypeVar("Own", bound="AttentionOptions")


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(HeadOptions):
    """Of the mixer `attention`."""

    kv_heads: Annotated[
        Count | None,
        Field(
            description="heads of keys and values, each shared by as many query heads "
            "(grouped-query attention); by default as many as heads"
        ),
    ] = None
    window: Annotated[
        Count | None,
        Field(description="tokens that a query sees, the last of them its own; all by default"),
    ] = None

    def settled(self: Own, cfg: ModelConfig) -> Own:
        """As many heads of keys as of queries are not said."""
        if self.kv_heads and cfg.n_heads % self.kv_heads:
            fitting = (n for n in range(1, min(cfg.n_heads, 256) + 1) if cfg.n_heads % n == 0)
            raise UserError(
                f"kv_heads {self.kv_heads} does not divide the {cfg.n_heads} heads; choose one of "
                f"{', '.join(map(str, fitting))}"
            )
        shared = None if self.kv_heads == cfg.n_heads else self.kv_heads
        return replace(super().settled(cfg), kv_heads=shared)

    def checked(self: Own) -> Own:
        """A window of at most as many tokens as a chunk has by default: step by step through a
        longer one takes minutes."""
        return replace(self, window=self.window and min(self.window, 128))


def _options(cfg: ModelConfig) -> AttentionOptions:
    assert isinstance(cfg.options, AttentionOptions)
    return cfg.options


def _kv_heads(cfg: ModelConfig) -> int:
    return _options(cfg).kv_heads or cfg.n_heads


def _kv_widths(cfg: ModelConfig) -> tuple[int, int]:
    """Total widths of keys and of values."""
    return _kv_heads(cfg) * cfg.key_dim, _kv_heads(cfg) * cfg.value_dim


@dataclass
class KVCache:
    """Keys (rotated) and values of every position, (B, G, capacity, d), filled from the left; or of
    the last `rows` positions, position p in slot p modulo rows: softmax needs no order."""

    keys: Tensor
    values: Tensor
    window: int
    """Slots a captured graph reads; an eager step reads exactly those filled."""
    ring: bool = False

    @property
    def rows(self) -> int:
        return self.keys.shape[2]

    def extend(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Take in k, v (B, T, G, d) of the tokens from `start` on. Returns those of all tokens that
        they may see, (B, S, G, d)."""
        end = start + k.shape[1]
        if self.ring and end > self.rows:
            return self._turn(k, v, start)
        self.keys[:, :, start:end] = k.transpose(1, 2)
        self.values[:, :, start:end] = v.transpose(1, 2)
        if not start:
            return k, v
        # Under autocast k is narrower than a cache of the weights' dtype.
        k, v = (c[:, :, :end].transpose(1, 2).to(k.dtype) for c in (self.keys, self.values))
        return k, v

    def _turn(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """`extend` where slots are written again: what they held is read before."""
        end, rows, device = start + k.shape[1], self.rows, k.device
        old = torch.arange(max(0, start - rows), start, device=device) % rows
        new = torch.arange(max(start, end - rows), end, device=device) % rows
        seen = []
        for cache, fresh in ((self.keys, k), (self.values, v)):
            before = cache[:, :, old].transpose(1, 2).to(fresh.dtype)
            seen.append(torch.cat([before, fresh], 1) if start else fresh)
            cache.index_copy_(2, new, fresh[:, -len(new) :].transpose(1, 2).to(cache.dtype))
        return seen[0], seen[1]


class Attention(Mixer):
    """softmax(Q K^T / sqrt(d)) V with rotary positions, by any attention kernel; with grouped heads
    (arXiv:2305.13245) and a sliding window (arXiv:2004.05150) where its options say so."""

    kernels = "attention"
    reference = "math"
    Options = AttentionOptions
    state_grows = True
    state_passes = 1
    columns = ("query", "key", "value")
    rows = ("out",)

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        d_key, d_value = _kv_widths(cfg)
        self.query = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.key = Linear(cfg.d_model, d_key, bias=cfg.bias)
        self.value = Linear(cfg.d_model, d_value, bias=cfg.bias)
        self.out = Linear(cfg.d_value, cfg.d_model, bias=cfg.bias)
        self.joined = Joined((self.query, self.key), (self.value,))
        window = _options(cfg).window
        self.mix = partial(self.kernel.run, window=window) if window else self.kernel.run

    def _project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        H, G = self.cfg.n_heads, _kv_heads(self.cfg)
        maps = ((self.query, H), (self.key, G), (self.value, G))
        q, k, v = (f(x).unflatten(-1, (heads, -1)) for f, heads in maps)
        return context.rotate(q), context.rotate(k), v  # (B, T, H, d), (B, T, G, d)

    def _project_one(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Of one token (B, 1, d): q (B, H, 1, d), k and v (B, G, 1, d)."""
        H, G = self.cfg.n_heads, _kv_heads(self.cfg)
        qk, v = self.joined(x)
        q, k = context.rotate(qk.view(len(x), H + G, 1, -1)).split((H, G), 1)
        return q, k, v.view(len(x), G, 1, -1)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.out(self.mix(*self._project(x, context)).flatten(-2))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> KVCache:
        c, window = self.cfg, _options(self.cfg).window
        rows = min(capacity, window or capacity)
        keys, values = (
            torch.zeros(batch, _kv_heads(c), rows, dim, dtype=like.dtype, device=like.device)
            for dim in (c.key_dim, c.value_dim)
        )
        return KVCache(keys, values, window=rows, ring=rows == window)

    def prefill(self, x: Tensor, context: Context, state: KVCache, start: int) -> Tensor:
        q, k, v = self._project(x, context)
        return self.out(self.mix(q, *state.extend(k, v, start)).flatten(-2))

    def step(self, x: Tensor, context: Context, state: KVCache, position: int | Tensor) -> Tensor:
        q, k, v = self._project_one(x, context)  # (B, H, 1, d), (B, G, 1, d)
        slot = position % state.rows if state.ring else position
        if isinstance(slot, int):
            assert slot < state.rows, "the KV cache is full"
            state.keys[:, :, slot : slot + 1] = k
            state.values[:, :, slot : slot + 1] = v
            keys, values = (c[:, :, : position + 1] for c in (state.keys, state.values))
            mask = None
        else:
            state.keys.index_copy_(2, slot, k)
            state.values.index_copy_(2, slot, v)
            keys, values = (c[:, :, : state.window] for c in (state.keys, state.values))
            mask = torch.arange(keys.shape[2], device=x.device) <= position
        y = self.kernel.step(q, keys, values, mask)  # (B, H, 1, d)
        return self.out(y.view(x.shape[0], 1, -1))

    def fork(self, state: KVCache) -> KVCache:
        """The same cache: slots up to a position don't change when later ones are written. Those of
        a ring do, so it is copied."""
        return super().fork(state) if state.ring else state

    @staticmethod
    def defaults(size: Size, family: str, options: AttentionOptions) -> dict[str, Any]:
        d = size.d_model
        n_heads = head_count(d, options.head_dim or size.attention_head_dim)
        return {"n_heads": n_heads, "d_key": d, "d_value": d}

    @staticmethod
    def state_choices(size: Size, family: str, options: Any) -> Iterator[MixerOptions]:
        """Fewer heads of keys and values. A window is left as it is said: without one it would be
        another model."""
        n_heads = size.d_model // (options.head_dim or size.attention_head_dim)
        if options.kv_heads is None:
            for kv_heads in range(1, n_heads):
                if n_heads % kv_heads == 0:
                    yield replace(options, kv_heads=kv_heads)

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        """The window, so that forms are held against each other at lengths around it."""
        return _options(cfg).window or Mixer.chunk(cfg)

    @staticmethod
    def setting(cfg: ModelConfig, device: str, dtype: str, mode: str | None = None) -> Setting:
        return replace(Mixer.setting(cfg, device, dtype, mode), window=_options(cfg).window)

    @staticmethod
    def widths(cfg: ModelConfig) -> dict[str, int]:
        d_key, d_value = _kv_widths(cfg)
        return {"query": cfg.d_key, "key": d_key, "value": d_value}

    @staticmethod
    def shared_counts(cfg: ModelConfig) -> dict[str, int]:
        return {"heads of keys and values": _kv_heads(cfg)}

    @staticmethod
    def divided(cfg: ModelConfig, ranks: int) -> ModelConfig:
        own = replace(_options(cfg), kv_heads=_kv_heads(cfg) // ranks)
        return replace(Mixer.divided(cfg, ranks), options=own)

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_Q (d x d_key), W_O (d x d_value), and W_K, W_V of the widths of grouped heads."""
        return cfg.d_model * (cfg.d_key + cfg.d_value + sum(_kv_widths(cfg)))

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return cfg.d_key + sum(_kv_widths(cfg)) + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        """The same with grouped heads, as each query head still has scores of its own."""
        window = _options(cfg).window
        return cfg.n_heads * kernel_costs.forward_flops(length, cfg.key_dim, masked, window)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """Two products for each of the forward's; fused kernels compute the scores once more."""
        factor = 2.0 if KERNELS[cfg.kernel].form == "quadratic" else 2.5
        return factor * Attention.mixing_flops(cfg, length, masked=True)

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """q K^T and scores V over the tokens in the cache."""
        return 2.0 * _cached(cfg, position + 1) * (cfg.d_key + cfg.d_value)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """Keys and values of every position (with a window: of the last ones)."""
        return batch * _cached(cfg, length) * sum(_kv_widths(cfg)) * element_bytes


def _cached(cfg: ModelConfig, length: int) -> int:
    """Positions that are kept after `length` tokens."""
    return min(length, _options(cfg).window or length)
