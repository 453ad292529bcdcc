"""Attention's kernels against softmax written out, and what they really dispatch."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import relative
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import KERNELS, attention
from retnet_bench.kernels.flops import ADDED

RUNS = (attention.math, attention.sdpa)
STEPS = (attention.math_step, attention.sdpa_step)


def by_hand(q, k, v, window=None):
    """One query at a time: query n of T sees the first S - T + n + 1 of S keys, the last `window`
    of them; a group of heads reads the same keys."""
    T, S = q.shape[1], k.shape[1]
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    rows = []
    for n in range(T):
        end = S - T + n + 1
        seen = slice(max(0, end - (window or S)), end)
        scores = torch.einsum("bhd,bshd->bhs", q[:, n], k[:, seen]) / q.shape[-1] ** 0.5
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        rows.append(torch.einsum("bhs,bshd->bhd", weights, v[:, seen]))
    return torch.stack(rows, 1)


def inputs(T, S, H=2, d=8, dtype=torch.float64, seed=0, kv_heads=None):
    make = torch.Generator().manual_seed(seed)
    shapes = [(2, T, H, d)] + 2 * [(2, S, kv_heads or H, d)]
    q, k, v = (torch.randn(*shape, generator=make, dtype=torch.float64) for shape in shapes)
    return q.to(dtype), k.to(dtype), v.to(dtype)


@pytest.mark.parametrize("run", RUNS)
@settings(max_examples=30)
@given(T=st.integers(1, 40), before=st.integers(0, 30), H=st.integers(1, 3), d=st.integers(1, 12))
def test_whole_sequences_equal_softmax_written_out(run, T, before, H, d):
    q, k, v = inputs(T, T + before, H, d, seed=T)
    assert relative(run(q, k, v), by_hand(q, k, v)) < 1e-12


@pytest.mark.parametrize("run", RUNS)
@settings(max_examples=40)
@given(
    T=st.integers(1, 150),
    before=st.integers(0, 60),
    window=st.integers(1, 70),
    groups=st.integers(1, 3),
    size=st.integers(1, 3),
)
@example(T=1, before=0, window=1, groups=1, size=1)
@example(T=100, before=0, window=1, groups=1, size=2)  # each token itself alone
@example(T=40, before=0, window=40, groups=2, size=2)  # all is seen
@example(T=41, before=0, window=40, groups=1, size=1)  # all but one
@example(T=104, before=40, window=40, groups=1, size=3)  # whole blocks behind a full ring
@example(T=105, before=39, window=40, groups=2, size=1)
def test_windows_and_groups_equal_softmax_written_out(run, T, before, window, groups, size):
    q, k, v = inputs(T, T + before, groups * size, 4, seed=T, kv_heads=groups)
    assert relative(run(q, k, v, window=window), by_hand(q, k, v, window)) < 1e-12
    assert relative(run(q, k, v), by_hand(q, k, v)) < 1e-12


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("window", "kv_heads"), [(20, 4), (None, 2), (20, 1)])
def test_gradients_of_windows_and_groups_equal_those_of_a_masked_softmax(run, window, kv_heads):
    found = []
    for function in (run, by_hand):
        leaves = [x.requires_grad_() for x in inputs(90, 97, 4, 4, kv_heads=kv_heads)]
        function(*leaves, window=window).square().sum().backward()
        found.append([x.grad for x in leaves])
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-12


def test_the_compiler_takes_a_window_whole():
    run = torch.compile(attention.math, fullgraph=True, backend="aot_eager")
    q, k, v = inputs(90, 90, 4, 4, kv_heads=2)
    assert relative(run(q, k, v, 20), by_hand(q, k, v, 20)) < 1e-12


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 200), st.sampled_from([None, 1, 2]))
@example(200, 200, None)
@example(201, 200, 1)
def test_flops_of_a_window_equal_flop_counter_mode(T, window, kv_heads):
    q, k, v = inputs(T, T, 2, 4, kv_heads=kv_heads)
    with FlopCounterMode(display=False) as counter:
        attention.math(q, k, v, window)
    expected = 2 * 2 * attention.forward_flops(T, 4, masked=True, window=window)
    assert counter.get_total_flops() == expected
    with FlopCounterMode(display=False, custom_mapping=ADDED) as counter:
        attention.sdpa(q, k, v, window)
    assert counter.get_total_flops() == expected
    pairs = sum(min(n, window) for n in range(1, T + 1))
    assert attention.forward_flops(T, 4, masked=False, window=window) == 4 * pairs * 4
    assert attention.forward_flops(T, 4, masked=True, window=window) >= 4 * pairs * 4


def test_a_window_costs_the_same_for_each_further_token():
    once, twice, thrice = (
        attention.forward_flops(n, 64, masked=True, window=256) for n in (2048, 4096, 6144)
    )
    assert thrice - twice == twice - once
    assert twice - once == 2048 * 4 * (256 + 64) * 64  # blocks of 64 queries, 256 keys before each


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("run", RUNS)
def test_low_precision_keeps_its_dtype_and_its_digits(run, dtype):
    q, k, v = inputs(40, 70, dtype=dtype)
    out = run(q, k, v)
    assert out.dtype == dtype
    assert relative(out, by_hand(q.double(), k.double(), v.double())) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [6, 3, 1])
def test_a_step_is_the_last_row_of_the_whole(step, dtype, kv_heads):
    q, k, v = inputs(1, 30, 6, dtype=dtype, kv_heads=kv_heads)
    out = step(*(x.transpose(1, 2) for x in (q, k, v)))
    assert out.dtype == dtype
    expected = by_hand(q.double(), k.double(), v.double()).transpose(1, 2)
    assert relative(out, expected) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_a_masked_step_reads_only_the_open_slots(step, kv_heads):
    """Slots behind the mask hold huge values: reading one would show."""
    q, k, v = inputs(1, 30, 6, kv_heads=kv_heads)
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


@pytest.mark.parametrize(("window", "kv_heads"), [(None, 2), (8, 8), (8, 2)])
def test_sdpa_stays_fused_and_repeats_no_heads(window, kv_heads):
    q, k, v = inputs(100, 100, 8, dtype=torch.float32, kv_heads=kv_heads)
    ran = operators(lambda *tensors: attention.sdpa(*tensors, window), q, k, v)
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in ran
    assert not ran & {"aten::repeat_interleave", "aten::bmm", "aten::_softmax"}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_grouped_heads_writes_no_cache_out(step):
    """Nothing as large as the cache is made."""
    q, k, v = (x.transpose(1, 2) for x in inputs(1, 4000, 8, 64, torch.float32, kv_heads=2))
    k, v = k.contiguous(), v.contiguous()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step(q, k, v)
    made = sum(max(0, event.self_cpu_memory_usage) for event in seen.events())
    assert 0 < made < k.nbytes / 4


def test_where_no_fused_kernel_groups_heads_they_are_repeated(monkeypatch):
    monkeypatch.setattr(attention, "takes_groups", lambda q: False)
    q, k, v = inputs(50, 70, 4, 4, kv_heads=2)
    assert "aten::repeat_interleave" in operators(attention.sdpa, q, k, v)
    assert relative(attention.sdpa(q, k, v), by_hand(q, k, v)) < 1e-12


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


BACKENDS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@pytest.fixture
def enabled(monkeypatch):
    """The sets of backends that calls of SDPA were allowed, in order."""
    found = []
    whole = F.scaled_dot_product_attention

    def noting(q, k, v, **how):
        state = torch.backends.cuda
        on = {
            SDPBackend.FLASH_ATTENTION: state.flash_sdp_enabled(),
            SDPBackend.CUDNN_ATTENTION: state.cudnn_sdp_enabled(),
            SDPBackend.EFFICIENT_ATTENTION: state.mem_efficient_sdp_enabled(),
            SDPBackend.MATH: state.math_sdp_enabled(),
        }
        found.append({backend for backend, allowed in on.items() if allowed})
        with sdpa_kernel([SDPBackend.MATH]):
            return whole(q, k, v, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noting)
    return found


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_s_kernel_allows_that_backend_alone(name, enabled):
    kernel = KERNELS[name]
    q, k, v = inputs(9, 9, 4, kv_heads=2)
    assert relative(kernel.run(q, k, v), by_hand(q, k, v)) < 1e-12
    q, k, v = inputs(1, 30, 4, kv_heads=2)
    out = kernel.step(*(x.transpose(1, 2) for x in (q, k, v)))
    assert relative(out, by_hand(q, k, v).transpose(1, 2)) < 1e-12
    assert enabled == [{BACKENDS[name]}] * 2
    mask = torch.arange(30) < 20
    out = kernel.step(*(x.transpose(1, 2) for x in (q, k, v)), mask)
    assert relative(out, by_hand(q, k[:, :20], v[:, :20]).transpose(1, 2)) < 1e-12
    masked = "sdpa_efficient" if name == "sdpa_flash" else name  # flash takes no mask
    assert enabled[2:] == [{BACKENDS[masked]}]


@pytest.mark.parametrize("name", ["sdpa_cudnn", "sdpa_efficient"])
def test_a_backend_that_is_not_there_raises_instead_of_falling_back(name):
    q, k, v = inputs(9, 9, dtype=torch.float32)
    with pytest.raises(RuntimeError, match=r"[Nn]o (viable|available) "):
        KERNELS[name].run(q, k, v)
