"""Attention's kernels against softmax written out, and what they really dispatch."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import relative
from torch.profiler import ProfilerActivity, profile

from retnet_bench.kernels import attention

RUNS = (attention.math, attention.sdpa)
STEPS = (attention.math_step, attention.sdpa_step)


def by_hand(q, k, v):
    """One query at a time: query n of T sees the first S - T + n + 1 of S keys."""
    T, S = q.shape[1], k.shape[1]
    rows = []
    for n in range(T):
        seen = S - T + n + 1
        scores = torch.einsum("bhd,bshd->bhs", q[:, n], k[:, :seen]) / q.shape[-1] ** 0.5
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        rows.append(torch.einsum("bhs,bshd->bhd", weights, v[:, :seen]))
    return torch.stack(rows, 1)


def inputs(T, S, H=2, d=8, dtype=torch.float64, seed=0):
    make = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, n, H, d, generator=make, dtype=torch.float64) for n in (T, S, S))
    return q.to(dtype), k.to(dtype), v.to(dtype)


@pytest.mark.parametrize("run", RUNS)
@settings(deadline=None, max_examples=30)
@given(T=st.integers(1, 40), before=st.integers(0, 30), H=st.integers(1, 3), d=st.integers(1, 12))
def test_whole_sequences_equal_softmax_written_out(run, T, before, H, d):
    q, k, v = inputs(T, T + before, H, d, seed=T)
    assert relative(run(q, k, v), by_hand(q, k, v)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("run", RUNS)
def test_low_precision_keeps_its_dtype_and_its_digits(run, dtype):
    q, k, v = inputs(40, 70, dtype=dtype)
    out = run(q, k, v)
    assert out.dtype == dtype
    assert relative(out, by_hand(q.double(), k.double(), v.double())) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_step_is_the_last_row_of_the_whole(step, dtype):
    q, k, v = inputs(1, 30, dtype=dtype)
    out = step(*(x.transpose(1, 2) for x in (q, k, v)))
    assert out.dtype == dtype
    expected = by_hand(q.double(), k.double(), v.double()).transpose(1, 2)
    assert relative(out, expected) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("step", STEPS)
def test_a_masked_step_reads_only_the_open_slots(step):
    """Slots behind the mask hold huge values: reading one would show."""
    q, k, v = inputs(1, 30)
    k[:, 20:], v[:, 20:] = 1e3, 1e6
    mask = torch.arange(30) < 20
    out = step(*(x.transpose(1, 2) for x in (q, k, v)), mask)
    assert relative(out, by_hand(q, k[:, :20], v[:, :20]).transpose(1, 2)) < 1e-12


def test_gradients_of_sdpa_equal_those_of_math():
    found = []
    for run in RUNS:
        leaves = [x.requires_grad_() for x in inputs(19, 19)]
        run(*leaves).square().sum().backward()
        found.append([x.grad for x in leaves])
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-12


def operators(run, *tensors) -> set[str]:
    """Names of the operators that really ran, composite ones included.

    A TorchDispatchMode would not do: torch's CausalBias can't be made under one.
    """
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run(*tensors)
    return {event.name for event in seen.events()}


def without_a_warning(run):
    """`run`, whose every warning is an error; those of the profiler around it are its own (torch
    2.10 and 2.11 warn at each process's first profile)."""

    def strict(*tensors):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return run(*tensors)

    return strict


def test_a_warning_would_be_seen():
    with pytest.raises(UserWarning, match="slow"):
        without_a_warning(lambda: warnings.warn("slow", UserWarning, stacklevel=1))()


@pytest.mark.parametrize(("T", "S"), [(16, 16), (16, 40), (1, 40)])
def test_sdpa_runs_one_fused_operator(T, S):
    ran = operators(without_a_warning(attention.sdpa), *inputs(T, S, dtype=torch.float32))
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in ran
    assert not ran & {"aten::_scaled_dot_product_attention_math", "aten::bmm", "aten::_softmax"}


def test_math_runs_no_fused_operator():
    ran = operators(attention.math, *inputs(16, 16, dtype=torch.float32))
    assert {"aten::bmm", "aten::_softmax"} <= ran
    assert not any("scaled_dot_product" in name for name in ran)


@pytest.mark.parametrize("T", [16, 8])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sdpa_raises_where_no_fused_kernel_takes_the_shape(T):
    """CPU's flash kernel wants values as wide as keys; math would have taken them silently."""
    q, k, v = inputs(T, 16)
    with pytest.raises(RuntimeError, match="No available kernel"):
        attention.sdpa(q, k, torch.cat([v, v], -1))
