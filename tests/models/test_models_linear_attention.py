"""The Linear Transformer: its equations, its costs, and a check of forms that sees every term."""

from __future__ import annotations

from dataclasses import replace

import mixer_laws
import pytest
import torch
import torch.nn.functional as F
from mixer_laws import NARROW, of_the_gate
from tiny_models import build, relative, rotary, tiny

from retnet_bench.kernels import KERNELS, linear
from retnet_bench.kernels.linear import LinearState
from retnet_bench.models import match
from retnet_bench.models.agreement import check
from retnet_bench.models.layers import rotate
from retnet_bench.models.mixers.base import Context
from retnet_bench.models.mixers.linear_attention import LinearAttention

NAME, CHUNKWISE, RECURRENT = "linear_attention", "linear_chunkwise", "linear_recurrent"
PARALLEL = "linear_parallel"


@pytest.mark.parametrize("turned", [False, True])
@torch.no_grad()
def test_it_is_the_papers_average(turned):
    """sum_j phi(q_i).phi(k_j) v_j / sum_j phi(q_i).phi(k_j), j <= i, phi = elu + 1; `turned`
    rotates phi in the numerator alone."""
    model = build(tiny(NAME, turned=turned)).double()
    mixer, angles = model.blocks[0].mixer, rotary(model).at(0, 19)
    x = 3 * torch.randn(1, 19, 16).double()
    q, k = (F.elu(f(x)).add(1).view(1, 19, 2, 8) for f in (mixer.query, mixer.key))
    v = mixer.value(x).view(19, 2, 8)
    q_num, k_num = (rotate(y, angles) if turned else y for y in (q, k))
    out = torch.zeros(19, 2, 8, dtype=torch.float64)
    for h in range(2):
        for i in range(19):
            top = k_num[0, : i + 1, h] @ q_num[0, i, h] @ v[: i + 1, h]
            out[i, h] = top / (k[0, : i + 1, h] @ q[0, i, h]).sum().add(1e-6)
    assert relative(mixer(x, Context(angles)), mixer.out(out.flatten(1)[None])) < 1e-11


def test_parameters_with_biases_and_their_names():
    mixer_laws.parameters_equal_the_models(NAME)


def test_it_has_the_transformers_layout():
    """Heads of 64, 4 d^2 parameters, the same feed-forward; 66,560 numbers of state at 200M."""
    cfg = match("200M", NAME, kernel=CHUNKWISE).config
    twin = match("200M", "attention").config
    for field in ("n_heads", "d_key", "d_value", "d_ffn"):
        assert getattr(cfg, field) == getattr(twin, field)
    assert LinearAttention.matrix_parameters(cfg) == 4 * 1024**2
    assert LinearAttention.state_bytes(cfg, 1, 5, 2) == 4 * 66_560


@pytest.mark.parametrize("length", [5, 8, 21, 24])
@pytest.mark.parametrize("kernel", [CHUNKWISE, PARALLEL, RECURRENT])
@pytest.mark.parametrize("turned", [False, True])
def test_flops_equal_the_counters(length, kernel, turned):
    mixer_laws.flops_equal_the_counters(tiny(NAME, kernel=kernel, turned=turned), length)


def test_model_flops_leave_out_the_future_only():
    cfg = tiny(NAME)
    masked, needed = (LinearAttention.mixing_flops(cfg, 16, masked=m) for m in (True, False))
    assert masked - needed == 2 * 56 * (cfg.d_key + cfg.d_value)


def test_state_bytes_equal_the_tensors():
    mixer_laws.state_bytes_equal_the_tensors(tiny(NAME))


def test_it_learns_on_adversarial_weights():
    mixer_laws.learns_on_adversarial_weights(tiny(NAME, chunk=64))


@pytest.mark.parametrize("dtype", ["fp64", "bf16"])
def test_the_check_is_green_with_a_turned_numerator(dtype):
    found = check(tiny(NAME, size=NARROW, turned=True), "cpu", dtype)
    assert all(a.ok for a in found), [a.line() for a in found]


def by_state(change):
    """The chunkwise form with its last state changed."""

    def broken(q, k, v, chunk, state=None, **more):
        out, new = linear.chunkwise(q, k, v, chunk, state, **more)
        return out, change(new, k)

    return broken


def normalised_by_call(q, k, v, chunk, state=None, **more):
    """The denominator of what went before left out."""
    if state is not None:
        state = replace(state, keys=torch.zeros_like(state.keys))
    return linear.chunkwise(q, k, v, chunk, state, **more)


BROKEN = {
    "no sums handed over": by_state(lambda s, k: LinearState(0 * s.sums, s.keys)),
    "no keys handed over": by_state(lambda s, k: LinearState(s.sums, 0 * s.keys)),
    "last key counted twice": by_state(lambda s, k: LinearState(s.sums, s.keys + k[:, -1])),
    "normalised by call": normalised_by_call,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_the_check_sees_a_broken_form(monkeypatch, broken):
    found = of_the_gate(monkeypatch, NAME, CHUNKWISE, run=BROKEN[broken])
    assert not found.ok
    assert found.where.startswith(CHUNKWISE)


def test_the_check_sees_a_step_that_forgets_its_own_key(monkeypatch):
    def late(q, k, v, state, turned=None):
        state.keys.sub_(k)
        out = linear.recurrent_step(q, k, v, state, turned=turned)
        state.keys.add_(k)
        return out

    assert not of_the_gate(monkeypatch, NAME, CHUNKWISE, step=late).ok


@pytest.mark.parametrize("name", [CHUNKWISE, PARALLEL, RECURRENT])
def test_another_eps_in_one_form_alone_is_seen(monkeypatch, name):
    run = KERNELS[name].run

    def broken(*args, **more):
        return run(*args, **more, eps=1e-3)

    assert not of_the_gate(monkeypatch, NAME, name, run=broken).ok
