"""Causal softmax attention, each backend forced rather than hoped for.

Shapes: q (B, T, H, d); k, v (B, S, G, d) with S >= T, the last T of them being the queries' own
positions; output (B, T, H, d). Query head h reads head h // (H / G) of the G <= H of keys and
values (grouped-query attention, arXiv:2305.13245). With a window w a query at position i sees keys
i - w + 1 ... i (sliding window, arXiv:2004.05150). A step takes q (B, H, 1, d) against a cache
(B, G, S, d), whose order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from retnet_bench.kernels.registry import capability


def math(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V with the scores written out: the textbook form."""
    return _windowed(_math, q, k, v, window)


def sdpa(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """torch's scaled_dot_product_attention, a fused backend forced: it raises, never falls back."""
    with sdpa_kernel(fused_backends(q.device.type)):
        return _windowed(_sdpa, q, k, v, window)


def forced(backend: SDPBackend) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """`sdpa` and `sdpa_step` by that one backend of CUDA, or not at all.

    A captured graph's step has a mask, and flash takes none: it is then the memory-efficient
    backend's, as the operator in the records says.
    """
    flash = backend is SDPBackend.FLASH_ATTENTION
    masked = SDPBackend.EFFICIENT_ATTENTION if flash else backend

    def run(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
        with sdpa_kernel(backend):
            return _windowed(partial(_sdpa, grouped=flash), q, k, v, window)

    def step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        with sdpa_kernel(backend if mask is None else masked):
            return _sdpa_step(q, k, v, mask)

    return run, step


sdpa_flash, sdpa_flash_step = forced(SDPBackend.FLASH_ATTENTION)
sdpa_cudnn, sdpa_cudnn_step = forced(SDPBackend.CUDNN_ATTENTION)
sdpa_efficient, sdpa_efficient_step = forced(SDPBackend.EFFICIENT_ATTENTION)


def _math(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Where `mask` (T, S) is True, or else causal."""
    T, S, H = q.shape[1], k.shape[1], q.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, d), (B, G, S, d)
    scores = _split(_fold(q, k) @ k.transpose(-1, -2), H) * q.shape[-1] ** -0.5  # (B, H, T, S)
    if mask is None:
        hidden = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)
    else:
        hidden = ~mask
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1, dtype=_at_least_fp32(q))
    return _split(_fold(weights.to(v.dtype), v) @ v, H).transpose(1, 2)


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grouped: bool | None = None
) -> Tensor:
    """Where `mask` (T, S) is True, or else causal. `grouped`: whether the backend reads the keys of
    grouped heads as they are (None: `takes_groups`)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    (H, T), (G, S) = q.shape[1:3], k.shape[1:3]
    if mask is not None:
        folded = _fold(q, k)
        mask = mask.repeat(H // G, 1)  # (H/G T, S)
        out = _split(F.scaled_dot_product_attention(folded, k, v, attn_mask=mask), H)
        return out.transpose(1, 2)
    how: dict[str, Any] = {"is_causal": True} if T == S else {"attn_mask": _lower_right(T, S)}
    if H != G and (takes_groups(q) if grouped is None else grouped):
        how["enable_gqa"] = True
    elif H != G:
        k, v = (x.repeat_interleave(H // G, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, **how).transpose(1, 2)


def _lower_right(T: int, S: int) -> Tensor:
    # Imported late: it brings torch's compiler with it, as long to import as torch itself.
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right(T, S)


def takes_groups(q: Tensor) -> bool:
    """Whether the fused kernel for a causal mask reads the keys of grouped heads as they are: flash
    does, on CPU from torch 2.9 on; the memory-efficient one, which takes fp32 on CUDA, does not."""
    if q.device.type == "cuda":
        return q.dtype in (torch.bfloat16, torch.float16)
    return torch.__version__ >= "2.9"


def _fold(x: Tensor, shared: Tensor) -> Tensor:
    """(B, H, T, n) to (B, G, H/G T, n), G the heads of `shared`: a group's rows in one product, so
    that nothing shared is written out for every head."""
    if x.shape[1] == shared.shape[1]:
        return x
    return x.unflatten(1, (shared.shape[1], -1)).flatten(2, 3)


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, G, H/G T, n) to (B, H, T, n)."""
    if x.shape[1] == heads:
        return x
    return x.unflatten(2, (heads // x.shape[1], -1)).flatten(1, 2)


def _windowed(whole: Callable, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """`whole(q, k, v, mask)` where each query sees `window` keys, the last of them its own: by
    blocks of queries, each against its own keys and the `window` before them. Linear in T."""
    T = q.shape[1]
    if window is None or k.shape[1] <= window:
        return whole(q, k, v, None)
    k, v = (x[:, -(T + window) :] for x in (k, v))
    first, blocks, rows, rest = _plan(T, k.shape[1] - T, window)
    parts = []
    if first:  # they see all that is there, as there is no more than a window of it
        seen = k.shape[1] - T + first
        parts.append(whole(q[:, :first], k[:, :seen], v[:, :seen], None))
    if blocks:
        end = first + blocks * rows
        # (B, n rows, H, d) -> (B n, rows, H, d); keys (B, w + n rows, G, d) -> (B n, w + rows, ..)
        of_q = q[:, first:end].unflatten(1, (blocks, rows)).flatten(0, 1)
        of_k, of_v = (
            x[:, : window + blocks * rows]
            .unfold(1, window + rows, rows)
            .movedim(-1, 2)
            .flatten(0, 1)
            for x in (k, v)
        )
        out = whole(of_q, of_k, of_v, _band(rows, window, q.device))
        parts.append(out.unflatten(0, (-1, blocks)).flatten(1, 2))
    if rest:
        of_k, of_v = (x[:, -(window + rest) :] for x in (k, v))
        parts.append(whole(q[:, -rest:], of_k, of_v, _band(rest, window, q.device)))
    return torch.cat(parts, 1)


def _plan(length: int, past: int, window: int) -> tuple[int, int, int, int]:
    """How `_windowed` takes `length` queries with `past` <= `window` keys before them: so many at
    first, blocks, rows of each, rows of a shorter last one.

    Blocks of a quarter window compute a quarter more pairs than are seen; shorter ones copy more
    keys, and below 32 rows the products are too small (measured on CPU, windows of 8 to 512).
    """
    first = min(length, window - past)
    rows = max(32, window // 4)
    blocks, rest = divmod(length - first, rows)
    return first, blocks, rows, rest


def _band(rows: int, window: int, device: torch.device) -> Tensor:
    """Which of window + rows keys each of the last `rows` queries sees."""
    seen = torch.ones(rows, window + rows, dtype=torch.bool, device=device)
    return seen.tril(window).triu(1)


def fused_backends(device: str) -> list[SDPBackend]:
    """On CPU only flash exists; on CUDA torch picks the first of these that takes the shape."""
    if device == "cpu":
        return [SDPBackend.FLASH_ATTENTION]
    return [
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
    ]


def flash_attn(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """The flash-attn package (Dao-AILab); causal masks align to the bottom right from 2.1 on. It
    groups heads and skips what lies outside the window by itself."""
    from flash_attn import flash_attn_func

    before = -1 if window is None else window - 1
    return flash_attn_func(q, k, v, causal=True, window_size=(before, 0))


def math_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query against the cache by two batched matrix-vector products (of matrices and a group's
    queries, where heads share keys).

    On CPU this beats SDPA's flash kernel (about 1.1 times at 8k positions), which is made for
    blocks of queries. `mask` (S,) is True where a slot may be read.
    """
    (B, H), G, scale = q.shape[:2], k.shape[1], q.shape[-1] ** -0.5
    q = (q * scale).view(B * G, H // G, -1)  # the rows of a group, in one product
    k, v = (x.flatten(0, 1) for x in (k, v))
    scores = torch.bmm(q, k.transpose(1, 2))  # (B G, H/G, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1, dtype=_at_least_fp32(q)).to(v.dtype)
    return torch.bmm(weights, v).view(B, H, 1, -1)


def sdpa_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query against the cache by SDPA, a fused backend forced; on CPU by `math_step`, which is
    faster there. Flash splits the cache over the device, but takes no mask."""
    if q.device.type == "cpu":
        return math_step(q, k, v, mask)
    with sdpa_kernel(fused_backends(q.device.type)):
        return _sdpa_step(q, k, v, mask)


def _sdpa_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    rows = None if mask is None else mask[None]  # fused kernels take a mask of two dimensions
    out = F.scaled_dot_product_attention(_fold(q, k), k, v, attn_mask=rows)
    return _split(out, q.shape[1])


def flash_attn_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query against the cache by flash-attn; a mask must be a prefix, given by its length."""
    from flash_attn import flash_attn_with_kvcache

    out = flash_attn_with_kvcache(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), cache_seqlens=_lengths(q, mask)
    )
    return out.transpose(1, 2)


def _lengths(q: Tensor, mask: Tensor | None) -> Tensor | None:
    """(B,) open slots of each sequence, on the device: a captured graph reads them anew."""
    return None if mask is None else mask.sum(dtype=torch.int32).expand(q.shape[0]).contiguous()


def flash_attn_4(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """FlashAttention-4 (the package flash-attn-4: Hopper, Blackwell), called as `flash_attn` is. It
    returns the logarithms of the softmax's sums, too, filled in or not."""
    from flash_attn.cute import flash_attn_func

    before = None if window is None else window - 1
    out, _ = flash_attn_func(q, k, v, causal=True, window_size=(before, 0))
    return out


def flash_attn_4_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query against the cache by FlashAttention-4, the cache split over the device where it can
    (Blackwell); a mask must be a prefix, given by its length."""
    from flash_attn.cute import flash_attn_func, flash_attn_varlen_func

    seen = [x.transpose(1, 2) for x in (q, k, v)]
    splits = flash_attn_4_splits(capability(q.device))
    if mask is None:
        out, _ = flash_attn_func(*seen, num_splits=splits)
    else:
        out, _ = flash_attn_varlen_func(*seen, seqused_k=_lengths(q, mask), num_splits=splits)
    return out.transpose(1, 2)


def flash_attn_4_splits(at: tuple[int, int] | None) -> int:
    """Parts of the cache that FlashAttention-4 reads at once on a device of that compute
    capability: 0, as many as fit (10.x and 11.x); elsewhere it refuses more than 1."""
    return 0 if at is not None and at[0] in (10, 11) else 1


def _at_least_fp32(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def forward_flops(length: int, d_head: int, masked: bool, window: int | None = None) -> float:
    """Matmul FLOPs of one head's forward pass over `length` tokens: Q K^T and scores V, 4 d for
    each pair of a query and a key.

    With `masked=False` only pairs that are seen count: T (T + 1) / 2, or T w - w (w - 1) / 2 with a
    window w < T. FlopCounterMode counts what is computed: the full square, or with a window its
    blocks (flash-attn skips more; that is not modelled).
    """
    seen = min(length, window or length)
    if not masked:
        return 4 * (length * seen - seen * (seen - 1) / 2) * d_head
    first, blocks, rows, rest = _plan(length, 0, seen)
    pairs = first**2 + blocks * rows * (seen + rows) + rest * (seen + rest)
    return 4.0 * pairs * d_head
