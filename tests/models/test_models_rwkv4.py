"""RWKV-4's time mixing: its equations, start values, costs, and a check of forms that sees each of
its terms."""

from __future__ import annotations

import math

import mixer_laws
import pytest
import torch
from mixer_laws import of_the_gate
from tiny_models import build, relative, tiny, tokens

from retnet_bench.base import UserError
from retnet_bench.kernels import wkv
from retnet_bench.models import cost, match
from retnet_bench.models.mixers.base import Context
from retnet_bench.models.mixers.rwkv4 import RWKV4

NAME, CHUNKWISE, RECURRENT = "rwkv4", "wkv_chunkwise", "wkv_recurrent"


@torch.no_grad()
def test_it_is_the_papers_average_of_shifted_tokens():
    model = build(tiny(NAME)).double()
    mixer = model.blocks[0].mixer
    mixer.move()
    x = torch.randn(1, 19, 16).double()
    before = torch.cat([torch.zeros(1, 1, 16).double(), x[:, :-1]], 1)
    mixed = {
        name: getattr(mixer, name)(share * x + (1 - share) * before)[0]
        for name in ("key", "value", "receptance")
        for share in (getattr(mixer, f"mix_{name}"),)
    }
    k, v = mixed["key"], mixed["value"]
    w, u = -torch.exp(mixer.time_decay), mixer.time_first
    out = []
    for t in range(19):
        back = torch.arange(t - 1, -1, -1)[:, None]  # t - 1 - i
        weights = torch.cat([torch.exp(back * w + k[:t]), torch.exp(u + k[t])[None]])
        out.append((weights * v[: t + 1]).sum(0) / weights.sum(0))
    expected = mixer.out(torch.sigmoid(mixed["receptance"]) * torch.stack(out))
    assert relative(mixer(x, Context(None))[0], expected) < 1e-11


def test_parameters_with_biases_and_their_names():
    mixer_laws.parameters_equal_the_models(NAME)


def test_the_published_layout_at_200M():
    """4 d^2 + 5 d parameters; 3 d fp32 numbers of state, and d of the last input's."""
    cfg = match("200M", NAME, kernel=CHUNKWISE).config
    d = 1024
    assert RWKV4.matrix_parameters(cfg) + RWKV4.other_parameters(cfg) == 4 * d**2 + 5 * d
    assert RWKV4.state_bytes(cfg, 1, 5, 4) == 4 * 4096
    assert RWKV4.state_bytes(cfg, 1, 5, 2) == 3 * 4 * d + 2 * d


@pytest.mark.parametrize("length", [5, 8, 21])
@pytest.mark.parametrize("kernel", [CHUNKWISE, RECURRENT])
def test_flops_equal_the_counters(length, kernel):
    mixer_laws.flops_equal_the_counters(tiny(NAME, kernel=kernel), length)


def test_what_no_counter_sees_is_added():
    cfg = tiny(NAME)
    added = cost.forward_flops(cfg, 10) - cost.forward_flops(cfg, 10, masked=True)
    assert added == cfg.n_layers * 33 * 10 * cfg.d_value
    assert RWKV4.uncounted_step_flops(cfg, 7) == 23 * cfg.d_value


def test_state_bytes_equal_the_tensors():
    mixer_laws.state_bytes_equal_the_tensors(tiny(NAME))


def test_it_starts_as_rwkv_v4neo():
    """The layer puts out 0. Values of layers 0, 1 and 3 of 4 at channels 0, 1 and the last."""
    model = build(tiny(NAME, n_layers=4))
    mixers = [block.mixer for block in model.blocks]
    for mixer in mixers:
        for name in ("key", "receptance", "out"):
            assert not getattr(mixer, name).weight.any()
        assert mixer.value.weight.any()
        assert not mixer(torch.randn(1, 5, 16), Context(None)).any()
        first = mixer.time_first.tolist()
        assert first[:3] == pytest.approx([math.log(0.3) + x for x in (0.0, 0.5, -0.5)])
        assert mixer.time_decay[0] == -5
        assert mixer.time_decay[-1] == 3
    for layer, power, share in ((0, 0.7, 1.0), (1, 0.7 + 1.3 / 3, 0.75), (3, 2.0, 0.25)):
        mixer = mixers[layer]
        assert mixer.time_decay[1].item() == pytest.approx(-5 + 8 * (1 / 15) ** power)
        assert mixer.mix_key[1].item() == pytest.approx((1 / 16) ** share)
        value = (1 / 16) ** share + 0.3 * layer / 3
        assert mixer.mix_value[1].item() == pytest.approx(value)
        assert mixer.mix_receptance[1].item() == pytest.approx((1 / 16) ** (share / 2))


def test_a_single_layer_starts_too():
    assert torch.isfinite(build(tiny(NAME, n_layers=1)).blocks[0].mixer.time_decay).all()


def test_decays_stay_in_fp32_and_are_not_decayed_by_the_optimiser():
    model = build(tiny(NAME)).bfloat16()
    mixer = model.blocks[0].mixer
    assert mixer.time_decay.dtype == mixer.time_first.dtype == torch.float32
    assert mixer.mix_key.dtype == torch.bfloat16
    assert len(model.undecayed()) == 2 * 5
    state = model.new_state(2, 4).layers[0]
    assert [x.dtype for x in vars(state).values()] == [torch.float32] * 3 + [torch.bfloat16]


@torch.no_grad()
def test_moved_and_adversarial_weights_put_something_out_and_spread_the_decays():
    mixer = build(tiny(NAME)).blocks[0].mixer
    x = torch.randn(1, 9, 16)
    for setting in (mixer.move, mixer.adversarial):
        setting()
        assert mixer(x, Context(None)).abs().mean() > 0.01
        step = torch.exp(-torch.exp(mixer.time_decay))
        assert step.min() < 1e-8
        assert step.max() > 0.999


def test_it_learns_on_adversarial_weights():
    mixer_laws.learns_on_adversarial_weights(tiny(NAME, chunk=32))


@torch.no_grad()
def test_selected_rows_go_on_each_with_its_own_last_token():
    model = build(tiny(NAME)).double()
    for block in model.blocks:
        block.mixer.move()
    ids, rows = tokens(model.cfg, 3, 12), torch.tensor([2, 0, 2])
    state = model.new_state(3, 12)
    model.prefill(ids[:, :7], state)
    chosen = model.select(state, rows)
    found = torch.cat([model.step(ids[rows, n : n + 1], chosen) for n in range(7, 12)], 1)
    assert relative(found, model(ids[rows])[:, 7:]) < 1e-11


def test_the_check_sees_a_token_shift_that_is_not_handed_over(monkeypatch):
    kept = RWKV4._run
    monkeypatch.setattr(RWKV4, "_run", lambda self, x, last, s: kept(self, x, 0 * last, s))
    found = of_the_gate(monkeypatch, NAME, CHUNKWISE)
    assert not found.ok
    assert "prefill" in found.where


def with_changed(change):
    """The chunkwise form, its arguments changed."""

    def broken(k, v, decay, first, chunk, state=None):
        return wkv.chunkwise(*change(k, v, decay, first, chunk, state))

    return broken


BROKEN = {
    "no bonus": with_changed(lambda k, v, w, u, c, s: (k, v, w, 0 * u, c, s)),
    "time_decay taken as w": with_changed(lambda k, v, w, u, c, s: (k, v, w.exp(), u, c, s)),
    "no state": with_changed(lambda k, v, w, u, c, s: (k, v, w, u, c, None)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_the_check_sees_a_broken_form(monkeypatch, broken):
    found = of_the_gate(monkeypatch, NAME, CHUNKWISE, run=BROKEN[broken])
    assert not found.ok
    assert found.where.startswith(CHUNKWISE)


def test_the_check_sees_a_state_without_its_reference(monkeypatch):
    """a and b right, p left where it was."""

    def broken(k, v, decay, first, chunk, state=None):
        out, new = wkv.chunkwise(k, v, decay, first, chunk, state)
        new.p = new.p + 0.01
        return out, new

    assert not of_the_gate(monkeypatch, NAME, CHUNKWISE, run=broken).ok


def test_the_check_sees_a_step_that_decays_the_token_before(monkeypatch):
    """It is weighed by e^k without a decay."""

    def early(k, v, decay, first, state):
        state.p.sub_(torch.exp(decay))
        out = wkv.recurrent_step(k, v, decay, first, state)
        state.p.add_(torch.exp(decay))
        return out

    assert not of_the_gate(monkeypatch, NAME, CHUNKWISE, step=early).ok


def test_keys_and_values_of_different_widths_are_refused():
    with pytest.raises(UserError, match="d_key is 8 and d_value 16"):
        tiny(NAME, d_key=8)
