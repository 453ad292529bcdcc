"""Matrix products that are added to what is there."""

from __future__ import annotations

import torch
from torch import Tensor


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total + a b, in place, for matrices; the sum is in the dtype of `total`."""
    if a.dtype == total.dtype:
        torch.addmm(total, a, b, out=total)  # `addmm_` is the same, and no FLOP counter knows it
    else:
        total += (a @ b).to(total.dtype)
