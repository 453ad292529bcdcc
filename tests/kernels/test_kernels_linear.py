"""Linear attention with a denominator: every form is the weighted average written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import Case, cases, relative
from kernel_laws import by_steps, copy_of, gradients, in_parts, same
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import linear
from retnet_bench.kernels.linear import LinearState

EXACT = 1e-12
SMALL = Case(2, 23, 2, 4, 6, 8, stateful=True, seed=0)


def _turned(more):
    return tuple(more) or None


def chunkwise(inputs, chunk, state):
    q, k, v, *turned = inputs
    return linear.chunkwise(q, k, v, chunk, state, turned=_turned(turned))


def parallel(inputs, chunk, state):
    q, k, v, *turned = inputs
    return linear.parallel(q, k, v, state=state, turned=_turned(turned))


def recurrent(inputs, chunk, state):
    q, k, v, *turned = inputs
    return linear.recurrent(q, k, v, state=state, turned=_turned(turned))


def step(inputs, state):
    q, k, v, *turned = inputs
    return linear.recurrent_step(q, k, v, state, turned=_turned(turned))


FORMS = (chunkwise, parallel, recurrent)


def tensors(case: Case, turned: bool, dtype=torch.float64):
    """(q, k, v) and, `turned`, another (q, k) for the numerator; state."""
    q, k, v, _, sums = case.tensors(dtype)
    inputs = [linear.feature(q), linear.feature(k), v] + ([k.flip(1), q.flip(1)] if turned else [])
    if sums is None:
        return inputs, None
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return inputs, LinearState(sums.to(wide), sums.abs().sum(-1).to(wide))


def written_out(inputs, state, eps=linear.EPS):
    """One token at a time: weights of all before it, their average, and the first state's part."""
    q, k, v, *turned = (x.double() for x in inputs)
    q_num, k_num = turned or (q, k)
    sums, keys = (x.double() for x in (state.sums, state.keys)) if state else (0.0, 0.0)
    out = []
    for n in range(q.shape[1]):
        rows = slice(0, n + 1)
        now_sums = sums + torch.einsum("bthk,bthv->bhkv", k_num[:, rows], v[:, rows])
        now_keys = keys + k[:, rows].sum(1)
        numerator = torch.einsum("bhk,bhkv->bhv", q_num[:, n], now_sums)
        out.append(numerator / (torch.einsum("bhk,bhk->bh", q[:, n], now_keys) + eps)[..., None])
    return torch.stack(out, 1), LinearState(now_sums, now_keys)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30)
@given(case=cases, turned=st.booleans())
@example(case=replace(SMALL, length=16), turned=True)  # a whole number of chunks
@example(case=replace(SMALL, length=8), turned=False)  # exactly one
@example(case=replace(SMALL, length=7, stateful=False), turned=True)  # less than one
@example(case=replace(SMALL, length=1), turned=False)
@example(case=replace(SMALL, chunk=1), turned=True)
def test_each_form_is_the_average_written_out(form, case, turned):
    inputs, state = tensors(case, turned)
    same(form(inputs, case.chunk, state), written_out(inputs, state), EXACT)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(case=cases, cut=st.floats(0, 1), turned=st.booleans())
def test_two_calls_equal_one_and_leave_the_given_state_alone(form, case, cut, turned):
    inputs, state = tensors(case, turned)
    kept = copy_of(state)
    at = max(1, round(cut * case.length))
    same(in_parts(form, inputs, case.chunk, state, at), form(inputs, case.chunk, state), EXACT)
    assert state is None or torch.equal(state.sums, kept.sums)
    assert state is None or torch.equal(state.keys, kept.keys)


@settings(max_examples=20)
@given(case=cases, turned=st.booleans())
def test_steps_equal_recurrent_and_update_the_state_in_place(case, turned):
    inputs, state = tensors(replace(case, stateful=True), turned)
    same(by_steps(step, inputs, copy_of(state)), recurrent(inputs, 0, state), EXACT)


@pytest.mark.parametrize("length", [1, 8, 9, 24])
@pytest.mark.parametrize("turned", [False, True])
def test_gradients_of_all_forms_agree(length, turned):
    inputs, state = tensors(replace(SMALL, length=length), turned)
    expected = gradients(recurrent, inputs, SMALL.chunk, state)
    for form in (chunkwise, parallel):
        for a, b in zip(gradients(form, inputs, SMALL.chunk, state), expected, strict=True):
            assert relative(a, b) < EXACT


@pytest.mark.parametrize("turned", [False, True])
def test_the_compiler_takes_chunkwise_whole_and_gets_the_same(turned):
    whole = torch.compile(chunkwise, fullgraph=True, backend="aot_eager")
    inputs, state = tensors(replace(SMALL, length=9), turned)
    for a, b in zip(whole(inputs, 4, state)[0], chunkwise(inputs, 4, state)[0], strict=True):
        assert relative(a, b) < EXACT


def test_the_feature_is_elu_plus_one_and_keeps_digits_that_elu_loses():
    x = torch.linspace(-12, 12, 101, dtype=torch.float64, requires_grad=True)
    assert relative(linear.feature(x), F.elu(x) + 1) < 1e-15
    assert torch.autograd.gradcheck(linear.feature, x)
    small = torch.tensor([-20.0, -40.0])
    assert torch.equal(F.elu(small) + 1, torch.zeros(2))
    assert relative(linear.feature(small), small.exp()) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_equal_tokens_average_to_themselves(form):
    """Every weight equal, so every output is the mean of the values so far, here their own."""
    q = k = torch.full((1, 21, 2, 4), 0.7, dtype=torch.float64)
    v = torch.full((1, 21, 2, 3), -1.5, dtype=torch.float64)
    out, state = form((q, k, v), 8, None)
    # The first of 21 has the smallest denominator, 4 x 0.49, for eps to be seen in.
    assert ((out / v - 1).abs() < linear.EPS / 1.96).all()
    assert relative(state.keys, torch.full((1, 2, 4), 21 * 0.7)) < 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_state_is_kept_in_fp32_and_the_output_in_the_inputs_dtype(form, dtype):
    inputs, state = tensors(SMALL, False, dtype)
    for start in (None, state):
        out, new = form(inputs, SMALL.chunk, start)
        assert (out.dtype, new.sums.dtype, new.keys.dtype) == (dtype, torch.float32, torch.float32)
        same((out, new), written_out(inputs, start), 4 * torch.finfo(dtype).eps)
    assert step([x[:, 0] for x in inputs], state).dtype == dtype


@pytest.mark.parametrize("form", FORMS)
def test_a_bf16_input_does_not_round_the_running_denominator(form):
    """600 equal keys: a bf16 sum would stop at 256, and averages would double."""
    ones = torch.ones(1, 600, 1, 2, dtype=torch.bfloat16)
    out, state = form((ones, ones, ones), 64, None)
    assert torch.equal(state.keys, torch.full((1, 1, 2), 600.0))
    assert ((out.float() - 1).abs() <= 2**-7).all()


@pytest.mark.parametrize("form", [chunkwise, parallel])
def test_fp16_does_not_overflow_at_length_2048(form):
    """Denominators reach 2048 x 64: twice the largest fp16 number."""
    case = Case(1, 2048, 1, 64, 4, 64, stateful=False, seed=3)
    q, k, v = (x.half() for x in tensors(case, False)[0])
    assert (q.double() @ k.double().sum(1, keepdim=True).transpose(-1, -2)).max() > 65504
    out, _ = form((q, k, v), 64, None)
    exact, _ = chunkwise([x.double() for x in (q, k, v)], 64, None)
    assert (out.double() - exact).norm() / exact.norm() < 8 * torch.finfo(torch.float16).eps


@pytest.mark.parametrize(("length", "chunk"), [(24, 8), (8, 8), (21, 8), (5, 8)])
@pytest.mark.parametrize("turned", [False, True])
def test_flops_equal_flop_counter_mode(length, chunk, turned):
    inputs, _ = tensors(Case(1, length, 1, 4, 6, chunk, stateful=False, seed=0), turned)
    for form in FORMS:
        with FlopCounterMode(display=False) as counter:
            form(inputs, chunk, None)
        expected = linear.flops(form.__name__, length, chunk, 4, 6, turned, masked=True)
        assert counter.get_total_flops() == expected


def test_unmasked_flops_leave_out_the_future_only():
    masked, needed = (linear.flops("chunkwise", 16, 8, 4, 6, False, x) for x in (True, False))
    spared = masked - needed
    assert spared == 2 * 2 * 28 * (4 + 6)


def test_a_broken_twin_is_seen(monkeypatch):
    """The denominator's part from before the chunk left out: each chunk normalised on its own."""
    inputs, state = tensors(SMALL, False)
    kept = linear.scan

    def without_keys(added, start, decay):
        before, last = kept(added, start, decay)
        return (before if added.dim() == 5 else torch.zeros_like(before)), last

    monkeypatch.setattr(linear, "scan", without_keys)
    assert relative(chunkwise(inputs, 8, state)[0], written_out(inputs, state)[0]) > 1e-3
