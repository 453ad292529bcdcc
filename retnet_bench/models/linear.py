"""Linear maps, quick for whole sequences and for the few tokens of a decode step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def few_tokens() -> int:
    """How many tokens are faster as W x^T: with narrower registers five to eight are not."""
    return 8 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4


FEW_TOKENS = few_tokens()
FEW_BYTES = 24 * 1024
"""Of all tokens' inputs, which W x^T reads again for each row of W: they have to stay in the L1."""
LEAST_WEIGHTS = 2**14
"""Of a map for which the operators around its product are worth their time."""


class Linear(nn.Linear):
    """nn.Linear, which computes as `linear` does."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: x (..., d), weight (n, d), bias (n,) -> (..., n).

    Few tokens on CPU are bound by how W is read. MKL reads it at 11 to 18 GB/s for x W^T, and at 22
    to 60 for W x^T (AMD EPYC, 2 cores, AVX512, 45 GB/s from memory): 1.7 to 3.4 times as fast for
    one to eight tokens, d = 256 to 1024. One token's W x^T it takes for a product with a vector, in
    one thread; so that is two halves of W in a batch.
    """
    tokens = x.numel() // x.shape[-1]
    if tokens > FEW_TOKENS or not _is_quicker_turned(x, weight):
        return F.linear(x, weight, bias)
    n, d = weight.shape
    rows = x.reshape(tokens, d)
    if tokens == 1:
        return _of_one(rows, weight, bias).view(*x.shape[:-1], n)
    columns = rows.t()
    y = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
    return y.t().contiguous().view(*x.shape[:-1], n)


def _of_one(row: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    n, d = weight.shape
    if n % 2:  # the last output apart
        rest, own = (None, None) if bias is None else (bias[:-1], bias[-1:])
        last = F.linear(row, weight[-1:], own)
        return torch.cat([_of_one(row, weight[:-1], rest).view(1, n - 1), last], 1)
    # As the turned row, whose strides are (1, d): with (1, 1) the product takes four times as long.
    halves, columns = weight.view(2, n // 2, d), row.t().expand(2, d, 1)
    if bias is None:
        return torch.bmm(halves, columns)
    return torch.baddbmm(bias.view(2, n // 2, 1), halves, columns)


def _is_quicker_turned(x: Tensor, weight: Tensor) -> bool:
    """Of a few tokens; bf16 and fp16 are oneDNN's, which has no such difference."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    inputs = x.numel() * x.element_size()
    return 0 < inputs <= FEW_BYTES and weight.numel() >= LEAST_WEIGHTS
