"""RWKV-4's wkv: every form is the average written out, and no exponential overflows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import relative
from kernel_laws import by_steps, copy_of, gradients, in_parts
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import wkv
from retnet_bench.kernels.wkv import WKVState

EXACT = 1e-12
WIDTH = 5


@dataclass(frozen=True)
class Case:
    """Sizes of one call, how large its keys are, and whether it starts from a state."""

    batch: int
    length: int
    chunk: int
    stateful: bool
    spread: float
    seed: int

    def tensors(self, dtype=torch.float64):
        """(k, v), (time_decay, time_first), state: decays of a step from e^-0.007 to e^-148."""
        make = torch.Generator().manual_seed(self.seed)

        def normal(*shape):
            return torch.randn(*shape, generator=make, dtype=torch.float64)

        k, v = (
            self.spread * normal(self.batch, self.length, WIDTH),
            normal(self.batch, self.length, WIDTH),
        )
        decay, first = torch.linspace(-5, 5, WIDTH, dtype=torch.float64), normal(WIDTH)
        a, b, p = (normal(self.batch, WIDTH) for _ in range(3))
        state = WKVState(a, b.abs() + 0.1, self.spread * p) if self.stateful else None
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if state is not None:
            state = WKVState(*(x.to(wide) for x in vars(state).values()))
        return (k.to(dtype), v.to(dtype)), (decay.to(wide), first.to(wide)), state


cases = st.builds(
    Case,
    batch=st.integers(1, 2),
    length=st.integers(1, 60),
    chunk=st.integers(1, 40),
    stateful=st.booleans(),
    spread=st.sampled_from([0.3, 3.0, 100.0]),
    seed=st.integers(0, 2**16),
)
SMALL = Case(2, 23, 8, stateful=True, spread=1.0, seed=0)


def forms(parameters):
    """Each as kernel_laws wants it."""
    return {
        "chunkwise": lambda x, chunk, state: wkv.chunkwise(*x, *parameters, chunk, state),
        "recurrent": lambda x, chunk, state: wkv.recurrent(*x, *parameters, state=state),
    }


FORMS = tuple(forms(()))


def written_out(inputs, parameters, state):
    """The definition in numpy: all exponents of one token at once, less their largest."""
    k, v = (x.double().numpy() for x in inputs)
    w, u = -np.exp(parameters[0].double().numpy()), parameters[1].double().numpy()
    B, T, d = k.shape
    a, b, p = (x.double().numpy() for x in vars(state).values()) if state else (0, 0, None)
    out = np.zeros((B, T, d))
    for n in range(T + 1):  # n = T: the state after all
        back = np.arange(n)[None, :, None]
        exponents = [(n - 1 - back) * w + k[:, :n]]
        values, ones = [v[:, :n]], [np.ones((B, n, d))]
        if p is not None:
            exponents.append((p + n * w)[:, None])
            values.append(a[:, None])
            ones.append(b[:, None])
        if n < T:
            exponents.append((u + k[:, n])[:, None])
            values.append(v[:, n : n + 1])
            ones.append(np.ones((B, 1, d)))
        e, x, y = (np.concatenate(part, 1) for part in (exponents, values, ones))
        most = e.max(1, keepdims=True)
        top, bottom = ((np.exp(e - most) * part).sum(1) for part in (x, y))
        if n < T:
            out[:, n] = top / bottom
    return torch.from_numpy(out), WKVState(*map(torch.from_numpy, (top, bottom, most[:, 0])))


def same(found, expected, limit):
    """Outputs, and states at a common p: p itself is a reference, not a result."""
    (out, state), (wanted, end) = found, expected
    assert relative(out, wanted) < limit
    scale = torch.exp(state.p.double() - end.p.double())
    assert torch.isfinite(scale).all()
    for a, b in ((state.a, end.a), (state.b, end.b)):
        assert relative(a.double() * scale, b) < limit


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(case=cases)
@example(case=replace(SMALL, length=16))  # a whole number of chunks
@example(case=replace(SMALL, length=8, stateful=False))  # exactly one
@example(case=replace(SMALL, length=7))  # less than one
@example(case=replace(SMALL, length=1, stateful=False))
@example(case=replace(SMALL, chunk=1))
def test_each_form_is_the_average_written_out(form, case):
    inputs, parameters, state = case.tensors()
    found = forms(parameters)[form](inputs, case.chunk, state)
    limit = EXACT * max(1.0, case.spread)  # exponents of this size have so many digits fewer
    same(found, written_out(inputs, parameters, state), limit)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(case=cases, cut=st.floats(0, 1))
def test_two_calls_equal_one_and_leave_the_given_state_alone(form, case, cut):
    inputs, parameters, state = case.tensors()
    kept, run = copy_of(state), forms(parameters)[form]
    at = max(1, round(cut * case.length))
    limit = EXACT * max(1.0, case.spread)
    same(in_parts(run, inputs, case.chunk, state, at), run(inputs, case.chunk, state), limit)
    if state is not None:
        assert all(torch.equal(getattr(state, n), x) for n, x in vars(kept).items())


@settings(max_examples=25)
@given(case=cases)
def test_steps_equal_recurrent_and_update_the_state_in_place(case):
    inputs, parameters, _ = case.tensors()
    start = wkv.empty_state(case.batch, WIDTH, inputs[0])
    found = by_steps(lambda x, s: wkv.recurrent_step(*x, *parameters, s), inputs, copy_of(start))
    same(found, forms(parameters)["recurrent"](inputs, 0, start), EXACT)


def _gradients(form, case):
    inputs, parameters, state = case.tensors()
    leaves = [x.requires_grad_() for x in parameters]

    def by_value(x, chunk, s):
        """The state at p = 0, so that every form means the same numbers."""
        out, end = forms(leaves)[form](x, chunk, WKVState(s.a, s.b, s.p.detach()))
        return out, WKVState(*(y * torch.exp(end.p) for y in (end.a, end.b)), end.p * 0)

    k, v, a, b, _, *own = gradients(by_value, inputs, case.chunk, replace(state), leaves)
    return k, v, a, b, *own


@pytest.mark.parametrize("length", [1, 8, 9, 23, 24])
def test_gradients_of_all_forms_agree(length):
    """Of keys, values, the state, and both parameters."""
    case = replace(SMALL, length=length)
    for a, b in zip(_gradients("chunkwise", case), _gradients("recurrent", case), strict=True):
        assert relative(a, b) < 1e-11


def test_the_compiler_takes_chunkwise_whole_and_gets_the_same():
    whole = torch.compile(wkv.chunkwise, fullgraph=True, backend="aot_eager")
    inputs, parameters, state = replace(SMALL, length=9).tensors()
    found = whole(*inputs, *parameters, 4, state)
    same(found, wkv.chunkwise(*inputs, *parameters, 4, state), EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_before_any_other_token_the_average_is_the_value_itself(form):
    """And where a step decays by e^-148, each output weighs the token and the one before it alone:
    e^{u + k_t} against e^{k_{t-1}}, which is not decayed."""
    (k, v), _, _ = replace(SMALL, length=20, stateful=False).tensors()
    u = torch.full((WIDTH,), 0.5, dtype=torch.float64)
    out, _ = forms((torch.full_like(u, 5.0), u))[form]((k, v), 8, None)
    assert torch.equal(out[:, 0], v[:, 0])
    own = torch.sigmoid(u + k[:, 1:] - k[:, :-1])
    assert relative(out[:, 1:], own * v[:, 1:] + (1 - own) * v[:, :-1]) < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keys_that_overflow_as_exponentials_do_not_here(form, dtype):
    """e^k is inf in fp32 from 89 on, in fp16 from 12; these reach 300. Forward and backward."""
    inputs, parameters, state = replace(SMALL, spread=100.0).tensors(dtype)
    assert inputs[0].max() > 150
    run = forms(parameters)[form]
    found = run(inputs, 8, state)
    assert found[0].dtype == dtype
    assert found[1].p.dtype == torch.float32
    same(found, written_out(inputs, parameters, state), max(1e-3, torch.finfo(dtype).eps))
    leaves = [x.clone().requires_grad_() for x in inputs]
    run(leaves, 8, state)[0].float().square().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in leaves)


def test_no_matmul_is_hidden_in_it():
    inputs, parameters, state = SMALL.tensors()
    with FlopCounterMode(display=False) as counter:
        for run in forms(parameters).values():
            run(inputs, 8, state)
    assert counter.get_total_flops() == 0


def test_a_broken_twin_is_seen(monkeypatch):
    """The current token decayed like the others instead of under its bonus."""
    inputs, parameters, state = SMALL.tensors()
    kept = wkv._average
    bonus = parameters[1]
    monkeypatch.setattr(wkv, "_average", lambda a, b, p, own, v: kept(a, b, p, own - bonus, v))
    found = forms(parameters)["chunkwise"](inputs, 8, state)[0]
    assert relative(found, written_out(inputs, parameters, state)[0]) > 1e-3
