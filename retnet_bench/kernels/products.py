"""Matrix products that are added to what is there."""

from __future__ import annotations

import torch
from torch import Tensor


def add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a b, in place, for matrices or batches of them; summed in the dtype of `total`."""
    if a.dtype != total.dtype:
        return total.add_((a @ b).to(total.dtype))
    add = torch.addmm if total.dim() == 2 else torch.baddbmm
    return add(total, a, b, out=total)  # `addmm_` is the same, and no FLOP counter knows it
