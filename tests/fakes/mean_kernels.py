"""The kernels of `causal_mean`. They stand apart from it because a package's kernels are loaded
before its mixers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retnet_bench.kernels.registry import Kernel

NAME = "mean"


def by_sums(v: Tensor, before: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """v (B, T, d) and the sum before it (B, 1, d): means (B, T, d), and the sum after it."""
    sums = before + v.to(before.dtype).cumsum(1)
    counts = torch.arange(start + 1, start + v.shape[1] + 1, device=v.device)
    return (sums / counts[:, None]).to(v.dtype), sums[:, -1:]


def by_matrix(v: Tensor, before: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The same by one product with a triangle of ones."""
    T = v.shape[1]
    ones = torch.ones(T, T, dtype=before.dtype, device=v.device).tril()
    sums = before + ones @ v.to(before.dtype)
    counts = torch.arange(start + 1, start + T + 1, device=v.device)
    return (sums / counts[:, None]).to(v.dtype), sums[:, -1:]


def one(v: Tensor, before: Tensor, position: int | Tensor) -> Tensor:
    """One token (B, 1, d); the sum is changed in place."""
    before += v
    return (before / (position + 1)).to(v.dtype)


def _kernel(name: str, run: Any, form: str) -> Kernel:
    return Kernel(name=name, mixer=NAME, run=run, step=one, meaning=f"by {name}", form=form)


SUMS, MATRIX = _kernel("mean_sums", by_sums, "sums"), _kernel("mean_matrix", by_matrix, "matrix")
KERNEL_NAMES = (SUMS.name, MATRIX.name)
