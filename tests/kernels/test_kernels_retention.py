"""Three forms, one answer; the answer is Eq. 5's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import Case, by_eq5, cases, relative

from retnet_bench.kernels import retention
from retnet_bench.kernels.device import Device

FORMS = (retention.parallel, retention.chunkwise, retention.recurrent)
EXACT = 1e-12
SMALL = Case(2, 23, 2, 4, 6, 8, stateful=True, seed=0)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(case=cases)
@example(case=replace(SMALL, length=16))  # a whole number of chunks
@example(case=replace(SMALL, length=8))  # exactly one
@example(case=replace(SMALL, length=7))  # less than one
@example(case=replace(SMALL, length=9, stateful=False))
@example(case=replace(SMALL, length=1))
@example(case=replace(SMALL, chunk=1))
def test_each_form_is_equation_5(form, case):
    q, k, v, decay, state = case.tensors()
    out, new = form(q, k, v, decay, chunk=case.chunk, state=state)
    expected_out, expected_new = by_eq5(q, k, v, decay, state)
    assert relative(out, expected_out) < EXACT
    assert relative(new, expected_new) < EXACT


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(case=cases, cut=st.floats(0, 1))
def test_chained_calls_equal_one_call_and_leave_the_given_state_alone(form, case, cut):
    q, k, v, decay, state = case.tensors()
    given_state = None if state is None else state.clone()
    whole, end = form(q, k, v, decay, chunk=case.chunk, state=state)
    at = min(max(1, round(cut * case.length)), case.length)
    first, middle = form(*(x[:, :at] for x in (q, k, v)), decay, chunk=case.chunk, state=state)
    parts = [first]
    if at < case.length:
        rest = (x[:, at:] for x in (q, k, v))
        last, middle = form(*rest, decay, chunk=case.chunk, state=middle)
        parts.append(last)
    assert relative(torch.cat(parts, 1), whole) < EXACT
    assert relative(middle, end) < EXACT
    assert state is None or torch.equal(state, given_state)


@settings(max_examples=25)
@given(case=cases)
def test_steps_equal_recurrent_and_update_the_state_in_place(case):
    q, k, v, decay, _ = case.tensors()
    start = replace(case, stateful=True).tensors()[-1]
    state = start.clone()
    steps = [
        retention.recurrent_step(q[:, n], k[:, n], v[:, n], decay, state)
        for n in range(case.length)
    ]
    out, new = retention.recurrent(q, k, v, decay, state=start)
    assert relative(torch.stack(steps, 1), out) < EXACT
    assert relative(state, new) < EXACT


def _gradients(form, case: Case, chunk: int):
    q, k, v, decay, state = case.tensors()
    leaves = [x.requires_grad_() for x in (q, k, v, state)]
    out, new = form(q, k, v, decay, chunk=chunk, state=state)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    ((out * weights).sum() + new.square().sum()).backward()
    return [x.grad for x in leaves]


@pytest.mark.parametrize("length", [1, 8, 9, 23, 24])
def test_gradients_of_all_forms_agree(length):
    case = replace(SMALL, length=length)
    expected = _gradients(retention.recurrent, case, 0)
    for form in (retention.parallel, retention.chunkwise):
        for found, wanted in zip(_gradients(form, case, case.chunk), expected, strict=True):
            assert relative(found, wanted) < EXACT


def test_the_compiler_takes_chunkwise_whole_and_gets_the_same():
    """In one graph: a break would let one arm's compiled step run half eagerly."""
    compiled = torch.compile(retention.chunkwise, fullgraph=True, backend="aot_eager")
    expected = _gradients(retention.chunkwise, SMALL, SMALL.chunk)
    for found, wanted in zip(_gradients(compiled, SMALL, SMALL.chunk), expected, strict=True):
        assert relative(found, wanted) < EXACT


@pytest.mark.parametrize("form", [retention.parallel, retention.chunkwise])
def test_gradcheck(form):
    case = Case(1, 5, 2, 2, 3, 2, stateful=True, seed=1)
    q, k, v, decay, state = case.tensors()
    leaves = tuple(x.requires_grad_() for x in (q, k, v, state))
    assert torch.autograd.gradcheck(
        lambda q, k, v, s: form(q, k, v, decay, chunk=case.chunk, state=s), leaves
    )


@pytest.mark.parametrize("form", FORMS)
def test_gamma_one_sums_everything(form):
    """With q, k, v all ones, d_k = 4: scores are 2, so position n gives 2 (n + 1)."""
    q, k, v = torch.ones(1, 11, 1, 4), torch.ones(1, 11, 1, 4), torch.ones(1, 11, 1, 3)
    out, _ = form(q, k, v, torch.zeros(1), chunk=4)
    assert torch.equal(out[0, :, 0, 0], 2.0 * torch.arange(1, 12))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_state_is_kept_in_fp32_and_the_output_in_the_inputs_dtype(form, dtype):
    q, k, v, decay, state = SMALL.tensors(dtype)
    for start in (None, state.float()):
        out, new = form(q, k, v, decay.float(), chunk=SMALL.chunk, state=start)
        assert (out.dtype, new.dtype) == (dtype, torch.float32)
        expected = by_eq5(q, k, v, decay, start)
        assert relative(out, expected[0]) < 4 * torch.finfo(dtype).eps
        assert relative(new, expected[1]) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_step_keeps_the_state_in_fp32(dtype):
    q, k, v, decay, state = SMALL.tensors(dtype)
    state = state.float()
    out = retention.recurrent_step(q[:, 0], k[:, 0], v[:, 0], decay.float(), state)
    assert (out.dtype, state.dtype) == (dtype, torch.float32)


def test_a_bf16_input_does_not_round_the_running_state_at_every_step():
    """400 equal contributions at gamma 1: a bf16 accumulator would stop at 256."""
    ones = torch.ones(1, 400, 1, 1, dtype=torch.bfloat16)
    for form in (retention.chunkwise, retention.recurrent):
        _, state = form(ones, ones, ones, torch.zeros(1), chunk=1)
        assert state.item() == 400.0


@pytest.mark.parametrize("form", [retention.parallel, retention.chunkwise])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lost", [[1 / 32, 1 / 512], [2.0**-5, 2.0**-24]])
def test_nothing_overflows_at_length_4096(form, dtype, lost):
    """gamma^-4095 is 3e56 at gamma = 31/32: a D or zeta formed by division would be inf."""
    log_decay = torch.log1p(-torch.tensor(lost, dtype=torch.float64)).float()
    q, k, v = Case(1, 4096, 2, 4, 4, 1, False, 3).tensors(dtype)[:3]
    out, state = form(q, k, v, log_decay, chunk=512)
    assert torch.isfinite(out).all()
    assert torch.isfinite(state).all()
    exact, _ = retention.chunkwise(q.double(), k.double(), v.double(), log_decay.double(), chunk=64)
    # Sums of up to 4096 terms: a few eps more than one product's.
    assert (out.double() - exact).norm() / exact.norm() < 16 * torch.finfo(dtype).eps


def test_gradients_are_finite_at_a_fast_decay_and_great_length():
    """gamma^-2047 above the diagonal is inf: masked by a product it would give NaN."""
    q, k, v = (
        x.float().requires_grad_() for x in Case(1, 2048, 1, 2, 2, 1, False, 4).tensors()[:3]
    )
    out, _ = retention.parallel(q, k, v, torch.log(torch.tensor([0.5])))
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("length", [7, 8, 40, 41])
def test_groups_of_chunks_change_nothing(length, group, monkeypatch):
    """Whatever fits in a cache at once: forward, backward and both ends of the state."""
    case = replace(SMALL, length=length)
    expected = _gradients(retention.recurrent, case, 0)
    q, k, v, decay, state = case.tensors()
    wanted = retention.recurrent(q, k, v, decay, state=state)
    monkeypatch.setattr(Device, "at_once", lambda self, piece_bytes, pieces: min(group, pieces))
    for found, right in zip(_gradients(retention.chunkwise, case, 8), expected, strict=True):
        assert relative(found, right) < EXACT
    for found, right in zip(retention.chunkwise(q, k, v, decay, 8, state), wanted, strict=True):
        assert relative(found, right) < EXACT


@pytest.mark.parametrize("read", ["output", "state"])
def test_gradients_where_only_one_of_both_results_is_used(read):
    for length in (8, 24):
        found, wanted = (
            _gradients_of(form, replace(SMALL, length=length), read)
            for form in (retention.chunkwise, retention.recurrent)
        )
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=EXACT, atol=EXACT)


def _gradients_of(form, case: Case, read: str):
    q, k, v, decay, state = case.tensors()
    leaves = [x.requires_grad_() for x in (q, k, v, state)]
    out, new = form(q, k, v, decay, chunk=8, state=state)
    chosen = out if read == "output" else new
    return torch.autograd.grad(chosen.square().sum(), leaves, materialize_grads=True)


def test_chunkwise_keeps_its_inputs_and_the_states_alone():
    """Not the scores (B H T C), nor the states' increments."""
    case = replace(SMALL, length=24, chunk=8, stateful=False)
    q, k, v, decay, _ = case.tensors()
    leaves = [x.requires_grad_() for x in (q, k, v)]
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.update({x.data_ptr(): x.numel()}) or x, lambda x: x
    ):
        retention.chunkwise(*leaves, decay, chunk=8)
    B, T, H, d_k = q.shape
    states = T // 8 * B * H * d_k * v.shape[-1]
    factors = H * (8 * 8 + 8 + 8 + 1)
    assert sum(kept.values()) == sum(x.numel() for x in leaves) + states + factors


def test_bf16_autocast_is_near_fp32_and_gives_gradients_of_the_inputs_dtype():
    case = Case(2, 40, 2, 8, 8, 8, stateful=False, seed=0)
    q, k, v, decay, _ = case.tensors(torch.float32)
    decay, leaves = decay.float(), [x.requires_grad_() for x in (q, k, v)]
    with torch.autocast("cpu", torch.bfloat16):
        out, new = retention.chunkwise(q, k, v, decay, 8)
    assert new.dtype == torch.float32
    found = torch.autograd.grad(out.float().square().sum(), leaves)
    exact, _ = retention.recurrent(q, k, v, decay)
    expected = torch.autograd.grad(exact.square().sum(), leaves)
    for a, b in zip((out, *found), (exact, *expected), strict=True):
        assert relative(a.float(), b) < 0.02
    assert {x.dtype for x in found} == {torch.float32}


def test_a_second_derivative_of_chunkwise_is_refused():
    q, k, v, decay, _ = SMALL.tensors()
    out, _ = retention.chunkwise(q.requires_grad_(), k, v, decay, chunk=8)
    (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
