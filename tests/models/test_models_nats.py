"""The loss by slices equals the cross-entropy of whole logits, in value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.kernels import device
from retnet_bench.models.nats import nats

VOCABULARY, WIDTH = 11, 6


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 7, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True)
    return x, weight, torch.randint(VOCABULARY, (2, 7))


def whole(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((x @ weight.t()).flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("tokens", [1, 4, 5, 1000], ids="slices of {}".format)
def test_value_and_gradients_are_those_of_cross_entropy(tokens, monkeypatch):
    monkeypatch.setattr(device, "CACHE_BYTES", tokens * 3 * VOCABULARY * 8)
    x, weight, targets = inputs()
    found, expected = (3 * of(x, weight, targets) for of in (nats, whole))
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-13)
    for a, b in zip(
        *(torch.autograd.grad(loss, (x, weight)) for loss in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_uniform_model_is_at_the_logarithm_of_the_vocabulary():
    x, weight, targets = (t.detach() for t in inputs())
    assert float(nats(torch.zeros_like(x), weight, targets)) == pytest.approx(2.3978952727983707)


def test_without_gradients_none_is_computed(monkeypatch):
    x, weight, targets = inputs()
    monkeypatch.setattr(Tensor, "scatter_add_", None)
    with torch.no_grad():
        assert float(nats(x, weight, targets)) == pytest.approx(float(whole(x, weight, targets)))


def test_a_fixed_head_gets_no_gradient_and_its_input_does():
    x, weight, targets = inputs()
    nats(x, weight.detach(), targets).backward()
    (expected,) = torch.autograd.grad(whole(x, weight, targets), x)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_gradients_of_many_tokens_do_not_vanish_under_autocast(low):
    """Each token's own is one in 40,000 of them: fp16 would lose it."""
    torch.manual_seed(0)
    x = torch.randn(1, 40_000, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    targets = torch.randint(VOCABULARY, (1, 40_000))
    with torch.autocast("cpu", low):
        loss = nats(x, weight, targets)
    assert loss.dtype == torch.float32
    grads = torch.autograd.grad(loss, (x, weight))
    expected = torch.autograd.grad(whole(x, weight, targets), (x, weight))
    for a, b in zip(grads, expected, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.02


def test_a_second_derivative_is_refused():
    x, weight, targets = inputs()
    (first,) = torch.autograd.grad(nats(x, weight, targets).square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_compiled_loss_is_as_exact():
    compiled = torch.compile(nats, fullgraph=True, backend="aot_eager")
    x, weight, targets = inputs()
    found, expected = compiled(x, weight, targets), whole(x, weight, targets)
    assert found.dtype == torch.float64
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-13)
