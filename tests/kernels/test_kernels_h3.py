"""H3's two models in a row: all forms give what their definition gives, one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import relative
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import h3

FORMS = (h3.fft, h3.recurrent)
EXACT = 1e-11


def continuous(heads, states, make):
    """ln(dt), ln(-Re A), Im A, B, C: slow and fast modes."""

    def normal(*shape):
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    log_step = torch.linspace(math.log(1e-3), math.log(0.5), heads, dtype=torch.float64)
    frequency = math.pi * torch.arange(states // 2, dtype=torch.float64).repeat(heads, 1)
    rate = normal(heads, states // 2) - 1
    return log_step, rate, frequency, normal(heads, states // 2, 2), normal(heads, states // 2, 2)


def case(T, heads=2, p=3, states=8, seed=0, dtype=torch.float64):
    make = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    d = heads * p
    q, k, v = (normal(2, T, d).to(dtype) for _ in range(3))
    own = [normal(d, states), normal(d, states), normal(d), normal(heads)]
    parts = continuous(heads, states, make)
    if dtype != torch.float64:
        own, parts = [x.float() for x in own], [x.float() for x in parts]
    pole, weight = h3.discretised(*parts)
    return (q, k, v), h3.Filters(*own[:3], pole, weight, own[3]), parts


def by_definition(q, k, v, f, parts):
    """Both models token by token as the papers have them: s moved on by one, and x' = A x + B u by
    the bilinear rule, of whose conjugate pairs only one half is carried."""
    log_step, log_rate, frequency, b, c = parts
    (B, T, d), (H, M) = q.shape, frequency.shape
    p, N = d // H, f.shift_in.shape[1]
    A = torch.complex(-log_rate.exp(), frequency)
    B_in, C_out = torch.complex(*b.unbind(-1)), torch.complex(*c.unbind(-1))
    dt = log_step.exp()[:, None]
    A_bar = (1 + dt * A / 2) / (1 - dt * A / 2)
    B_bar = dt * B_in / (1 - dt * A / 2)
    out = torch.zeros_like(q)
    for n in range(B):
        s = torch.zeros(d, N, dtype=q.dtype)
        x = torch.zeros(H, p, p, M, dtype=A.dtype)
        for t in range(T):
            s = torch.cat([torch.zeros(d, 1, dtype=q.dtype), s[:, :-1]], 1)
            s = s + f.shift_in * k[n, t][:, None]
            shifted = ((s * f.shift_out).sum(1) + f.shift_skip * k[n, t]).view(H, p)
            pairs = shifted[:, :, None] * v[n, t].view(H, 1, p)
            x = A_bar[:, None, None] * x + B_bar[:, None, None] * pairs[..., None]
            y = 2 * (C_out[:, None, None] * x).sum(-1).real + f.skip[:, None, None] * pairs
            out[n, t] = (q[n, t].view(H, p, 1) * y).sum(1).flatten()
    return out


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=15)
@given(
    T=st.integers(1, 80),
    heads=st.integers(1, 3),
    p=st.integers(1, 3),
    states=st.sampled_from([2, 4, 10]),
)
@example(T=64, heads=1, p=2, states=4)
@example(T=65, heads=2, p=1, states=64)
@example(T=1, heads=1, p=1, states=2)
def test_each_form_is_its_definition(form, T, heads, p, states):
    tokens, f, parts = case(T, heads, p, states, seed=T)
    out, state = form(*tokens, f)
    assert relative(out, by_definition(*tokens, f, parts)) < EXACT
    assert form is h3.recurrent or state is None  # training asks for no state


@settings(max_examples=20)
@given(T=st.integers(2, 150), cut=st.floats(0, 1), states=st.sampled_from([2, 16]))
@example(T=130, cut=0.5, states=16)
@example(T=130, cut=0.01, states=16)  # fewer keys than the shift remembers
def test_a_prefill_in_two_parts_then_steps_equals_the_whole(T, cut, states):
    tokens, f, _ = case(T, states=states, seed=T)
    at = min(max(1, round(cut * T)), T - 1)
    expected, end = h3.recurrent(*tokens, f)
    first, state = h3.fft(*(x[:, :at] for x in tokens), f, h3.new_state(tokens[0], f), empty=True)
    last, state = h3.fft(*(x[:, at:] for x in tokens), f, state)
    assert relative(torch.cat([first, last], 1), expected) < EXACT
    assert relative(state.shift, end.shift) < EXACT
    assert relative(state.modes, end.modes) < EXACT
    _, state = h3.fft(*(x[:, :at] for x in tokens), f, h3.new_state(tokens[0], f))
    held = [x.data_ptr() for x in vars(state).values()]
    steps = [h3.recurrent_step(*(x[:, n] for x in tokens), f, state) for n in range(at, T)]
    assert relative(torch.stack(steps, 1), expected[:, at:]) < EXACT
    assert held == [x.data_ptr() for x in vars(state).values()]
    assert relative(state.modes, end.modes) < EXACT


@pytest.mark.parametrize("T", [2, 9, 70])
def test_gradients_of_both_forms_agree(T):
    found = []
    for form in FORMS:
        tokens, f, _ = case(T)
        leaves = [x.requires_grad_() for x in (*tokens, *f)]
        out, _ = form(*leaves[:3], h3.Filters(*leaves[3:]))
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        found.append(
            [torch.cat([x.grad.real, x.grad.imag]) if x.is_complex() else x.grad for x in leaves]
        )
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < EXACT


def test_the_compiler_takes_it_whole():
    tokens, f, _ = case(20)
    compiled = torch.compile(h3.fft, fullgraph=True, backend="aot_eager")
    assert relative(compiled(*tokens, f)[0], h3.fft(*tokens, f)[0]) < EXACT


def test_no_pairs_are_kept_for_the_backward_pass():
    """8 x 8 pairs a head: kept, with their spectra, they would be 32 times the input."""
    kept = []
    tokens, f, _ = case(256, heads=2, p=8)
    leaves = [x.requires_grad_() for x in tokens]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        h3.fft(*leaves, f)
    storages = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in kept}
    assert sum(storages.values()) < 8 * tokens[0].nbytes


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_kept_in_fp32_and_autocast_does_not_reach_them(form, dtype):
    tokens, f, _ = case(100, dtype=dtype)
    exact, _ = h3.recurrent(*(x.double() for x in tokens), h3.Filters(*map(_double, f)))
    with torch.autocast("cpu", torch.bfloat16):
        out, state = form(*tokens, f, h3.new_state(tokens[0], f))
    assert out.dtype == dtype
    assert {x.dtype for x in vars(state).values()} == {torch.float32}
    assert relative(out, exact) < max(1e-5, 4 * torch.finfo(dtype).eps)


def _double(x):
    return x.to(torch.complex128) if x.is_complex() else x.double()


def test_a_slow_mode_keeps_its_digits_over_a_long_sequence():
    """ln(A) times a position of 16k: fp32 against fp64."""
    tokens, f, _ = case(16384, heads=1, p=1, dtype=torch.float32)
    exact, _ = h3.fft(*(x.double() for x in tokens), h3.Filters(*map(_double, f)))
    out, _ = h3.fft(*tokens, f)
    assert (out - exact).norm() / exact.norm() < 1e-4


def test_discretised_by_the_bilinear_rule():
    """A = -1/2, dt = 1/2: (1 - 1/8) / (1 + 1/8) = 7/9; B C = 3: 2 x 1/2 x 3 / (9/8) = 8/3."""
    one = torch.ones(1, 1, dtype=torch.float64)
    real = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    pole, weight = h3.discretised(
        one[0] * math.log(0.5), one * math.log(0.5), 0 * one, real, 3 * real
    )
    assert pole.item() == pytest.approx(7 / 9)
    assert weight.item() == pytest.approx(8 / 3)


# --- costs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 63, 64, 65, 200])
def test_flops_equal_flop_counter_mode(T):
    (q, k, v), f, _ = case(T, heads=2, p=3, states=8)
    one = [x[:1] for x in (q, k, v)]
    with FlopCounterMode(display=False) as counter:
        h3.fft(*one, f)
    assert counter.get_total_flops() == h3.counted_flops(T, heads=2, states=8)
    with FlopCounterMode(display=False) as counter:
        h3.recurrent_step(*(x[:, 0] for x in one), f, h3.new_state(one[0], f))
    assert counter.get_total_flops() == h3.step_flops(heads=2, width=6, states=8)


def test_flops_by_hand():
    """d 6 in heads of 3: 6 channels and 18 pairs, each two transforms of 16 and 8 products."""
    assert h3.uncounted_flops(8, heads=2, width=6) == 24 * (2 * 2.5 * 16 * 4 + 6 * 8)
    assert h3.step_flops(2, 6, 8) + h3.uncounted_step_flops(2, 6, 8) == 4 * 8 * 6 + 6 * 8 * 18
