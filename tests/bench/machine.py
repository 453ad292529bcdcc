"""The machine's own limits, as steps to time beside ours: matrix products and streams of memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timing import Steps

MATMULS = (1024, 2048, 4096)


def matmul_steps() -> tuple[Steps, dict[str, float]]:
    """Square fp32 products, large enough to run at the machine's full rate, and their FLOPs."""

    def product(n: int) -> Callable[[], object]:
        a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        return lambda: torch.mm(a, b, out=out)

    steps = {f"matmul {n}": product(n) for n in MATMULS}
    return steps, {f"matmul {n}": 2.0 * n**3 for n in MATMULS}


def stream_steps(n_bytes: int) -> tuple[Steps, dict[str, float]]:
    """Ways to move about `n_bytes` through memory, and the bytes that each moves: what lies in a
    cache is streamed from there."""
    source = torch.ones(n_bytes // 4)
    half = source[: len(source) // 2]
    target = torch.empty_like(half)
    steps = {"read": lambda: source.sum(), "copy": lambda: target.copy_(half)}
    return steps, {"read": 4.0 * len(source), "copy": 8.0 * len(half)}
