"""Decay by channel: every form is the sum written out, whatever the decays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import Case, cases, relative
from kernel_laws import by_steps, copy_of, gradients, in_parts, same
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import channel_decay

EXACT = 1e-12
SMALL = Case(2, 23, 2, 4, 6, 8, stateful=True, seed=0)


def chunkwise(inputs, chunk, state):
    return channel_decay.chunkwise(*inputs, chunk, state)


def recurrent(inputs, chunk, state):
    return channel_decay.recurrent(*inputs, chunk, state)


def step(inputs, state):
    return channel_decay.recurrent_step(*inputs, state)


FORMS = (chunkwise, recurrent)


def tensors(case: Case, dtype=torch.float64, strength: float = 3.0):
    """(q, k, v, log_decay), state: decays from almost 0 to almost 1, more extreme with `strength`;
    `strength` 0 is no decay at all."""
    q, k, v, _, state = case.tensors(dtype)
    make = torch.Generator().manual_seed(case.seed + 1)
    logits = strength * torch.randn(q.shape, generator=make, dtype=torch.float64)
    g = F.logsigmoid(logits) if strength else torch.zeros_like(logits)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (q, k, v, g.to(wide)), None if state is None else state.to(wide)


def written_out(inputs, state):
    """o_n = sum over m <= n and channels of q_n k_m e^{g_{m+1} + ... + g_n} v_m, one pair at a time
    in numpy; a first state decays from the start."""
    q, k, v, g = (x.double().numpy() for x in inputs)
    B, T, H, K = q.shape
    past = np.zeros((B, H, K, v.shape[-1])) if state is None else state.double().numpy()
    out = np.zeros(v.shape)
    for n in range(T):
        whole = np.exp(g[:, : n + 1].sum(1))
        out[:, n] = np.einsum("bhk,bhk,bhkv->bhv", q[:, n], whole, past)
        for m in range(n + 1):
            decay = np.exp(g[:, m + 1 : n + 1].sum(1))
            score = np.einsum("bhk,bhk,bhk->bh", q[:, n], k[:, m], decay)
            out[:, n] += score[..., None] * v[:, m]
    new = np.exp(g.sum(1))[..., None] * past
    for m in range(T):
        decay = np.exp(g[:, m + 1 :].sum(1))
        new += np.einsum("bhk,bhk,bhv->bhkv", decay, k[:, m], v[:, m])
    return torch.from_numpy(out * K**-0.5), torch.from_numpy(new)


strengths = st.sampled_from([0.0, 0.1, 3.0, 60.0])


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(case=cases, strength=strengths)
@example(case=replace(SMALL, length=16), strength=3.0)  # a whole number of chunks
@example(case=replace(SMALL, length=8), strength=3.0)  # exactly one
@example(case=replace(SMALL, length=7, stateful=False), strength=3.0)  # less than one
@example(case=replace(SMALL, length=1), strength=3.0)
@example(case=replace(SMALL, chunk=1), strength=3.0)
@example(case=replace(SMALL, length=70, chunk=37), strength=60.0)
def test_each_form_is_the_sum_written_out(form, case, strength):
    inputs, state = tensors(case, strength=strength)
    same(form(inputs, case.chunk, state), written_out(inputs, state), EXACT)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(case=cases, cut=st.floats(0, 1), strength=strengths)
def test_two_calls_equal_one_and_leave_the_given_state_alone(form, case, cut, strength):
    inputs, state = tensors(case, strength=strength)
    kept = copy_of(state)
    at = max(1, round(cut * case.length))
    same(in_parts(form, inputs, case.chunk, state, at), form(inputs, case.chunk, state), EXACT)
    assert state is None or torch.equal(state, kept)


@settings(max_examples=25)
@given(case=cases, strength=strengths)
def test_steps_equal_recurrent_and_update_the_state_in_place(case, strength):
    inputs, state = tensors(replace(case, stateful=True), strength=strength)
    same(by_steps(step, inputs, copy_of(state)), recurrent(inputs, 0, state), EXACT)


@pytest.mark.parametrize("length", [1, 8, 9, 23, 24])
@pytest.mark.parametrize("strength", [0.0, 3.0, 60.0])
def test_gradients_of_all_forms_agree(length, strength):
    inputs, state = tensors(replace(SMALL, length=length), strength=strength)
    found, wanted = (gradients(form, inputs, SMALL.chunk, state) for form in FORMS)
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) < EXACT


def test_gradcheck():
    inputs, state = tensors(Case(1, 5, 2, 2, 3, 4, stateful=True, seed=1), strength=1.0)
    leaves = [x.requires_grad_() for x in (*inputs, state)]
    assert torch.autograd.gradcheck(
        lambda *x: channel_decay.chunkwise(*x[:4], chunk=4, state=x[4]), leaves
    )


def test_the_compiler_takes_chunkwise_whole_and_gets_the_same():
    """In one graph: a break would let one arm's compiled step run half eagerly."""
    whole = torch.compile(channel_decay.chunkwise, fullgraph=True, backend="aot_eager")
    inputs, state = tensors(replace(SMALL, length=9))
    compiled = gradients(lambda x, chunk, s: whole(*x, chunk, s), inputs, 4, state)
    for a, b in zip(compiled, gradients(chunkwise, inputs, 4, state), strict=True):
        assert relative(a, b) < EXACT


@pytest.mark.parametrize(("strength", "least"), [(3.0, -80.0), (10.0, -200.0), (60.0, -1000.0)])
def test_fp32_keeps_its_digits_where_a_chunk_decays_past_e_minus_200(strength, least):
    """g ~ logsigmoid(strength N(0, 1)), chunks of 64: e^{c} and e^{-c} as factors would overflow
    (a quarter of the outputs at strength 3); forward and backward."""
    case = Case(2, 192, 3, 16, 24, 64, stateful=True, seed=0)
    inputs, state = tensors(case, strength=strength)
    assert inputs[3].unflatten(1, (-1, 64)).sum(2).max() < least / 2
    assert inputs[3].unflatten(1, (-1, 64)).sum(2).min() < least
    narrow, start = tensors(case, torch.float32, strength)
    same(chunkwise(narrow, 64, start), recurrent(inputs, 0, state), 1e-6)
    exact = gradients(recurrent, inputs, 64, state)
    for a, b in zip(gradients(chunkwise, narrow, 64, start), exact, strict=True):
        assert torch.isfinite(a).all()
        assert relative(a, b) < 1e-6


@pytest.mark.parametrize("per_step", [-1e-4, -1.0, -3.5, -50.0, -200.0])
def test_a_uniform_decay_of_any_strength_is_the_geometric_sum(per_step):
    """With q, k, v ones and K = 4, output n is 2 (1 + r + ... + r^n), r = e^per_step."""
    ones = torch.ones(1, 130, 1, 4)
    out, state = channel_decay.chunkwise(ones, ones, ones, torch.full_like(ones, per_step))
    r = np.exp(per_step)
    sums = np.cumsum(r ** np.arange(130))
    assert relative(out[0, :, 0, 0], torch.from_numpy(2 * sums)) < 1e-6
    assert state[0, 0, 0, 0].item() == pytest.approx(sums[-1], rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_state_is_kept_in_fp32_and_the_output_in_the_inputs_dtype(form, dtype):
    inputs, state = tensors(SMALL, dtype)
    for start in (None, state):
        out, new = form(inputs, SMALL.chunk, start)
        assert (out.dtype, new.dtype) == (dtype, torch.float32)
        same((out, new), written_out(inputs, start), 4 * torch.finfo(dtype).eps)
    assert step([x[:, 0] for x in inputs], state).dtype == dtype
    assert state.dtype == torch.float32


def test_a_bf16_input_does_not_round_the_running_state_at_every_step():
    """400 equal contributions without decay: a bf16 accumulator would stop at 256."""
    ones = torch.ones(1, 400, 1, 1, dtype=torch.bfloat16)
    for form in FORMS:
        _, state = form((ones, ones, ones, torch.zeros(1, 400, 1, 1)), 1, None)
        assert state.item() == 400.0


@pytest.mark.parametrize(("length", "chunk"), [(32, 16), (16, 16), (37, 16), (5, 16), (30, 12)])
def test_flops_equal_flop_counter_mode(length, chunk):
    """The last: chunks of 12 are padded to 16 rows, the rest of 6 to 8."""
    inputs, _ = tensors(Case(1, length, 1, 4, 6, chunk, stateful=False, seed=0))
    with FlopCounterMode(display=False) as counter:
        chunkwise(inputs, chunk, None)
    expected = channel_decay.chunkwise_flops(length, chunk, 4, 6, masked=True)
    assert counter.get_total_flops() == expected


def test_unmasked_flops_leave_out_the_future_and_padding_only():
    """Every pair once, 2 K and 2 V each, and 4 K V a token; the diagonal's 2 K are by hand."""
    for length, chunk in ((32, 16), (24, 12)):
        found = channel_decay.chunkwise_flops(length, chunk, 4, 6, masked=False)
        pairs = length // chunk * chunk * (chunk + 1) / 2
        by_hand = channel_decay.diagonal_flops(length, 4)
        assert found + by_hand == 2 * pairs * (4 + 6) + 4 * length * 4 * 6


class WithoutTheEarlierHalf(channel_decay._Blocks):
    """Queries of the later half do not decay over the earlier one."""

    def join(self):
        kept = self.q.clone()
        found = super().join()
        self.q = kept
        return found


@pytest.mark.parametrize("form", ["blocks", "scan"])
def test_a_broken_twin_is_seen(monkeypatch, form):
    """One term of the chunk form left out: of the decays across halves, of those across chunks."""
    inputs, state = tensors(SMALL, strength=1.0)
    if form == "blocks":
        monkeypatch.setattr(channel_decay, "_Blocks", WithoutTheEarlierHalf)
    else:
        kept = channel_decay.scan
        monkeypatch.setattr(channel_decay, "scan", lambda x, s, d: kept(x, s, torch.ones_like(d)))
    out, _ = chunkwise(inputs, SMALL.chunk, state)
    assert relative(out, written_out(inputs, state)[0]) > 1e-3
