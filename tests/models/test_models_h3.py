"""H3: the paper's two state-space models, its costs, and a check of forms that sees each term."""

from __future__ import annotations

import math
from dataclasses import replace

import mixer_laws
import pytest
import torch
from mixer_laws import of_the_gate
from tiny_models import build, on_meta, relative, tiny, tokens
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.base import UserError
from retnet_bench.kernels import h3
from retnet_bench.models import cost, match
from retnet_bench.models.mixers.base import Context
from retnet_bench.models.mixers.h3 import H3

FFT, RECURRENT = "h3_fft", "h3_recurrent"


@torch.no_grad()
def test_it_is_the_papers_recurrence():
    """In each head o_j = sum over i of q_i (diag(k'_i v_j) + D k'_i v_j), k' = shift(k) + D k; diag
    is discretised by the bilinear rule."""
    model = build(tiny("h3", state_dim=6)).double()
    mixer = model.blocks[0].mixer
    mixer.move()
    x = torch.randn(1, 23, 16).double()
    q, k, v = mixer.query(x)[0], mixer.key(x)[0], mixer.value(x)[0]
    A = -mixer.log_rate.exp() + 1j * mixer.frequency
    half = mixer.log_step.exp()[:, None] * A / 2
    pole, gain = (1 + half) / (1 - half), mixer.log_step.exp()[:, None] / (1 - half)
    B, C = (torch.complex(*p.unbind(-1)) for p in (mixer.mode_in, mixer.mode_out))
    s, out = torch.zeros(16, 6).double(), torch.zeros(23, 16).double()
    modes = torch.zeros(2, 8, 8, 3, dtype=torch.complex128)
    for t in range(23):
        s = torch.cat([torch.zeros(16, 1).double(), s[:, :-1]], 1) + mixer.shift_in * k[t, :, None]
        shifted = (s * mixer.shift_out).sum(1) + mixer.shift_skip * k[t]
        for h in range(2):
            own = slice(8 * h, 8 * h + 8)
            pairs = torch.outer(shifted[own], v[t, own])
            modes[h] = pole[h] * modes[h] + gain[h] * B[h] * pairs[..., None]
            y = 2 * (C[h] * modes[h]).sum(-1).real + mixer.skip[h] * pairs
            out[t, own] = q[t, own] @ y
    assert relative(mixer(x, Context(None)), mixer.out(out[None])) < 1e-11


def test_parameters_with_biases_and_their_names():
    mixer_laws.parameters_equal_the_models("h3")


def test_the_published_layout_at_200M():
    """4 d^2 + 4 d + 2 d N + d + (d / p) (3 N + 2) parameters and 589,824 numbers of state at N 64
    and heads of 8: RetNet's and an eighth more. The transforms take 1.1 d^2 FLOPs a token."""
    cfg = match("200M", "h3", kernel=FFT).config
    d = 1024
    parameters = 4 * d**2 + 4 * d + 2 * d * 64 + d + d // 8 * (3 * 64 + 2)
    assert H3.matrix_parameters(cfg) + H3.other_parameters(cfg) == parameters
    for element_bytes in (2, 4):
        assert H3.state_bytes(cfg, 1, 5, element_bytes) == 4 * 589_824
    assert cost.state_bytes(cfg, 1, 9, 4) == 1.125 * cost.state_bytes(
        match("200M", "retention", kernel="chunkwise").config, 1, 9, 4
    )
    assert cfg.d_ffn == pytest.approx(4017, abs=32)
    assert H3.uncounted_flops(cfg, 2048) / 2048 == pytest.approx(1.107 * d**2, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "length"), [(FFT, 2), (FFT, 70), (RECURRENT, 2), (RECURRENT, 9)]
)
def test_flops_equal_the_counters(kernel, length):
    """A prefill by transforms also makes the state: 2 N d p a token."""
    cfg = tiny("h3", kernel=kernel, state_dim=6)
    model = on_meta(cfg)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, length, dtype=torch.long, device="meta")).sum().backward()
    assert counter.get_total_flops() == cost.executed_train_flops(cfg, length)
    model = build(cfg)
    state = model.new_state(1, length + 1)
    with torch.no_grad(), FlopCounterMode(display=False) as prompt:
        model.prefill(tokens(cfg, 1, length), state)
    state_made = 2 * 2 * 6 * 16 * 8 * length if kernel == FFT else 0
    assert prompt.get_total_flops() == cost.prefill_flops(cfg, length, masked=True) + state_made
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.step(tokens(cfg, 1, 1), state)
    uncounted = cfg.n_layers * H3.uncounted_step_flops(cfg, length)
    assert step.get_total_flops() == cost.step_flops(cfg, length) - uncounted


def test_state_bytes_equal_the_tensors():
    mixer_laws.state_bytes_equal_the_tensors(tiny("h3"))


def test_it_starts_as_the_papers():
    mixer = build(tiny("h3", d_model=64, d_key=64, d_value=64, n_heads=8)).blocks[0].mixer
    assert torch.equal(mixer.shift_in, torch.eye(64)[0].expand(64, 64))
    assert mixer.shift_out.abs().max() <= 1 / 8
    assert (mixer.log_rate.exp() == 0.5).all()
    assert torch.allclose(mixer.frequency[3], math.pi * torch.arange(32))
    assert torch.equal(mixer.mode_in[2, 5], torch.tensor([1.0, 0.0]))
    assert mixer.mode_out.square().sum(-1).mean().item() == pytest.approx(1, rel=0.15)
    assert math.log(1e-3) <= mixer.log_step.min() <= mixer.log_step.max() <= math.log(0.1)
    poles, _ = h3.discretised(*(getattr(mixer, n) for n in DIAGONAL))
    assert poles.abs().max() < 1


DIAGONAL = ("log_step", "log_rate", "frequency", "mode_in", "mode_out")


def test_weight_decay_leaves_both_models_alone_and_bf16_leaves_them_in_fp32():
    model = build(tiny("h3")).bfloat16()
    own = {name for name, _ in model.blocks[0].mixer.named_parameters(recurse=False)}
    assert {f"layers.{i}.mixer.{name}" for i in (0, 1) for name in own} == model.undecayed()
    assert {getattr(model.blocks[0].mixer, name).dtype for name in own} == {torch.float32}
    assert model.blocks[0].mixer.query.weight.dtype == torch.bfloat16


def test_moved_and_adversarial_weights_spread_the_decays():
    mixer = build(tiny("h3", d_model=64, d_key=64, d_value=64, n_heads=8)).blocks[0].mixer

    def decays():
        return h3.discretised(*(getattr(mixer, n) for n in DIAGONAL))[0].abs()

    mixer.move()
    assert decays().min() < 0.8
    assert decays().max() > 0.999
    mixer.adversarial()
    assert decays().min() < 0.02
    assert 0.999999 < decays().max() < 1


def test_it_learns_on_adversarial_weights():
    mixer_laws.learns_on_adversarial_weights(tiny("h3"))


@torch.no_grad()
def test_a_new_state_reads_the_weights_as_they_are_in_the_tensors_that_a_graph_holds():
    model = build(tiny("h3")).double()
    ids = tokens(model.cfg, 1, 12)
    model.new_state(1, 12)
    held = [x.data_ptr() for x in model.blocks[0].mixer.held.tensors]
    for block in model.blocks:
        block.mixer.move()
    state = model.new_state(1, 12)
    found = torch.cat([model.step(ids[:, n : n + 1], state) for n in range(12)], 1)
    assert relative(found, model(ids)) < 1e-11
    assert held == [x.data_ptr() for x in model.blocks[0].mixer.held.tensors]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"state_dim": 7}, "state_dim: input should be a multiple of 2"),
        ({"state_dim": 0}, "state_dim: input should be greater than 0"),
        ({"d_value": 32}, "mixer h3 has values as wide as keys; d_key is 16, d_value 32"),
    ],
)
def test_what_it_can_t_be_is_one_line(changes, line):
    with pytest.raises(UserError, match=line):
        tiny("h3", **changes)


# --- the check of forms --------------------------------------------------------------------------


def without_the_state_before(q, k, v, f, state=None, empty=False):
    return h3.fft(q, k, v, f, state, empty=True)


def without_what_is_added(q, k, v, f, state=None, empty=False):
    """D of the second model left out."""
    return h3.fft(q, k, v, f._replace(skip=torch.zeros_like(f.skip)), state, empty)


def transposed_channels(q, k, v, f, state=None, empty=False):
    """The official order of the output: (j, head)."""
    out, state = h3.fft(q, k, v, f, state, empty)
    return out.unflatten(-1, (len(f.skip), -1)).transpose(-1, -2).flatten(-2), state


def one_decay_too_many(q, k, v, f, state=None, empty=False):
    out, state = h3.fft(q, k, v, f, state, empty)
    if state is not None:
        modes = torch.view_as_complex(state.modes) * f.pole[:, None, None]
        state = replace(state, modes=torch.view_as_real(modes))
    return out, state


def shift_forgotten(q, k, v, f, state=None, empty=False):
    out, state = h3.fft(q, k, v, f, state, empty)
    return out, state and replace(state, shift=torch.zeros_like(state.shift))


@pytest.mark.parametrize(
    "broken",
    [
        without_the_state_before,
        without_what_is_added,
        transposed_channels,
        one_decay_too_many,
        shift_forgotten,
    ],
)
def test_the_check_sees_a_broken_form(monkeypatch, broken):
    found = of_the_gate(monkeypatch, "h3", FFT, run=broken)
    assert not found.ok
    assert found.where.startswith(FFT)


def test_the_check_sees_a_broken_step(monkeypatch):
    def late(q, k, v, f, state):
        """The key does not reach the shift before the next token."""
        out = h3.recurrent_step(q, k, v, f, state)
        state.shift[..., 0] = 0
        return out

    assert not of_the_gate(monkeypatch, "h3", FFT, step=late).ok
