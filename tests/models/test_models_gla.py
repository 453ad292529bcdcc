"""GLA: the paper's equations, its costs, and a check of forms that sees each of its terms."""

from __future__ import annotations

import math

import mixer_laws
import pytest
import torch
import torch.nn.functional as F
from mixer_laws import of_the_gate
from tiny_models import build, relative, tiny

from retnet_bench.base import UserError
from retnet_bench.kernels import channel_decay
from retnet_bench.models import cost, match
from retnet_bench.models.mixers.base import Context
from retnet_bench.models.mixers.gla import GLA

CHUNKWISE, RECURRENT = "channel_decay_chunkwise", "channel_decay_recurrent"


def moved(**changes):
    model = build(tiny("gla", **changes)).double()
    model.blocks[0].mixer.move()
    return model


@torch.no_grad()
def test_it_is_the_papers_recurrence():
    """S <- diag(sigmoid(x W_1 W_2 + b)^(1/16)) S + k v^T; o = RMSNorm(S^T q d_k^-1/2) * swish."""
    model = moved(n_heads=2, d_key=8, d_value=16)
    mixer = model.blocks[0].mixer
    torch.nn.init.normal_(mixer.norm.weight)
    x = torch.randn(1, 19, 16).double()
    alpha = torch.sigmoid(mixer.decay_up(mixer.decay_down(x))) ** (1 / 16)
    out = torch.zeros(19, 2, 8, dtype=torch.float64)
    for h in range(2):
        keys, values = slice(4 * h, 4 * h + 4), slice(8 * h, 8 * h + 8)
        S = torch.zeros(4, 8, dtype=torch.float64)
        for t in range(19):
            k, v = mixer.key(x)[0, t, keys], mixer.value(x)[0, t, values]
            S = alpha[0, t, keys, None] * S + torch.outer(k, v)
            o = S.T @ mixer.query(x)[0, t, keys] / math.sqrt(4)
            out[t, h] = o / (o.square().mean() + 1e-5).sqrt() * mixer.norm.weight
    expected = F.linear(out.flatten(1)[None] * F.silu(mixer.gate(x)), mixer.out.weight)
    assert relative(mixer(x, Context(None)), expected) < 1e-11


def test_parameters_with_biases_and_their_names():
    mixer_laws.parameters_equal_the_models("gla")


def test_the_published_layout_at_200M():
    """Four heads of 128 x 256, 4 d^2 + 24.5 d parameters and the head norm's 256; 131,072 numbers
    of state; a feed-forward as wide as leaves 12 d^2."""
    cfg = match("200M", "gla", kernel=CHUNKWISE).config
    d = 1024
    assert (cfg.n_heads, cfg.key_dim, cfg.value_dim) == (4, 128, 256)
    assert GLA.matrix_parameters(cfg) + GLA.other_parameters(cfg) == 4 * d**2 + 24.5 * d + 256
    assert GLA.state_bytes(cfg, 1, 5, 2) == 4 * 131_072
    assert cfg.d_ffn == pytest.approx(4084, abs=32)


@pytest.mark.parametrize("length", [5, 8, 21, 24])
@pytest.mark.parametrize("kernel", [CHUNKWISE, RECURRENT])
@pytest.mark.parametrize("chunk", [8, 6])
def test_flops_equal_the_counters(length, kernel, chunk):
    mixer_laws.flops_equal_the_counters(tiny("gla", kernel=kernel, chunk=chunk), length)


def test_model_flops_leave_out_the_future_and_add_the_diagonal():
    """All pairs of 16 tokens in chunks of 8, each once: 72 a head; and 4 K V a token."""
    cfg = tiny("gla")
    found = GLA.mixing_flops(cfg, 16, masked=False) + GLA.uncounted_flops(cfg, 16)
    K, V = cfg.key_dim, cfg.value_dim
    assert found == cfg.n_heads * (2 * 72 * (K + V) + 16 * 4 * K * V)


def test_state_bytes_equal_the_tensors():
    mixer_laws.state_bytes_equal_the_tensors(tiny("gla"))


def test_decays_start_near_0_958():
    """sigmoid(0)^(1/16), as the bias is 0 and both maps are small; they are not decayed."""
    model = build(tiny("gla", d_model=64, d_key=32, d_value=64))
    mixer = model.blocks[0].mixer
    *_, log_decay = mixer._project(torch.randn(2, 50, 64))
    assert log_decay.dtype == torch.float32
    assert (log_decay.exp() - 2 ** (-1 / 16)).abs().max() < 5e-3
    assert mixer.decay_down.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert {"layers.0.mixer.decay_up.bias", "layers.1.mixer.norm.weight"} <= model.undecayed()


def test_moved_and_adversarial_weights_spread_the_decays():
    mixer = build(tiny("gla", d_model=64, d_key=32, d_value=64)).blocks[0].mixer
    x = torch.randn(2, 50, 64)
    mixer.move()
    a = mixer._project(x)[-1].exp()
    assert a.min() < 0.01
    assert a.max() > 0.999
    mixer.adversarial()
    a = mixer._project(x)[-1].exp()
    assert a[..., ::2].max() < 1e-38
    assert a[..., 1::2].min() > 0.999999


def test_it_learns_on_adversarial_weights():
    mixer_laws.learns_on_adversarial_weights(tiny("gla", chunk=64))


class WithoutTheEarlierHalf(channel_decay._Blocks):
    """Queries of the later half do not decay over the earlier one."""

    def join(self):
        kept = self.q.clone()
        found = super().join()
        self.q = kept
        return found


def test_the_check_sees_a_decay_missing_within_chunks(monkeypatch):
    monkeypatch.setattr(channel_decay, "_Blocks", WithoutTheEarlierHalf)
    found = of_the_gate(monkeypatch, "gla", CHUNKWISE)
    assert not found.ok
    assert found.where.startswith(CHUNKWISE)


def forgets(q, k, v, log_decay, chunk, state=None):
    return channel_decay.chunkwise(q, k, v, log_decay, chunk, None)


def undecayed_state(q, k, v, log_decay, chunk, state=None):
    """The right output, and a state whose last token's own decay was left out."""
    out, new = channel_decay.chunkwise(q, k, v, log_decay, chunk, state)
    return out, new / log_decay[:, -1].exp()[..., None]


@pytest.mark.parametrize("broken", [forgets, undecayed_state])
@pytest.mark.parametrize("kernel", [CHUNKWISE, RECURRENT])
def test_the_check_sees_a_wrong_hand_over(monkeypatch, broken, kernel):
    assert not of_the_gate(monkeypatch, "gla", kernel, run=broken).ok


def test_the_check_sees_a_wrong_step(monkeypatch):
    def late(q, k, v, log_decay, state):
        """The state decays after it is read."""
        out = channel_decay.recurrent_step(q, k, v, torch.zeros_like(log_decay), state)
        state.mul_(log_decay.exp()[..., None])
        return out

    assert not of_the_gate(monkeypatch, "gla", CHUNKWISE, step=late).ok


def test_a_head_dimension_that_does_not_divide_the_keys_width_is_refused():
    with pytest.raises(UserError, match="head_dim 48 does not divide the width 128"):
        match("3M", "gla", options=GLA.Options(head_dim=48))


def test_more_heads_are_less_state():
    base = match("3M", "gla", kernel=CHUNKWISE).config
    small = match("3M", "gla", kernel=CHUNKWISE, options=GLA.Options(head_dim=16)).config
    assert (base.n_heads, small.n_heads) == (4, 8)
    assert cost.state_bytes(small, 1, 1, 4) * 2 == cost.state_bytes(base, 1, 1, 4)


@pytest.mark.parametrize(("name", "heads"), [("3M", 1), ("200M", 1), ("6.7B", 4)])
def test_it_can_have_retnets_state(name, heads):
    matched = match(name, "gla", kernel=CHUNKWISE, by="state")
    assert matched.config.n_heads == heads
    assert matched.mismatch == 0
