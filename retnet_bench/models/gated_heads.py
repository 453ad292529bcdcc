"""The gated output map of retention's kind: (swish(G) * norm(heads)) W_O (arXiv:2307.08621v4,
Eq. 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from retnet_bench.kernels.chunks import state_dtype
from retnet_bench.kernels.device import Device, device_of
from retnet_bench.kernels.products import add_product
from retnet_bench.models.layers import norm_heads
from retnet_bench.models.linear import Linear

aten = torch.ops.aten


class GatedHeads(Linear):
    """W_O, and what stands between it and the heads.

    While gradients are recorded it keeps the heads and the gate alone for the backward pass, and
    works on a slice of the tokens at a time, elementwise in fp32 at least. A second derivative
    raises RuntimeError.
    """

    def __init__(self, d_value: int, d_model: int, *, bias: bool, norm: str, eps: float) -> None:
        """`norm` of each head: group (its mean subtracted), rms or none; without affine weights,
        unless `forward` is given some."""
        super().__init__(d_value, d_model, bias=bias)
        self.norm, self.eps = norm, eps

    def forward(  # type: ignore[override]  # an output map takes what it is the map of
        self, heads: Tensor, gate: Tensor, scale: Tensor | None = None
    ) -> Tensor:
        """heads (B, T, H, d_v), gate (B, T, H d_v), scale (d_v,) of the norm -> (B, T, d_model)."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            device = device_of(heads)
            return _Gated.apply(heads, gate, scale, self.weight, self.bias, self, device)
        if self.norm != "none":
            heads = norm_heads(heads, self.eps, self.norm == "group", scale)
        return super().forward((F.silu(gate).view(heads.shape) * heads).flatten(-2))


class _Gated(torch.autograd.Function):
    """`GatedHeads` with its gradients: heads (n, H, d_v) and gate (n, H d_v) of n tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        heads: Tensor,
        gate: Tensor,
        scale: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        layer: GatedHeads,
        device: Device,
    ) -> Tensor:
        low = device.low or heads.dtype
        shape = heads.shape[:2]
        heads, gate = heads.flatten(0, 1), gate.flatten(0, 1)
        ctx.parts = device.slices(8 * gate.shape[-1] * state_dtype(low).itemsize, len(gate))
        ctx.shape, ctx.norm, ctx.eps, ctx.low = shape, layer.norm, layer.eps, low
        ctx.save_for_backward(heads, gate, scale, weight)
        W = weight.to(low)
        out = gate.new_empty(len(gate), len(weight), dtype=low)
        for part in ctx.parts:
            product = _Product.of(heads[part], gate[part], scale, ctx.norm, ctx.eps)
            torch.mm(product.value.to(low), W.t(), out=out[part])
        if bias is not None:
            out += bias.to(low)
        return out.unflatten(0, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        heads, gate, scale, weight = ctx.saved_tensors
        grad, W = grad.flatten(0, 1).to(ctx.low), weight.to(ctx.low)
        to_heads, to_gate = torch.empty_like(heads), torch.empty_like(gate)
        to_weight = torch.zeros_like(weight)
        to_scale = None if scale is None else torch.zeros_like(scale)
        for part in ctx.parts:
            product = _Product.of(heads[part], gate[part], scale, ctx.norm, ctx.eps)
            add_product(to_weight, grad[part].t(), product.value.to(ctx.low))
            to_product = (grad[part] @ W).to(product.swish.dtype)
            to_gate[part], to_heads[part], more = product.backward(to_product)
            if to_scale is not None and more is not None:
                to_scale += more
        to_bias = grad.sum(0, dtype=weight.dtype) if ctx.needs_input_grad[4] else None
        to_heads, to_gate = (x.unflatten(0, ctx.shape) for x in (to_heads, to_gate))
        return to_heads, to_gate, to_scale, to_weight, to_bias, None, None


@dataclass(frozen=True)
class _Product:
    """swish(gate) * norm(heads) of some tokens, (n, H d_v), and what its gradients need."""

    gate: Tensor
    swish: Tensor
    normed: Tensor
    """(n, H, d_v), without the scale."""
    scale: Tensor | None
    norm_backward: Callable[[Tensor], Tensor]

    @staticmethod
    def of(heads: Tensor, gate: Tensor, scale: Tensor | None, norm: str, eps: float) -> _Product:
        exact = state_dtype(heads.dtype)
        heads, gate = heads.to(exact).contiguous(), gate.to(exact)
        normed, backward = NORMS[norm](heads, eps)
        return _Product(gate, F.silu(gate), normed, scale, backward)

    @property
    def scaled(self) -> Tensor:
        return (self.normed if self.scale is None else self.normed * self.scale).flatten(1)

    @property
    def value(self) -> Tensor:
        return self.swish * self.scaled

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of the gate, the heads and the scale."""
        to_gate = aten.silu_backward(grad * self.scaled, self.gate)
        to_normed = (grad * self.swish).view(self.normed.shape)
        if self.scale is None:
            return to_gate, self.norm_backward(to_normed), None
        to_scale = (to_normed * self.normed).sum((0, 1))
        return to_gate, self.norm_backward(to_normed * self.scale), to_scale


def _group(y: Tensor, eps: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    shape = [y.shape[-1]]
    normed, mean, rstd = torch.native_layer_norm(y, shape, None, None, eps)
    needed = [True, False, False]

    def backward(grad: Tensor) -> Tensor:
        return aten.native_layer_norm_backward(grad, y, shape, mean, rstd, None, None, needed)[0]

    return normed, backward


def _rms(y: Tensor, eps: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    inverse = torch.linalg.vecdot(y, y).div_(y.shape[-1]).add_(eps).rsqrt_()[..., None]
    normed = y * inverse

    def backward(grad: Tensor) -> Tensor:
        along = (torch.linalg.vecdot(grad, normed) / y.shape[-1])[..., None]
        return torch.addcmul(grad, normed, along, value=-1).mul_(inverse)

    return normed, backward


def _as_they_are(y: Tensor, eps: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    return y, lambda grad: grad


NORMS = {"group": _group, "rms": _rms, "none": _as_they_are}
"""Of each head: heads and eps to the normed ones, and to the gradient of heads from theirs."""
