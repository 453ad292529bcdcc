"""The loss, without the logits of a whole sequence ever standing in memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from retnet_bench.kernels.chunks import state_dtype
from retnet_bench.kernels.device import Device, device_of
from retnet_bench.kernels.products import add_product


def nats(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of targets (B, T) in nats, in fp32 at least, from what goes into
    the head, x (B, T, d), and its weight (vocab, d).

    The softmax is taken over a slice of the tokens at a time, and where gradients are recorded they
    are computed with it: the backward pass only scales them. A second derivative raises
    RuntimeError.
    """
    x, targets = x.flatten(0, 1), targets.flatten()
    if torch.compiler.is_compiling():
        logits = F.linear(x, weight)
        return F.cross_entropy(logits.to(state_dtype(logits.dtype)), targets)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return _Nats.apply(x, weight, targets, device_of(x), learns)


class _Nats(torch.autograd.Function):
    """`nats` of tokens x (n, d) and targets (n,)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, device: Device, learns: bool
    ) -> Tensor:
        low = device.low or x.dtype
        exact = state_dtype(low)
        W = weight.to(low)
        to_x = torch.empty_like(x, dtype=exact) if learns else None
        to_weight = torch.zeros_like(weight, dtype=exact) if learns else None
        total = x.new_zeros((), dtype=exact)
        for part in device.slices(3 * len(weight) * exact.itemsize, len(x)):
            inputs, wanted = x[part].to(low), targets[part, None]
            logits = (inputs @ W.t()).to(exact)
            logits -= logits.amax(-1, keepdim=True)
            found = logits.gather(1, wanted)
            whole = logits.exp_().sum(-1, keepdim=True)
            total += (whole.log() - found).sum()
            if to_x is None or to_weight is None:
                continue
            # Not yet divided by the number of tokens, which fp16 would lose digits by.
            share = logits.div_(whole)
            share.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=exact))
            share = share.to(low)
            to_x[part] = share @ W
            add_product(to_weight, share.t(), inputs)
        ctx.save_for_backward(to_x, to_weight)
        ctx.dtypes = x.dtype, weight.dtype
        return total / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        to_x, to_weight = ctx.saved_tensors
        each = grad / len(to_x)
        x_dtype, weight_dtype = ctx.dtypes
        return (to_x * each).to(x_dtype), (to_weight * each).to(weight_dtype), None, None, None
