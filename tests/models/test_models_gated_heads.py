"""The gated output map equals its formula, in value and gradient, and keeps two tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.kernels import device
from retnet_bench.models.gated_heads import NORMS, GatedHeads

B, T, H, D = 2, 5, 3, 4
EPS = 1e-5


def layer(norm: str, bias: bool = False) -> GatedHeads:
    torch.manual_seed(0)
    made = GatedHeads(H * D, 6, bias=bias, norm=norm, eps=EPS).double()
    if bias:
        torch.nn.init.normal_(made.bias)
    return made


def inputs(scaled: bool = False) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    made = [torch.randn(B, T, H, D), torch.randn(B, T, H * D)]
    made += [torch.randn(D)] if scaled else []
    return tuple(x.double().requires_grad_() for x in made)


def by_formula(
    made: GatedHeads, heads: Tensor, gate: Tensor, scale: Tensor | None = None
) -> Tensor:
    """Eq. 8 as it stands."""
    if made.norm == "group":
        mean = heads.mean(-1, keepdim=True)
        heads = (heads - mean) / (heads.var(-1, keepdim=True, correction=0) + EPS).sqrt()
    elif made.norm == "rms":
        heads = heads / (heads.square().mean(-1, keepdim=True) + EPS).sqrt()
    if scale is not None:
        heads = heads * scale
    return F.linear(gate * gate.sigmoid() * heads.flatten(-2), made.weight, made.bias)


@pytest.mark.parametrize("pieces", [1, 3, 1000], ids="slices of {}".format)
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("norm", NORMS)
def test_value_and_gradients_are_those_of_the_formula(norm, bias, scaled, pieces, monkeypatch):
    if scaled and norm == "none":
        scaled = False  # a scale is the norm's
    monkeypatch.setattr(device, "CACHE_BYTES", pieces * 8 * H * D * 8)
    made, given = layer(norm, bias), inputs(scaled)
    leaves = (*given, *made.parameters())
    expected, found = by_formula(made, *given), made(*given)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    for a, b in zip(
        *(torch.autograd.grad(out, leaves, upstream) for out in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(made(*given), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_heads_may_lie_in_any_order(norm):
    made, (heads, gate) = layer(norm), inputs()
    turned = heads.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    made(turned, gate).sum().backward()
    made(heads, gate).sum().backward()
    assert torch.equal(turned.grad, heads.grad)


def test_it_keeps_the_heads_and_the_gate_alone():
    made, (heads, gate) = layer("group"), inputs()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        made(heads, gate)
    assert sum(kept) == heads.numel() + gate.numel() + made.weight.numel()


def test_under_autocast_the_elements_are_fp32_and_only_the_product_is_not():
    made = layer("group").float()
    heads, gate = (x.detach().float() for x in inputs())
    heads, gate = (x.to(torch.bfloat16).requires_grad_() for x in (heads, gate))
    with torch.autocast("cpu", torch.bfloat16):
        out = made(heads, gate)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert (heads.grad.dtype, made.weight.grad.dtype) == (torch.bfloat16, torch.float32)
    exact = layer("group")
    product = by_formula(exact, *(x.detach().double() for x in (heads, gate)))
    torch.testing.assert_close(out.double(), product, rtol=2e-2, atol=2e-2)


def test_a_second_derivative_is_refused():
    made, (heads, gate) = layer("rms"), inputs()
    (first,) = torch.autograd.grad(made(heads, gate).square().sum(), heads, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
