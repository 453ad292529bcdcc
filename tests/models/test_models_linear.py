"""Products of a few tokens: F.linear's values and gradients, in another order of operands."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from retnet_bench.models import linear as module
from retnet_bench.models.linear import FEW_BYTES, FEW_TOKENS, Linear, linear

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def no_map_is_too_small(monkeypatch):
    monkeypatch.setattr(module, "LEAST_WEIGHTS", 1)


PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)


class Seen(TorchDispatchMode):
    """Shapes of the first operand of each product, as (name, shape)."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in PRODUCTS:
            operand = args[-2]
            self.products.append((func.overloadpacket.__name__, tuple(operand.shape)))
        return func(*args, **(kwargs or {}))


def products_of(x, weight, bias=None):
    with Seen() as seen:
        linear(x, weight, bias)
    return seen.products


@given(
    leading=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    n=st.integers(1, 9),
    d=st.integers(1, 7),
    biased=st.booleans(),
    turned=st.booleans(),
)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_values_and_gradients_are_those_of_f_linear(leading, n, d, biased, turned):
    generator = torch.Generator().manual_seed(7 * n + d)
    kind = {"dtype": torch.float64, "generator": generator}
    x = torch.randn(*leading, d, **kind)
    if turned and len(leading) > 1:
        x = x.transpose(0, 1)
    weight = torch.randn(n, d, **kind)
    bias = torch.randn(n, **kind) if biased else None
    needed = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    found, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn(expected.shape, **kind)
    for a, b in zip(
        torch.autograd.grad(found, needed, grad), torch.autograd.grad(expected, needed, grad)
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("tokens", "n", "operand"),
    [
        (1, 6, (2, 3, 4)),  # halves of the weight
        (1, 7, (2, 3, 4)),
        (2, 6, (6, 4)),
        (FEW_TOKENS, 7, (7, 4)),
    ],
)
def test_the_weight_comes_first_for_a_few_tokens(tokens, n, operand, biased):
    bias = torch.randn(n) if biased else None
    _, shape = products_of(torch.randn(tokens, 1, 4), torch.randn(n, 4), bias)[-1]
    assert shape == operand


def test_an_odd_output_of_one_token_is_apart():
    found = products_of(torch.randn(1, 1, 4), torch.randn(7, 4))
    assert found == [("mm", (1, 4)), ("bmm", (2, 3, 4))]


def test_a_small_map_is_f_linear_s(monkeypatch):
    monkeypatch.setattr(module, "LEAST_WEIGHTS", 25)
    assert products_of(torch.randn(2, 4), torch.randn(6, 4)) == [("mm", (2, 4))]


@pytest.mark.parametrize(
    ("tokens", "d", "dtype"),
    [
        (FEW_TOKENS + 1, 4, torch.float32),
        (4, FEW_BYTES // 16 + 1, torch.float32),
        (4, FEW_BYTES // 32 + 1, torch.float64),
        (1, 4, torch.bfloat16),
    ],
)
def test_other_inputs_come_first_themselves(tokens, d, dtype):
    weight = torch.randn(6, d, dtype=dtype)
    assert products_of(torch.randn(tokens, d, dtype=dtype), weight) == [("mm", (tokens, d))]


def test_no_tokens_and_other_devices_are_f_linear_s():
    assert linear(torch.randn(0, 4), torch.randn(6, 4)).shape == (0, 6)
    assert products_of(torch.randn(2, 4, device="meta"), torch.randn(6, 4, device="meta")) == [
        ("mm", (2, 4))
    ]


@pytest.mark.parametrize(("capability", "few"), [("AVX512", 8), ("AVX2", 4), ("DEFAULT", 4)])
def test_few_is_what_the_registers_hold(monkeypatch, capability, few):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert module.few_tokens() == few


def test_a_map_has_the_weights_that_nn_linear_has():
    torch.manual_seed(0)
    ours = Linear(5, 3)
    torch.manual_seed(0)
    theirs = nn.Linear(5, 3)
    x = torch.randn(2, 5)
    assert torch.equal(ours.weight, theirs.weight)
    torch.testing.assert_close(ours(x), theirs(x))
