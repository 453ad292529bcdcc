"""FLOPs of operators: what torch's own table lacks, beside what it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

aten = torch.ops.aten


def _cpu_flash(q: Any, k: Any, v: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """Q K^T and scores V: 2 FLOPs a multiply-add, masked scores included, as for CUDA's flash."""
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _cpu_flash_backward(
    grad: Any, q: Any, k: Any, v: Any, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    """Five products for the forward's two: the scores are computed again."""
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


ADDED: dict[Any, Callable] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_flash,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_flash_backward,
}
"""For `FlopCounterMode(custom_mapping=ADDED)`: without it attention on CPU counts as nothing."""

FORMULAS: dict[Any, Callable] = {**flop_registry, **ADDED}
"""Every operator whose matmul FLOPs are known: (*args, **kwargs, out_val=) -> FLOPs."""
