"""Gated retention: its equation, its start, its costs, and a gate that sees a term go missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import build, kernels_of, on_meta, relative, rotary, tiny, tokens
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS, scalar_decay
from retnet_bench.models import agreement, cost, match
from retnet_bench.models.config import Size
from retnet_bench.models.layers import rotate
from retnet_bench.models.mixers.base import Context

NAME = "gated_retention"
NARROW = Size(32, 2, 8, 8)


def config(**changes):
    return tiny(NAME, changes.pop("family", "paper"), NARROW, **{"d_ffn": 32, **changes})


@torch.no_grad()
def test_it_is_the_papers_equation():
    """S <- sigmoid(x w)^(1/16) S + k v^T by the token, heads RMS-normalised, swish gate."""
    model = build(config()).double()
    mixer, T, H = model.blocks[0].mixer, 9, 4
    x = torch.randn(1, T, 32).double()
    angles = rotary(model).at(0, T)
    q, k = (rotate(f(x).view(1, T, H, 8), angles)[0] for f in (mixer.query, mixer.key))
    v, gamma = mixer.value(x).view(T, H, 8), mixer.decay(x)[0].sigmoid() ** (1 / 16)
    S, rows = torch.zeros(H, 8, 8).double(), []
    for t in range(T):
        S = gamma[t, :, None, None] * S + k[t, :, :, None] * v[t, :, None, :]
        rows.append(torch.einsum("hk,hkv->hv", q[t], S) / 8**0.5)
    heads = torch.stack(rows)
    heads = heads / (heads.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    gate = mixer.gate(x)
    expected = F.linear(gate * gate.sigmoid() * heads.view(1, T, 32), mixer.out.weight)
    assert relative(mixer(x, Context(angles)), expected) < 1e-12


@pytest.mark.parametrize("family", ["paper", "modern"])
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16", "fp16"])
def test_all_forms_agree(family, dtype):
    assert all(a.ok for a in agreement.check(config(family=family), "cpu", dtype))


@pytest.mark.parametrize(
    "changes", [{"chunk": 1}, {"chunk": 5}, {"head_dim": 32, "n_heads": 1}, {"temperature": 1.0}]
)
def test_all_forms_agree_whatever_the_options(changes):
    (found,) = agreement.check(config(**changes), "cpu", "fp64")
    assert found.ok
    assert found.error < 1e-13


def shifted(run):
    """Decays of the next token: right where they are constant."""

    def broken(q, k, v, log_decay, chunk, state=None):
        return run(q, k, v, log_decay.roll(1, 1), chunk, state)

    return broken


def undecayed_state(run):
    """The state of a chunk's start is not decayed on its way to the output."""

    def broken(q, k, v, log_decay, chunk, state=None):
        out, new = run(q, k, v, log_decay, chunk, state)
        past, _ = run(q, 0 * k, v, log_decay, chunk, state)
        raw, _ = run(q, 0 * k, v, 0 * log_decay, chunk, state)
        return out - past + raw, new

    return broken


def first_decay_only(run):
    """c_i - c_0 where it should be c_i - c_j."""

    def broken(q, k, v, log_decay, chunk, state=None):
        constant = log_decay.mean(1, keepdim=True).expand_as(log_decay)
        return run(q, k, v, constant, chunk, state)

    return broken


@pytest.mark.parametrize("broken", [shifted, undecayed_state, first_decay_only])
def test_the_gate_is_red_for_one_wrong_term_of_one_form(monkeypatch, broken):
    kernel = KERNELS["scalar_chunkwise"]
    monkeypatch.setitem(KERNELS._items, kernel.name, replace(kernel, run=broken(kernel.run)))
    (found,) = agreement.check(config(), "cpu", "fp64")
    assert not found.ok
    assert found.where.startswith("scalar_chunkwise ")


def test_the_gate_is_red_for_a_step_with_another_temperature(monkeypatch):
    def twice(q, k, v, log_decay, state):
        return scalar_decay.recurrent_step(q, k, v, 2 * log_decay, state)

    kernel = KERNELS["scalar_chunkwise"]
    monkeypatch.setitem(KERNELS._items, kernel.name, replace(kernel, step=twice))
    assert not agreement.check(config(), "cpu", "fp64")[0].ok


def log_decays(mixer) -> torch.Tensor:
    x = torch.randn(1, 400, mixer.cfg.d_model)
    return mixer._project(x, Context(build_angles(mixer)))[-1].detach()


def build_angles(mixer):
    half = mixer.cfg.key_dim // 2
    return torch.ones(400, 1, half), torch.zeros(400, 1, half)


def test_decays_start_near_the_authors_and_are_moved_over_their_range():
    """gamma = 1/2^(1/16) = 0.958 for every head; then from there to none and to nearly all."""
    mixer = build(config()).blocks[0].mixer
    assert log_decays(mixer).exp().mean().item() == pytest.approx(2 ** (-1 / 16), abs=5e-3)
    mixer.move()
    spread = log_decays(mixer).std((0, 1))
    assert spread.max() / spread.min() > 50
    mixer.adversarial()
    summed = log_decays(mixer).unfold(1, 64, 64).sum(-1)
    assert summed.min() < -200, "a chunk of 64 forgets by more than fp32 can hold"


def test_strong_decays_leave_all_gradients_finite():
    model = build(config(chunk=64))
    for block in model.blocks:
        block.mixer.adversarial()
    ids = tokens(model.cfg, 2, 150)
    model.loss(ids, ids).backward()
    exact = build(model.cfg).double()
    exact.load_state_dict(model.state_dict())
    exact.loss(ids, ids).backward()
    for (name, p), wanted in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert relative(p.grad, wanted.grad) < 2e-3, name


@settings(max_examples=10)
@given(
    kernel=st.sampled_from(kernels_of(NAME)),
    chunk=st.integers(1, 20),
    heads=st.sampled_from([1, 2, 4]),
    length=st.integers(1, 45),
)
@example(kernel="scalar_chunkwise", chunk=8, heads=2, length=8)
@example(kernel="scalar_chunkwise", chunk=8, heads=2, length=21)
@example(kernel="scalar_parallel", chunk=8, heads=2, length=21)
def test_flops_equal_flop_counter_mode(kernel, chunk, heads, length):
    cfg = config(kernel=kernel, chunk=chunk, n_heads=heads)
    model, ids = on_meta(cfg), torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        model(ids)
    with FlopCounterMode(display=False) as both:
        model(ids).sum().backward()
    assert forward.get_total_flops() == cost.forward_flops(cfg, length, masked=True)
    assert both.get_total_flops() == cost.executed_train_flops(cfg, length)


@pytest.mark.parametrize("kernel", kernels_of(NAME))
def test_prefill_and_step_flops_equal_flop_counter_mode(kernel):
    model = build(config(kernel=kernel))
    state = model.new_state(1, 30)
    with torch.no_grad(), FlopCounterMode(display=False) as prompt:
        model.prefill(torch.zeros(1, 21, dtype=torch.long), state)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.step(torch.zeros(1, 1, dtype=torch.long), state)
    assert prompt.get_total_flops() == cost.prefill_flops(model.cfg, 21, masked=True)
    assert step.get_total_flops() == cost.step_flops(model.cfg, 21)


def test_the_papers_shape_at_200M():
    """Heads of 128 x 128; 5 d^2 + d H parameters; 131,072 numbers of state a layer."""
    cfg = match("200M", NAME, kernel="scalar_chunkwise").config
    assert (cfg.n_heads, cfg.key_dim, cfg.value_dim) == (8, 128, 128)
    mixer = on_meta(replace(cfg, n_layers=1)).blocks[0].mixer
    assert sum(p.numel() for p in mixer.parameters()) == 5 * 1024**2 + 8 * 1024
    assert cost.state_bytes(cfg, 1, 2048, 2) == 16 * 131072 * 4


def test_match_state_finds_heads_of_retnets_state():
    cfg = match("3M", NAME, kernel="scalar_chunkwise", by="state").config
    assert (cfg.n_heads, cfg.key_dim) == (2, 128)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), "16"])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(UserError, match="temperature"):
        config(temperature=temperature)
