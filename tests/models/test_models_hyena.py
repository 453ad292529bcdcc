"""Hyena: the paper's operator and filter, a state that grows, and a check of forms that sees it."""

from __future__ import annotations

import math

import mixer_laws
import pytest
import torch
from mixer_laws import of_the_gate
from tiny_models import build, on_meta, relative, tiny, tokens
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.base import UserError
from retnet_bench.kernels import long_conv
from retnet_bench.models import cost, match
from retnet_bench.models.mixers import hyena
from retnet_bench.models.mixers.base import Context
from retnet_bench.models.mixers.hyena import Hyena, HyenaOptions, ImplicitFilter

FFT, TOEPLITZ = "long_conv_fft", "long_conv_toeplitz"


def filter_by_hand(own, t, L):
    """h_t of every channel, by the formula."""
    bands = [1e-4 + i * (15 - 1e-4) / 15 for i in range(16)]
    angles = [2 * math.pi * t / L * f for f in bands]
    pos = [t / (L - 1), *map(math.cos, angles), *(-math.sin(a) for a in angles)]
    x = torch.tensor(pos, dtype=torch.float64)
    x = torch.sin(own.sharpness * (own.first @ x + own.first_bias))
    for weight, bias in zip(own.inner, own.inner_bias, strict=True):
        x = torch.sin(own.sharpness * (weight @ x + bias))
    d = len(own.last)
    low, high = math.log(100) / 1.5, math.log(100) / 0.3
    falls = [math.exp(-(low + i * (high - low) / (d - 1)) * t / (L - 1)) for i in range(d)]
    return (own.last @ x) * torch.tensor(falls, dtype=torch.float64)


@torch.no_grad()
def test_it_is_the_papers_operator():
    """x_0, x_1, v = conv_3(X W + b); y = x_0 (h conv (x_1 v) + b (x_1 v)); y W_O + b."""
    model = build(tiny("hyena", max_length=40)).double()
    mixer = model.blocks[0].mixer
    mixer.move()
    x = torch.randn(1, 19, 16).double()
    u = mixer.branches(x)[0]
    taps, bias = mixer.convolution.weight, mixer.convolution.bias
    rows = [
        bias + sum(taps[:, 2 - s] * u[t - s] for s in range(3) if t >= s) for t in range(len(u))
    ]
    x_0, x_1, v = torch.stack(rows).chunk(3, -1)
    z, h = x_1 * v, [filter_by_hand(mixer.filter, t, 40) for t in range(19)]
    y = torch.stack(
        [sum(h[t - s] * z[s] for s in range(t + 1)) + mixer.skip * z[t] for t in range(19)]
    )
    assert relative(mixer(x, Context(None)), mixer.out((x_0 * y)[None])) < 1e-11


@torch.no_grad()
def test_a_channels_filter_falls_to_a_hundredth_in_so_many_lengths():
    """1.5 for the first channel, 0.3 for the last; of a network that says the same everywhere."""
    own = ImplicitFilter(9, 1001)
    own.initialise()
    own.first.zero_()
    h = own(1001)
    assert (h[0, 1000] / h[0, 0]).item() == pytest.approx(0.01 ** (1 / 1.5), rel=1e-4)
    assert (h[8, 300] / h[8, 0]).item() == pytest.approx(0.01, rel=1e-4)


@torch.no_grad()
def test_the_longest_length_is_part_of_the_function_and_the_capacity_is_not():
    """The same weights at another max_length are another model."""
    models = [build(tiny("hyena", max_length=n)).double() for n in (128, 256)]
    models[1].load_state_dict(models[0].state_dict())
    ids = tokens(models[0].cfg, 1, 60)
    a, b = (model(ids) for model in models)
    assert (a - b).norm() / a.norm() > 0.05
    for capacity in (60, 128):
        found = models[0].prefill(ids, models[0].new_state(1, capacity), every=True)
        assert relative(found, a) < 1e-11


def test_longer_sequences_are_refused_in_one_line():
    model = build(tiny("hyena", max_length=20))
    assert cost.longest(model.cfg) == 20
    line = "mixer hyena is defined for at most max_length = 20 tokens, not for 21"
    with pytest.raises(UserError, match=line):
        model(tokens(model.cfg, 1, 21))
    with pytest.raises(UserError, match=line):
        model.new_state(1, 21)
    model(tokens(model.cfg, 1, 20))


@torch.no_grad()
def test_one_token_is_the_longest_there_is():
    model = build(tiny("hyena", max_length=1)).double()
    ids = tokens(model.cfg, 2, 1)
    assert relative(model.step(ids, model.new_state(2, 1)), model(ids)) < 1e-11


# --- costs ---------------------------------------------------------------------------------------


def test_parameters_with_biases_and_their_names():
    mixer_laws.parameters_equal_the_models("hyena")


def test_the_published_layout_at_200M():
    """4.089 d^2: two maps with biases, 12 d of the short convolution, b, and the filter's network;
    d numbers of state a token and six more."""
    cfg = match("200M", "hyena", kernel=FFT).config
    d = 1024
    network = 33 * 64 + 64 + 2 * (64 * 64 + 64) + 64 * d + 64
    parameters = 4 * d**2 + 4 * d + 12 * d + d + network
    assert Hyena.matrix_parameters(cfg) + Hyena.other_parameters(cfg) == parameters
    assert Hyena.state_bytes(cfg, 1, 2048, 4) == 4 * (d * 2048 + 6 * d)
    assert cfg.d_ffn == pytest.approx(4050, abs=32)
    assert Hyena.uncounted_flops(cfg, 2048) / 2048 == pytest.approx(0.123 * d**2, rel=1e-2)


def test_its_state_and_its_step_grow_with_the_position_at_half_of_attentions_bytes():
    cfg = match("3M", "hyena", kernel=FFT).config
    attention = match("3M", "attention").config
    assert Hyena.state_grows
    once, twice, thrice = (cost.state_bytes(cfg, 1, n, 4) for n in (500, 1000, 1500))
    assert thrice - twice == twice - once == cost.state_bytes(attention, 1, 500, 4) / 2
    more = cost.step_flops(cfg, 1000) - cost.step_flops(cfg, 0)
    assert more == cfg.n_layers * 2 * cfg.d_value * 1000
    model = build(tiny("hyena", max_length=64))
    for capacity in (5, 60):
        held = [t for s in model.new_state(3, capacity).layers for t in (s.values, s.inputs)]
        assert sum(t.nbytes for t in held) == cost.state_bytes(model.cfg, 3, capacity, 4)


@pytest.mark.parametrize("kernel", [FFT, TOEPLITZ])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_flops_equal_the_counters(kernel, length):
    """The filter's network runs in a forward pass, and before a prefill: with the new state."""
    cfg = tiny("hyena", kernel=kernel)
    model = on_meta(cfg)
    with FlopCounterMode(display=False) as forward:
        logits = model(torch.zeros(1, length, dtype=torch.long, device="meta"))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() == cost.forward_flops(cfg, length, masked=True)
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == cost.executed_train_flops(cfg, length)
    model = build(cfg)
    state = model.new_state(1, length + 1)
    with torch.no_grad(), FlopCounterMode(display=False) as prompt:
        model.prefill(tokens(cfg, 1, length), state)
    network = cfg.n_layers * 2 * length * 64 * (33 + 2 * 64 + 16)
    assert prompt.get_total_flops() == cost.prefill_flops(cfg, length, masked=True) - network
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.step(tokens(cfg, 1, 1), state)
    uncounted = cfg.n_layers * Hyena.uncounted_step_flops(cfg, length)
    assert step.get_total_flops() == cost.step_flops(cfg, length) - uncounted


# --- start, precision, states --------------------------------------------------------------------


def test_it_starts_as_the_papers():
    mixer = build(tiny("hyena", d_model=96, d_key=96, d_value=96)).blocks[0].mixer
    gain = (8 * 2) ** -0.25
    for branch in mixer.branches.weight.chunk(3):  # each a map of its own
        assert branch.std().item() == pytest.approx(gain * 96**-0.5, rel=0.05)
    assert (mixer.filter.sharpness == 14).all()
    assert mixer.skip.std().item() == pytest.approx(1, rel=0.25)
    assert not mixer.branches.bias.any()


def test_weight_decay_leaves_filters_alone_and_bf16_leaves_the_long_one_in_fp32():
    model = build(tiny("hyena")).bfloat16()
    mixer = model.blocks[0].mixer
    filters = {n for n, _ in mixer.named_parameters() if n.startswith(("filter", "convolution"))}
    names = {f"layers.{i}.mixer.{n}" for i in (0, 1) for n in (filters | {"skip"})}
    assert names == model.undecayed()
    assert {p.dtype for p in (*mixer.filter.parameters(), mixer.skip)} == {torch.float32}


def test_it_learns_on_adversarial_weights():
    mixer_laws.learns_on_adversarial_weights(tiny("hyena"))


@torch.no_grad()
def test_a_new_state_reads_the_weights_as_they_are_in_the_tensors_that_a_graph_holds():
    model = build(tiny("hyena", max_length=30)).double()
    ids = tokens(model.cfg, 1, 12)
    model.new_state(1, 20)
    held = [x.data_ptr() for x in model.blocks[0].mixer.held.tensors]
    for block in model.blocks:
        block.mixer.move()
    state = model.new_state(1, 12)
    found = torch.cat([model.step(ids[:, n : n + 1], state) for n in range(12)], 1)
    assert relative(found, model(ids)) < 1e-11
    assert held == [x.data_ptr() for x in model.blocks[0].mixer.held.tensors]


def test_a_fork_shares_what_is_only_added_to():
    model = build(tiny("hyena"))
    state = model.new_state(2, 9)
    fork = model.fork(state)
    for a, b in zip(state.layers, fork.layers, strict=True):
        assert a.values.data_ptr() == b.values.data_ptr()
        assert a.inputs.data_ptr() != b.inputs.data_ptr()


# --- the check of forms --------------------------------------------------------------------------


def test_a_short_longest_length_is_checked_as_a_longer_one():
    assert HyenaOptions(max_length=10).checked().max_length == 128
    assert HyenaOptions().checked().max_length == 2048


def comes_round(z, h, rows=None):
    """Transforms of the sequence's own length."""
    T = z.shape[1]
    spectrum = torch.fft.rfft(z.transpose(1, 2), n=T) * torch.fft.rfft(h[:, :T], n=T)
    return torch.fft.irfft(spectrum, n=T).transpose(1, 2)[:, T - (rows or T) :]


def without_the_rows_before(z, h, rows=None):
    return long_conv.fft(z[:, -(rows or z.shape[1]) :], h)


def one_tap_late(z, h, rows=None):
    return long_conv.fft(z, h.roll(1, 1), rows)


@pytest.mark.parametrize("broken", [comes_round, without_the_rows_before, one_tap_late])
def test_the_check_sees_a_broken_form(monkeypatch, broken):
    found = of_the_gate(monkeypatch, "hyena", FFT, run=broken)
    assert not found.ok
    assert found.where.startswith(FFT)


def test_the_check_sees_a_broken_step(monkeypatch):
    def without_itself(z, taps):
        return long_conv.cached_step(z[..., :-1], taps[:, :-1])

    assert not of_the_gate(monkeypatch, "hyena", FFT, step=without_itself).ok


def test_the_check_sees_a_filter_that_follows_the_capacity(monkeypatch):
    """safari's default: positions over the length at hand instead of the longest."""
    forward = ImplicitFilter.forward

    def over_the_length(self, length):
        longest, self.max_length = self.max_length, max(2, length)
        h = forward(self, length)
        self.max_length = longest
        return h

    monkeypatch.setattr(hyena.ImplicitFilter, "forward", over_the_length)
    assert not of_the_gate(monkeypatch, "hyena", FFT).ok
