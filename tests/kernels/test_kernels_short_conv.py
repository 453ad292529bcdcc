"""The short convolution against its sum written out: whole, in parts, token by token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fake_packages import install_causal_conv1d
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import relative
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import Setting, best, short_conv

EXACT = 1e-13
SHAPES = {"T": st.integers(1, 12), "C": st.integers(1, 9), "k": st.integers(1, 6)}


def inputs(T, C, k, dtype=torch.float64, seed=0, batch=2):
    make = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=make, dtype=torch.float64).to(dtype)

    return normal(batch, T, C), normal(C, k), normal(C), normal(batch, k - 1, C)


def by_hand(x, weight, bias, state):
    """One output at a time, and the last k - 1 of all inputs."""
    seen = torch.cat([state, x], 1).double()
    k = weight.shape[1]
    rows = [
        sum(weight[:, j].double() * seen[:, t + j] for j in range(k)) for t in range(x.shape[1])
    ]
    return torch.stack(rows, 1) + bias.double(), seen[:, x.shape[1] :]


@pytest.mark.parametrize("silu", [False, True])
@settings(max_examples=30)
@given(**SHAPES, stateful=st.booleans())
@example(T=1, C=3, k=4, stateful=True)
@example(T=2, C=3, k=4, stateful=False)  # the state is longer than what there was
@example(T=3, C=3, k=4, stateful=False)
def test_whole_sequences_are_the_sum_written_out(silu, T, C, k, stateful):
    x, weight, bias, state = inputs(T, C, k)
    state = state if stateful else torch.zeros_like(state)
    expected, last = by_hand(x, weight, bias, state)
    out, new = short_conv.run(x, weight, bias, state if stateful else None, silu)
    assert relative(out, F.silu(expected) if silu else expected) < EXACT
    assert torch.equal(new, last)


@settings(max_examples=25)
@given(**SHAPES, cut=st.floats(0, 1))
def test_parts_and_steps_equal_the_whole(T, C, k, cut):
    x, weight, bias, _ = inputs(T, C, k)
    whole, end = short_conv.run(x, weight, bias)
    at = max(1, round(cut * T))
    first, state = short_conv.run(x[:, :at], weight, bias)
    state = state.clone()
    rest = [short_conv.step(x[:, t], weight, bias, state) for t in range(at, T)]
    assert relative(torch.cat([first, *[row[:, None] for row in rest]], 1), whole) < EXACT
    assert torch.equal(state, end)


def _gradients(run, T=7, k=4, dtype=torch.float64, stateful=True, biased=True):
    leaves = [x.requires_grad_() for x in inputs(T, 8, k, dtype)]
    x, weight, bias, state = leaves
    out, new = run(x, weight, bias if biased else None, state if stateful else None)
    weights = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
    ((out * weights).sum() + new.square().sum()).backward()
    return [x.grad for x in leaves if x.grad is not None]


def plain(x, weight, bias, state):
    before = weight.shape[1] - 1
    state = x.new_zeros(x.shape[0], before, x.shape[2]) if state is None else state
    seen = torch.cat([state, x], 1)
    out = sum(weight[:, j] * seen[:, j : j + x.shape[1]] for j in range(before + 1))
    return out if bias is None else out + bias, seen[:, seen.shape[1] - before :]


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("T", "k"), [(1, 4), (2, 4), (7, 4), (7, 1), (3, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_those_of_the_sum(dtype, T, k, biased, stateful):
    """fp32 by oneDNN where there is one, fp64 by shifted passes."""
    case = {"T": T, "k": k, "biased": biased, "stateful": stateful}
    expected = _gradients(plain, **case)
    for found, wanted in zip(
        _gradients(short_conv.run, dtype=dtype, **case), expected, strict=True
    ):
        assert found.numel() == 0 or relative(found, wanted) < 16 * torch.finfo(dtype).eps


def test_gradcheck():
    leaves = tuple(x.requires_grad_() for x in inputs(5, 3, 3))
    assert torch.autograd.gradcheck(lambda *a: short_conv.run(*a, silu=True), leaves)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_working_precisions_keep_their_dtype_and_their_digits(dtype, onednn):
    x, weight, bias, state = inputs(40, 16, 4, dtype)
    with torch.backends.mkldnn.flags(enabled=onednn):
        out, new = short_conv.run(x, weight.float(), bias.float(), state.float())
    assert (out.dtype, new.dtype) == (dtype, dtype)
    expected, _ = by_hand(x, weight, bias, state)
    assert relative(out, expected) < 4 * torch.finfo(dtype).eps
    row = short_conv.step(x[:, 0], weight.float(), bias.float(), state.clone())
    assert row.dtype == dtype
    assert relative(row, expected[:, 0]) < 4 * torch.finfo(dtype).eps


def test_strided_inputs_are_read_where_they_lie():
    """As parts of one projection are."""
    x, weight, bias, _ = inputs(9, 24, 4, torch.float32)
    part = slice(8, 16)
    out, _ = short_conv.run(x[..., part], weight[part], bias[part])
    assert relative(out, short_conv.run(x, weight, bias)[0][..., part]) < 1e-6


def test_flop_counter_mode_sees_nothing_of_it():
    for dtype in (torch.float64, torch.float32):
        with FlopCounterMode(display=False) as counter:
            _gradients(short_conv.run, dtype=dtype)
            x, weight, bias, state = inputs(1, 8, 4, dtype)
            short_conv.step(x[:, 0], weight, bias, state)
        assert counter.get_total_flops() == 0


def test_the_compiler_takes_it_whole_and_gets_the_same():
    compiled = torch.compile(short_conv.run, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(_gradients(compiled), _gradients(short_conv.run), strict=True):
        assert relative(found, wanted) < EXACT


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("T", [1, 2, 9])
def test_the_package_gives_ours(monkeypatch, silu, T):
    install_causal_conv1d(monkeypatch)
    x, weight, bias, state = inputs(T, 24, 4, torch.float32)
    part, rows = (..., slice(4, 20)), slice(4, 20)  # strides that it does not take
    for start in (None, state[part]):
        case = (x[part], weight[rows], bias[rows], start, silu)
        for found, wanted in zip(short_conv.package_run(*case), short_conv.run(*case), strict=True):
            assert relative(found, wanted) < 1e-6
    ours = state.clone()
    row = short_conv.package_step(x[:, 0], weight, bias, state, silu)
    assert relative(row, short_conv.step(x[:, 0], weight, bias, ours, silu)) < 1e-6
    assert torch.equal(state, ours)


def test_the_package_is_preferred_where_it_is(monkeypatch):
    assert best("short_conv", Setting("cpu", "fp32")).name == "short_conv"
    install_causal_conv1d(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best("short_conv", Setting("cuda", "bf16")).name == "causal_conv1d"
    assert best("short_conv", Setting("cuda", "fp64")).name == "short_conv"
    assert best("short_conv", Setting("cpu", "bf16")).name == "short_conv"
