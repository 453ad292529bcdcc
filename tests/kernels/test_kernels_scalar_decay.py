"""Scalar decay from the data: three forms, one answer, which is the step's and Mamba-2's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fake_packages import install_fla, install_mamba_ssm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import relative
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import Setting, best, retention, scalar_decay, ssd

FORMS = (scalar_decay.parallel, scalar_decay.chunkwise, scalar_decay.recurrent)
EXACT = 1e-11
FP32 = 1e-5


@dataclass(frozen=True)
class Case:
    """Sizes of one call, how fast its heads forget, and whether it starts from a state."""

    length: int = 23
    groups: int = 2
    heads_each: int = 2
    d_k: int = 4
    d_v: int = 6
    chunk: int = 8
    stateful: bool = True
    fastest: float = 3.0
    seed: int = 0
    batch: int = 2

    def tensors(self, dtype: torch.dtype = torch.float64):
        """q, k, v, log_decay, state (or None), reproducible. One head never forgets; the last
        forgets by up to e^-fastest a token."""
        make = torch.Generator().manual_seed(self.seed)
        heads = self.groups * self.heads_each

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=make, dtype=torch.float64)

        keys = (self.batch, self.length, self.groups, self.d_k)
        q, k, v = normal(*keys), normal(*keys), normal(*keys[:2], heads, self.d_v)
        rate = torch.linspace(0, self.fastest, heads, dtype=torch.float64)
        g = -rate * torch.rand(*keys[:2], heads, generator=make, dtype=torch.float64)
        state = normal(self.batch, heads, self.d_k, self.d_v) if self.stateful else None
        at_least = retention.state_dtype(dtype)
        return (
            *(x.to(dtype) for x in (q, k, v)),
            g.to(at_least),
            None if state is None else state.to(at_least),
        )


cases = st.builds(
    Case,
    length=st.integers(1, 50),
    groups=st.integers(1, 3),
    heads_each=st.integers(1, 3),
    d_k=st.integers(1, 5),
    d_v=st.integers(1, 6),
    chunk=st.integers(1, 30),
    stateful=st.booleans(),
    fastest=st.sampled_from([0.0, 0.1, 3.0, 100.0]),
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 2),
)
EDGES = [Case(length=n) for n in (1, 7, 8, 9, 16)]


def by_hand(q, k, v, g, state):
    """The recurrence as written, one head of one sequence at a time, in numpy."""
    q, k, v, g = (x.double().numpy() for x in (q, k, v, g))
    B, T, H, V = v.shape
    each = H // k.shape[2]
    S = np.zeros((B, H, k.shape[-1], V)) if state is None else state.double().numpy().copy()
    out = np.zeros(v.shape)
    for b, t, h in np.ndindex(B, T, H):
        S[b, h] = np.exp(g[b, t, h]) * S[b, h] + np.outer(k[b, t, h // each], v[b, t, h])
        out[b, t, h] = S[b, h].T @ q[b, t, h // each]
    return torch.from_numpy(out), torch.from_numpy(S)


def minimal_ssd(x, log_decay, B, C, block):
    """Mamba-2's listing 1, written anew: everything by segment sums, between chunks, too."""

    def segments(a):  # (..., n) -> (..., n, n): the sum of a over j+1 .. i, -inf above the diagonal
        n = a.shape[-1]
        rows = [
            torch.stack([a[..., j + 1 : i + 1].sum(-1) for j in range(i + 1)], -1) for i in range(n)
        ]
        rows = [torch.nn.functional.pad(r, (0, n - r.shape[-1]), value=-torch.inf) for r in rows]
        return torch.stack(rows, -2)

    x, a, B, C = (y.unflatten(1, (-1, block)) for y in (x, log_decay, B, C))
    a = a.permute(0, 3, 1, 2)  # (batch, h, chunks, block)
    sums = a.cumsum(-1)
    inner = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, segments(a).exp(), x)
    to_end = torch.exp(sums[..., -1:] - sums)
    states = torch.einsum("bcshn,bhcs,bcshp->bchpn", B, to_end, x)
    between = segments(torch.nn.functional.pad(sums[..., -1], (1, 0))).exp()
    states = torch.cat([torch.zeros_like(states[:, :1]), states], 1)
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)
    cross = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states[:, :-1], sums.exp())
    return (inner + cross).flatten(1, 2), states[:, -1]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(case=cases)
@example(case=EDGES[0])
@example(case=EDGES[1])
@example(case=EDGES[2])
@example(case=EDGES[3])
@example(case=EDGES[4])
def test_each_form_is_the_recurrence(form, case):
    q, k, v, g, state = case.tensors()
    given_state = None if state is None else state.clone()
    out, new = form(q, k, v, g, chunk=case.chunk, state=state)
    expected_out, expected_new = by_hand(q, k, v, g, state)
    assert relative(out, expected_out) < EXACT
    assert relative(new, expected_new) < EXACT
    assert state is None or torch.equal(state, given_state)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [4, 12])
def test_each_form_is_mamba_2s_own_algorithm(form, block):
    q, k, v, g, _ = Case(length=24, stateful=False).tensors()
    out, new = form(q, k, v, g, chunk=8)
    expected, state = minimal_ssd(v, g, k.repeat_interleave(2, 2), q.repeat_interleave(2, 2), block)
    assert relative(out, expected) < 1e-13
    assert relative(new, state.transpose(-1, -2)) < 1e-13


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_decay_is_retention(form):
    case = Case(heads_each=1)
    q, k, v, _, state = case.tensors()
    decay = torch.tensor([-0.3, -0.01], dtype=torch.float64)
    expected = retention.recurrent(q, k, v, decay, state=state)
    found = form(q * case.d_k**-0.5, k, v, decay.expand(2, 23, 2), chunk=8, state=state)
    for a, b in zip(found, expected, strict=True):
        assert relative(a, b) < EXACT


@settings(max_examples=25)
@given(case=cases, cut=st.floats(0, 1))
def test_a_prompt_in_two_parts_then_steps_equals_the_whole(case, cut):
    q, k, v, g, state = replace(case, stateful=True).tensors()
    whole, end = scalar_decay.recurrent(q, k, v, g, state=state)
    at = round(cut * case.length)
    parts = []
    for part in (slice(0, at // 2), slice(at // 2, at)):
        if part.stop > part.start:
            cut_out = (x[:, part] for x in (q, k, v, g))
            out, state = scalar_decay.chunkwise(*cut_out, chunk=case.chunk, state=state)
            parts.append(out)
    state = held = state.clone()
    for t in range(at, case.length):
        row = scalar_decay.recurrent_step(*(x[:, t] for x in (q, k, v, g)), state)
        parts.append(row[:, None])
    assert state is held
    assert relative(torch.cat(parts, 1), whole) < EXACT
    assert relative(state, end) < EXACT


def _gradients(form, case: Case, chunk: int, dtype=torch.float64):
    leaves = [x.requires_grad_() for x in case.tensors(dtype) if x is not None]
    out, new = form(*leaves[:4], chunk=chunk, state=leaves[4] if case.stateful else None)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    ((out * weights).sum() + new.square().sum()).backward()
    return [x.grad for x in leaves]


@pytest.mark.parametrize("stateful", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1, 8, 9, 23, 24])
def test_gradients_of_all_forms_agree(length, groups, stateful):
    case = Case(length=length, groups=groups, stateful=stateful)
    expected = _gradients(scalar_decay.recurrent, case, 0)
    for form in (scalar_decay.parallel, scalar_decay.chunkwise):
        for found, wanted in zip(_gradients(form, case, case.chunk), expected, strict=True):
            assert relative(found, wanted) < EXACT if wanted.any() else not found.any()


def test_the_compiler_takes_chunkwise_whole_and_gets_the_same():
    compiled = torch.compile(scalar_decay.chunkwise, fullgraph=True, backend="aot_eager")
    expected = _gradients(scalar_decay.chunkwise, Case(), 8)
    for found, wanted in zip(_gradients(compiled, Case(), 8), expected, strict=True):
        assert relative(found, wanted) < EXACT


@pytest.mark.parametrize("form", [scalar_decay.parallel, scalar_decay.chunkwise])
def test_gradcheck(form):
    leaves = tuple(x.requires_grad_() for x in Case(5, 1, 2, 2, 3, 2, batch=1).tensors())
    assert torch.autograd.gradcheck(lambda q, k, v, g, s: form(q, k, v, g, 2, s), leaves)


STRONG = Case(length=150, d_k=8, d_v=8, chunk=64, fastest=40.0, seed=3)
"""In a chunk of 64 the fastest head forgets by e^-1280; fp32 ends at e^-88."""


@pytest.mark.parametrize("form", [scalar_decay.parallel, scalar_decay.chunkwise])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_strong_decays_overflow_nothing_forward_or_backward(form, dtype):
    assert STRONG.tensors()[3].sum(1).min() < -2000
    q, k, v, g, state = STRONG.tensors(dtype)
    out, new = form(q, k, v, g, chunk=STRONG.chunk, state=state)
    expected = by_hand(q, k, v, g, state)
    # A sum of 150 tokens' decays is kept to 1e-4 in fp32.
    limit = max(8 * torch.finfo(dtype).eps, 1e-4)
    assert relative(out, expected[0]) < limit
    assert relative(new, expected[1]) < limit
    if dtype == torch.float32:
        found = _gradients(form, STRONG, STRONG.chunk, dtype)
        for a, b in zip(found, _gradients(scalar_decay.recurrent, STRONG, 0), strict=True):
            assert relative(a, b) < 1e-4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_state_is_kept_in_fp32_and_the_output_in_the_inputs_dtype(form, dtype):
    q, k, v, g, state = Case(fastest=1.0).tensors(dtype)
    for start in (None, state):
        out, new = form(q, k, v, g, chunk=8, state=start)
        assert (out.dtype, new.dtype) == (dtype, torch.float32)
        expected = by_hand(q, k, v, g, start)
        assert relative(out, expected[0]) < 4 * torch.finfo(dtype).eps
        assert relative(new, expected[1]) < 4 * torch.finfo(dtype).eps
    row = scalar_decay.recurrent_step(*(x[:, 0] for x in (q, k, v, g)), state)
    assert (row.dtype, state.dtype) == (dtype, torch.float32)


def test_scores_are_made_once_for_a_group_and_keys_are_not_repeated():
    """No operand of any product is as large as keys repeated for 16 heads, B T 16 K."""
    case = Case(64, 1, 16, 32, 1, 8, stateful=False, batch=1)
    q, k, v, g, _ = case.tensors()
    seen = []
    with torch.autograd.profiler.profile(record_shapes=True) as profile:
        scalar_decay.chunkwise(q, k, v, g, 8)
    for event in profile.function_events:
        if event.name == "aten::bmm":
            seen += [np.prod(shape) for shape in event.input_shapes[:2]]
    assert max(seen) == 64 * 16 * 8, "the scores: 8 for each token and head"


@settings(max_examples=25)
@given(case=cases)
@example(case=Case(24))
@example(case=Case(8, stateful=False))
@example(case=Case(5, stateful=False))
@example(case=Case(21, stateful=False))
def test_flops_equal_flop_counter_mode(case):
    """Forward and, from an empty state and without a loss of the last one, backward."""
    case = replace(case, stateful=False, batch=1)
    heads = case.groups * case.heads_each
    dims = (heads, case.groups, case.d_k, case.d_v)
    for form, chunk in ((scalar_decay.chunkwise, case.chunk), (scalar_decay.parallel, case.length)):
        leaves = [x.requires_grad_() for x in case.tensors()[:4]]
        with FlopCounterMode(display=False) as forward:
            out, _ = form(*leaves, chunk=case.chunk)
        expected = scalar_decay.chunkwise_flops(case.length, chunk, *dims, masked=True)
        assert forward.get_total_flops() == expected
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        unused = retention.unused_backward_flops(case.length, chunk, case.d_k, case.d_v)
        assert backward.get_total_flops() == 2 * expected - heads * unused
    with FlopCounterMode(display=False) as counter:
        scalar_decay.recurrent(*leaves)
    expected = heads * retention.recurrent_flops(case.length, case.d_k, case.d_v)
    assert counter.get_total_flops() == expected


def test_unmasked_flops_leave_out_the_future_only():
    """16 tokens in chunks of 8: 2 x 28 future pairs, for 2 groups' scores and 6 heads' values."""
    masked, unmasked = (scalar_decay.chunkwise_flops(16, 8, 6, 2, 4, 5, m) for m in (True, False))
    assert masked - unmasked == 2 * 56 * (2 * 4 + 6 * 5)


def continuous(dtype=torch.float64, **changes):
    """x, dt, A, B, C, state of the ssd family."""
    q, k, v, g, state = Case(**changes).tensors(dtype)
    A = -torch.linspace(0.5, 16, v.shape[2], dtype=g.dtype)
    return v, 0.01 - g, A, k, q, state


@pytest.mark.parametrize("form", [ssd.parallel, ssd.chunkwise, ssd.recurrent])
def test_the_dual_is_the_recurrence_in_continuous_time(form):
    x, dt, A, B, C, state = continuous()
    out, new = form(x, dt, A, B, C, chunk=8, state=state)
    expected = by_hand(C, B, x * dt[..., None], dt * A, state)
    assert relative(out, expected[0]) < EXACT
    assert relative(new, expected[1]) < EXACT
    rows = (y[:, 0] for y in (x, dt))
    row = ssd.recurrent_step(*rows, A, B[:, 0], C[:, 0], state)
    assert relative(row, expected[0][:, 0]) < EXACT


@pytest.mark.parametrize("stateful", [True, False])
def test_fla_gives_ours(monkeypatch, stateful):
    install_fla(monkeypatch)
    q, k, v, g, state = Case(37, chunk=16, stateful=stateful).tensors(torch.float32)
    found = scalar_decay.fla_chunkwise(q, k, v, g, 16, state)
    for a, b in zip(found, scalar_decay.chunkwise(q, k, v, g, 16, state), strict=True):
        assert relative(a, b) < FP32


def test_a_step_of_fla_is_ours(monkeypatch):
    install_fla(monkeypatch)
    *inputs, state = Case().tensors(torch.float32)
    ours, row = state.clone(), [x[:, 0] for x in inputs]
    found = scalar_decay.fla_step(*row, state)
    assert relative(found, scalar_decay.recurrent_step(*row, ours)) < FP32
    assert relative(state, ours) < FP32


@pytest.mark.parametrize("stateful", [True, False])
def test_mamba_ssm_gives_ours(monkeypatch, stateful):
    install_mamba_ssm(monkeypatch)
    *inputs, state = continuous(torch.float32, stateful=stateful)
    found = ssd.mamba_chunkwise(*inputs, 8, state)
    for a, b in zip(found, ssd.chunkwise(*inputs, 8, state), strict=True):
        assert relative(a, b) < FP32


def test_a_step_of_mamba_ssm_is_ours(monkeypatch):
    install_mamba_ssm(monkeypatch)
    x, dt, A, B, C, state = continuous(torch.float32)
    ours, row = state.clone(), (x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0])
    assert relative(ssd.mamba_step(*row, state), ssd.recurrent_step(*row, ours)) < FP32
    assert relative(state, ours) < FP32


def test_which_kernel_is_preferred(monkeypatch):
    assert best("scalar_decay", Setting("cpu", "fp32")).name == "scalar_chunkwise"
    assert best("ssd", Setting("cpu", "bf16")).name == "ssd_chunkwise"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    install_fla(monkeypatch)
    assert best("scalar_decay", Setting("cuda", "bf16")).name == "scalar_fla"
    assert best("ssd", Setting("cuda", "bf16")).name == "ssd_fla"
    install_mamba_ssm(monkeypatch)
    assert best("ssd", Setting("cuda", "bf16", mode="eager")).name == "mamba_ssm"
    assert best("ssd", Setting("cuda", "bf16", mode="compile")).name == "ssd_fla"
