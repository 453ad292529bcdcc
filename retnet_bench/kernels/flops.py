"""FLOPs of operators: what torch's own table lacks, beside what it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
    shape_wrapper,
)

aten = torch.ops.aten


def _cpu_flash(q: torch.Size, k: torch.Size, v: torch.Size, *args: Any, **kwargs: Any) -> int:
    """Q K^T and scores V: 2 FLOPs a multiply-add, masked scores included, as for CUDA's flash."""
    return sdpa_flop_count(q, *_every_head(q, k, v))


def _cpu_flash_backward(
    grad: torch.Size, q: torch.Size, k: torch.Size, v: torch.Size, *args: Any, **kwargs: Any
) -> int:
    """Five products for the forward's two: the scores are computed again."""
    return sdpa_backward_flop_count(grad, q, *_every_head(q, k, v))


def _every_head(q: torch.Size, *grouped: torch.Size) -> list[torch.Size]:
    """Shapes of keys and values (B, G, S, d) as if each of the query's heads had its own, which
    the work is the same as; older torch counts no others."""
    return [torch.Size((n, q[1], *rest)) for n, _, *rest in grouped]


ADDED: dict[Any, Callable] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_flash,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_flash_backward,
}
"""For `FlopCounterMode(custom_mapping=ADDED)`: without it attention on CPU counts as nothing."""

FORMULAS: dict[Any, Callable] = {
    **flop_registry,
    **{operator: shape_wrapper(formula) for operator, formula in ADDED.items()},
}
"""Every operator whose matmul FLOPs are known: (*args, **kwargs, out_val=) -> FLOPs."""
