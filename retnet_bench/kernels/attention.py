"""Causal softmax attention, each backend forced rather than hoped for.

Shapes: q (B, T, H, d); k, v (B, S, H, d) with S >= T, the last T of them being the queries' own
positions; output (B, T, H, d). A step takes q (B, H, 1, d) against a cache (B, H, S, d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right


def math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V with the T x S scores written out: the textbook form."""
    T, S = q.shape[1], k.shape[1]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, d)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    future = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1, dtype=_at_least_fp32(q))
    return (weights.to(v.dtype) @ v).transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's scaled_dot_product_attention, a fused backend forced: it raises, never falls back."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(fused_backends(q.device.type)):
        if q.shape[2] == k.shape[2]:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mask = causal_lower_right(q.shape[2], k.shape[2])
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2)


def fused_backends(device: str) -> list[SDPBackend]:
    """On CPU only flash exists; on CUDA torch picks the first of these that takes the shape."""
    if device == "cpu":
        return [SDPBackend.FLASH_ATTENTION]
    return [
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
    ]


def flash_attn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The flash-attn package (Dao-AILab); causal masks align to the bottom right from 2.1 on."""
    from flash_attn import flash_attn_func

    return flash_attn_func(q, k, v, causal=True)


def math_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query against the cache by two batched matrix-vector products.

    On CPU this beats SDPA's flash kernel (about 1.1 times at 8k positions), which is made for
    blocks of queries. `mask` (S,) is True where a slot may be read.
    """
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=_at_least_fp32(q)).to(v.dtype) @ v


def sdpa_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query against the cache by SDPA; on CPU by `math_step`, which is faster there."""
    if q.device.type == "cpu":
        return math_step(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flash_attn_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query against the cache by flash-attn; a mask must be a prefix, given by its length."""
    from flash_attn import flash_attn_with_kvcache

    lengths = None if mask is None else mask.sum(dtype=torch.int32).expand(q.shape[0]).contiguous()
    out = flash_attn_with_kvcache(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), cache_seqlens=lengths
    )
    return out.transpose(1, 2)


def _at_least_fp32(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def forward_flops(length: int, d_head: int, masked: bool) -> float:
    """Matmul FLOPs of one head's forward pass: Q K^T and scores V, 2 T^2 d each.

    With `masked=False` only the causal half is counted (T (T + 1) / 2 pairs); FlopCounterMode
    counts the full square.
    """
    pairs = length * length if masked else length * (length + 1) / 2
    return 4 * pairs * d_head
