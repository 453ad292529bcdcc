"""The delta rule: two forms, one answer; the answer is that of its transitions written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from delta_inputs import DeltaCase, by_transitions, cases
from fake_fla_delta import install_fla_delta
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import relative
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import KERNELS, Setting, best, delta

FORMS = (delta.chunkwise, delta.recurrent)
EXACT = 1e-12
SMALL = DeltaCase()
UNGATED = replace(SMALL, gate="none")
CHANNEL = replace(SMALL, gate="channel")
EACH = pytest.mark.parametrize("case", [SMALL, UNGATED, CHANNEL], ids=["head", "none", "channel"])


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(case=cases)
@example(case=replace(SMALL, length=16))  # a whole number of chunks
@example(case=replace(SMALL, length=9))  # one row more: the state is that of the last real row
@example(case=replace(SMALL, length=8))
@example(case=replace(UNGATED, length=7, stateful=False))
@example(case=replace(SMALL, length=1))
@example(case=replace(UNGATED, length=1, stateful=False))
@example(case=replace(SMALL, chunk=1))
@example(case=replace(CHANNEL, length=13))
@example(case=replace(CHANNEL, length=1, stateful=False))
def test_each_form_is_the_product_of_its_transitions(form, case):
    q, k, v, beta, decay, state = case.tensors()
    out, new = form(q, k, v, beta, decay, chunk=case.chunk, state=state)
    expected_out, expected_new = by_transitions(q, k, v, beta, decay, state)
    assert relative(out, expected_out) < EXACT
    assert relative(new, expected_new) < EXACT


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(case=cases, cut=st.floats(0, 1))
def test_parts_then_steps_equal_one_call_and_leave_the_given_state_alone(form, case, cut):
    q, k, v, beta, decay, state = case.tensors()
    given_state = None if state is None else state.clone()
    whole, end = form(q, k, v, beta, decay, chunk=case.chunk, state=state)
    at = min(max(1, round(cut * case.length)), case.length)

    def part(a, b):
        return [None if x is None else x[:, a:b] for x in (q, k, v, beta, decay)]

    outs, now = [], state
    for a, b in ((0, (at + 1) // 2), ((at + 1) // 2, at)):
        if a < b:
            out, now = form(*part(a, b), chunk=case.chunk, state=now)
            outs.append(out)
    for t in range(at, case.length):
        token = [None if x is None else x[:, 0] for x in part(t, t + 1)]
        held = now
        outs.append(delta.recurrent_step(*token, now)[:, None])
        assert now is held
    assert relative(torch.cat(outs, 1), whole) < EXACT
    assert relative(now, end) < EXACT
    assert state is None or torch.equal(state, given_state)


def _gradients(form, inputs, chunk):
    leaves = [x.clone().requires_grad_() for x in inputs if x is not None]
    given = iter(leaves)
    q, k, v, beta, decay, state = (None if x is None else next(given) for x in inputs)
    out, new = form(q, k, v, beta, decay, chunk=chunk, state=state)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    ((out * weights).sum() + new.square().sum()).backward()
    return [x.grad for x in leaves]


@EACH
@pytest.mark.parametrize("length", [1, 8, 9, 23, 24])
def test_gradients_of_both_forms_agree(case, length):
    inputs = replace(case, length=length).tensors()
    expected = _gradients(delta.recurrent, inputs, 0)
    for found, wanted in zip(_gradients(delta.chunkwise, inputs, 8), expected, strict=True):
        assert relative(found, wanted) < EXACT


@EACH
def test_gradcheck(case):
    inputs = replace(case, batch=1, length=5, d_k=3, d_v=2, chunk=2).tensors()
    leaves = tuple(x.requires_grad_() for x in inputs if x is not None)

    def run(q, k, v, beta, *rest):
        return delta.chunkwise(q, k, v, beta, None if len(rest) == 1 else rest[0], 2, rest[-1])

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("case", [SMALL, replace(UNGATED, length=8)], ids=["head", "none"])
def test_the_compiler_takes_chunkwise_whole_and_gets_the_same(case):
    compiled = torch.compile(delta.chunkwise, fullgraph=True, backend="aot_eager")
    inputs = case.tensors()
    expected = _gradients(delta.chunkwise, inputs, case.chunk)
    for found, wanted in zip(_gradients(compiled, inputs, case.chunk), expected, strict=True):
        assert relative(found, wanted) < EXACT


@pytest.mark.parametrize("form", FORMS)
def test_with_beta_one_a_key_that_comes_back_replaces_its_value(form):
    """64 equal keys: only the last value is held, so o_t = q.k v_t / sqrt(d_k). Where the inverse
    is made by repeated squaring, fp32 is wrong here by 1e9."""
    k = torch.tensor([0.6, 0.8, 0, 0]).expand(1, 64, 1, 4)
    v = torch.randn(1, 64, 1, 5)
    out, state = form(k, k, v, torch.ones(1, 64, 1), None, chunk=64)
    assert relative(out, v / 2) < 1e-5
    assert relative(state[0, 0], k[0, 0, 0][:, None] * v[0, -1]) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_with_beta_two_a_key_that_comes_back_reflects(form):
    """S^T k <- 2 v - S^T k: with v = 1 always, 2 and 0 in turn."""
    k = torch.tensor([0.0, 1.0]).expand(1, 64, 1, 2)
    out, _ = form(k, k, torch.ones(1, 64, 1, 3), torch.full((1, 64, 1), 2.0), None, chunk=64)
    expected = torch.tensor([2.0, 0.0]).repeat(32) * 2**-0.5
    assert torch.allclose(out[0, :, 0], expected[:, None].expand(64, 3), atol=1e-6)


@pytest.mark.parametrize(("beta", "limit"), [(1.0, 2e-6), (1.999, 1e-3), (2.0, 3e-4)])
@pytest.mark.parametrize("seed", range(4))
def test_fp32_keeps_its_digits_where_keys_repeat(beta, limit, seed):
    """Two to three times the largest of 150 keys. The inverse of a chunk's triangle has entries
    that cancel: near 2 it is off by up to 5e-4, the recurrence by 1.4e-5."""
    q, _, v, *_ = DeltaCase(length=192, heads=3, d_k=16, d_v=24).tensors()
    random = torch.Generator().manual_seed(seed)
    key = torch.randn(1, 1, 1, 16, dtype=torch.float64, generator=random)
    k = F.normalize(key, dim=-1).expand_as(q)
    betas = torch.full(q.shape[:3], beta, dtype=torch.float64)
    exact, _ = delta.recurrent(q, k, v, betas, None)
    out, _ = delta.chunkwise(*(x.float() for x in (q, k, v, betas)), None, 64)
    assert relative(out, exact) < limit


@pytest.mark.parametrize("gate", ["head", "channel"])
@pytest.mark.parametrize("per_token", [-4.0, -20.0, -1e4, -1e30])
def test_decays_far_below_the_smallest_number_stay_exact(per_token, gate):
    """e^-c, were it formed, would be inf from a sum of -88 on, and 0 inf is NaN."""
    q, k, v, beta, decay, state = DeltaCase(length=100, gate=gate).tensors(torch.float32)
    decay.fill_(per_token)
    decay[:, 40:60] = 0.0
    out, new = delta.chunkwise(q, k, v, beta, decay, 64, state)
    expected = by_transitions(q, k, v, beta, decay, state)
    assert relative(out, expected[0]) < 1e-5
    assert relative(new, expected[1]) < 1e-5
    grads = _gradients(delta.chunkwise, [q, k, v, beta, decay, state], 64)
    wanted = _gradients(delta.recurrent, [q, k, v, beta, decay, state], 0)
    assert all(torch.isfinite(g).all() for g in grads)
    for found, exact in zip(grads, wanted, strict=True):
        assert (found - exact).abs().max() < 1e-4 * max(1.0, exact.abs().max())


@pytest.mark.parametrize("form", FORMS)
def test_a_log_decay_of_zero_is_no_gate(form):
    q, k, v, beta, _, state = SMALL.tensors()
    ungated = form(q, k, v, beta, None, chunk=8, state=state)
    for none in (torch.zeros_like(beta), torch.zeros_like(k)):
        gated = form(q, k, v, beta, none, chunk=8, state=state)
        assert relative(gated[0], ungated[0]) < EXACT
        assert relative(gated[1], ungated[1]) < EXACT


@pytest.mark.parametrize("form", FORMS)
def test_equal_channels_are_one_head(form):
    q, k, v, beta, decay, state = SMALL.tensors()
    by_head = form(q, k, v, beta, decay, chunk=8, state=state)
    by_channel = form(q, k, v, beta, decay[..., None].expand_as(k), chunk=8, state=state)
    assert relative(by_channel[0], by_head[0]) < EXACT
    assert relative(by_channel[1], by_head[1]) < EXACT


@EACH
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_state_is_kept_in_fp32_and_the_output_in_the_inputs_dtype(form, dtype, case):
    q, k, v, beta, decay, state = replace(case, length=200, d_k=16, d_v=24).tensors(dtype)
    for start in (None, state):
        out, new = form(q, k, v, beta, decay, chunk=64, state=start)
        assert (out.dtype, new.dtype) == (dtype, torch.float32)
        expected = by_transitions(q, k, v, beta, decay, start)
        for found, exact in zip((out, new), expected, strict=True):
            error = (found.double() - exact).norm() / exact.norm()
            # Sums of log decays reach -200, and 200 times fp32's eps is an error of the decay.
            assert error < max(4 * torch.finfo(dtype).eps, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_step_keeps_the_state_in_fp32(dtype):
    q, k, v, beta, decay, state = SMALL.tensors(dtype)
    out = delta.recurrent_step(*(x[:, 0] for x in (q, k, v, beta, decay)), state)
    assert (out.dtype, state.dtype) == (dtype, torch.float32)


@EACH
@pytest.mark.parametrize("form", FORMS)
def test_autocast_narrows_nothing_inside(form, case):
    inputs = case.tensors(torch.float32)
    expected = form(*inputs[:5], chunk=8, state=inputs[5])
    with torch.autocast("cpu", torch.bfloat16):
        found = form(*inputs[:5], chunk=8, state=inputs[5])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@EACH
@pytest.mark.parametrize("length", [1, 7, 8, 9, 24, 29])
def test_flops_are_what_the_counter_sees(case, length):
    case = replace(case, batch=1, length=length, stateful=False)
    inputs = [x.requires_grad_() if x is not None else None for x in case.tensors()]
    dims = (case.d_k, case.d_v)
    by_form = {
        delta.chunkwise: (
            delta.chunkwise_flops(length, 8, *dims, True, case.gate == "channel"),
            delta.chunkwise_backward_flops(length, 8, *dims, case.gate == "channel"),
        ),
        delta.recurrent: (
            delta.recurrent_flops(length, *dims),
            delta.recurrent_backward_flops(length, *dims, case.gate != "none"),
        ),
    }
    for form, (forward, backward) in by_form.items():
        with FlopCounterMode(display=False) as counter:
            out, _ = form(*inputs[:5], chunk=8)
        assert counter.get_total_flops() == case.heads * forward
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == case.heads * backward


def test_step_flops_are_what_the_counter_sees():
    inputs = [x[:, 0] for x in replace(SMALL, batch=1).tensors()[:5]]
    with FlopCounterMode(display=False) as counter:
        delta.recurrent_step(*inputs, torch.zeros(1, 2, 4, 6, dtype=torch.float64))
    assert counter.get_total_flops() == 2 * delta.recurrent_flops(1, 4, 6)


def test_unmasked_flops_leave_out_what_causality_discards():
    """16 tokens in chunks of 8: 2 x 28 future pairs, each 2 (3 d_k + 2 d_v)."""
    masked, unmasked = (delta.chunkwise_flops(16, 8, 4, 6, m) for m in (True, False))
    assert masked - unmasked == 56 * 2 * (3 * 4 + 2 * 6)


@pytest.mark.parametrize("c", [1, 2, 3, 8, 13])
def test_inverse_flops_are_those_of_forward_substitution(c):
    """X_ij = -L_ij - sum over k between of L_ik X_kj."""
    products = sum(max(0, i - j - 1) for i in range(c) for j in range(c))
    assert delta.inverse_flops(c, 16) == 2 * products
    assert delta.inverse_flops(2 * 16 + c, 16) == 2 * (16 * 15 * 14 / 3) + 2 * products


BROKEN = {
    "L as it is printed, without decays": lambda q, k: {"gram": k @ k.mT},
    "queries that meet an undecayed state": lambda q, k: {"queries": q},
    "keys that meet an undecayed state": lambda q, k: {"keys": k},
    "writes that do not decay": lambda q, k: {"to_end": k},
    "a state that does not decay": lambda q, k: {"total": torch.ones(len(k), 1, 1).double()},
}


@pytest.mark.parametrize("gate", ["head", "channel"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_decay_shows(monkeypatch, gate, broken):
    right = delta._inside
    monkeypatch.setattr(
        delta, "_inside", lambda q, k, *rest: right(q, k, *rest)._replace(**broken(q, k))
    )
    _assert_wrong(replace(SMALL, gate=gate))


@pytest.mark.parametrize("case", [SMALL, UNGATED], ids=["head", "none"])
def test_a_transform_without_beta_shows(monkeypatch, case):
    right = delta._ut
    monkeypatch.setattr(delta, "_ut", lambda i, v, beta: right(i, v, torch.ones_like(beta)))
    _assert_wrong(case)


def _assert_wrong(case):
    inputs = case.tensors()
    out, _ = delta.chunkwise(*inputs[:5], chunk=8, state=inputs[5])
    assert relative(out, by_transitions(*inputs)[0]) > 1e-4


@pytest.fixture
def fla(monkeypatch):
    install_fla_delta(monkeypatch)


DELTA = DeltaCase(length=37, d_k=8, d_v=6, stateful=False)
GATES = pytest.mark.parametrize("gate", ["none", "head", "channel"])
BF16 = 1e-2
"""Inputs are the same in bf16 and products of the stand-ins fp32: only the outputs are rounded."""


@pytest.mark.usefixtures("fla")
@GATES
@pytest.mark.parametrize("length", [1, 32, 37])
def test_fla_gives_our_output_from_an_empty_state(length, gate):
    inputs = replace(DELTA, length=length, gate=gate).tensors(torch.bfloat16)[:5]
    out, state = delta.fla_chunkwise(*inputs, chunk=32)
    expected, ours = delta.recurrent(*inputs)
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert relative(out, expected) < BF16
    assert relative(state, ours) < 1e-5


@pytest.mark.usefixtures("fla")
@GATES
def test_fla_in_two_parts_then_steps_equals_our_recurrence(gate):
    """d_k and d_v differ, so a state with values first would not fit."""
    inputs = replace(DELTA, gate=gate).tensors(torch.bfloat16)[:5]
    parts, state, at = [], None, 0
    for end in (20, 30):
        cut = (None if x is None else x[:, at:end] for x in inputs)
        out, state = delta.fla_chunkwise(*cut, chunk=32, state=state)
        parts.append(out)
        at = end
    for n in range(30, 37):
        held = state
        token = (None if x is None else x[:, n] for x in inputs)
        parts.append(delta.fla_step(*token, state)[:, None])
        assert state is held
    expected, end_state = delta.recurrent(*inputs)
    assert relative(torch.cat(parts, 1), expected) < BF16
    assert relative(state, end_state) < 1e-5


@pytest.mark.usefixtures("fla")
@GATES
def test_fla_passes_the_chunk_on(gate):
    inputs = replace(DELTA, gate=gate).tensors(torch.bfloat16)[:5]
    with pytest.raises(ValueError, match="16, 32, or 64, got 48"):
        delta.fla_chunkwise(*inputs, chunk=48)


@pytest.mark.usefixtures("fla")
def test_fla_is_preferred_where_it_can_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best("delta", Setting("cuda", "bf16", 256, 512, "compile")).name == "delta_fla"
    assert best("delta", Setting("cuda", "fp32", 256, 512, "eager")).name == "delta_chunkwise"
    assert best("delta", Setting("cuda", "bf16", 320, 320, "eager")).name == "delta_chunkwise"
    assert best("delta", Setting("cpu", "fp64")).name == "delta_chunkwise"
    reason = KERNELS["delta_fla"].why_not(Setting("cuda", "fp32"))
    assert reason == "takes fp16, bf16, not fp32"
