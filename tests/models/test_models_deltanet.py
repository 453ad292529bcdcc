"""DeltaNet, Gated DeltaNet and KDA: their equations, shapes and starts, and what would show."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from mixer_laws import (
    flops_equal_the_counters,
    learns_on_adversarial_weights,
    parameters_equal_the_models,
    state_bytes_equal_the_tensors,
)
from tiny_models import build, on_meta, relative, tiny, tokens

from retnet_bench.base import UserError
from retnet_bench.models import MIXERS, SIZES, ModelConfig, cost, match
from retnet_bench.models.config import Size
from retnet_bench.models.mixers.base import Context
from retnet_bench.models.mixers.deltanet import DeltaNet

EACH = ("deltanet", "gated_deltanet", "kda")
NARROW = Size(32, 2, 8, 8)


def by_equations(mixer, x):
    """The layer written out, token by token, in the authors' order of operations."""
    cfg, H, d_k = mixer.cfg, mixer.cfg.n_heads, mixer.cfg.key_dim
    mixed, filters = x @ mixer.qkv.weight.T, mixer.conv.weight
    taps = filters.shape[1]
    convolved = torch.zeros_like(mixed)
    for t in range(x.shape[1]):
        for lag in range(min(taps, t + 1)):
            convolved[:, t] += filters[:, taps - 1 - lag] * mixed[:, t - lag]
    mixed = convolved * convolved.sigmoid()
    parts = mixed.split([cfg.d_key, cfg.d_key, cfg.d_value], -1)
    q, k, v = (part.unflatten(-1, (H, -1)) for part in parts)
    q, k = (part / (part.square().sum(-1, keepdim=True) + cfg.norm_eps).sqrt() for part in (q, k))
    rates = x @ mixer.rates.weight.T
    beta = rates[..., :H].sigmoid() * (1 + mixer.options.allow_neg_eigval)
    S, heads = torch.zeros(len(x), H, d_k, cfg.value_dim, dtype=x.dtype), []
    for t in range(x.shape[1]):
        if mixer.decay == "head":
            dt = torch.log1p(torch.exp(rates[:, t, H:] + mixer.dt_bias))
            S = S * torch.exp(-mixer.A_log.exp() * dt)[..., None, None]
        if mixer.decay == "channel":
            steps = x[:, t] @ mixer.decay_down.weight.T @ mixer.decay_up.weight.T + mixer.dt_bias
            dt = torch.log1p(torch.exp(steps)).unflatten(-1, (H, -1))
            S = S * torch.exp(-mixer.A_log.exp()[:, None] * dt)[..., None]
        old = torch.einsum("bhk,bhkv->bhv", k[:, t], S)
        new = beta[:, t, :, None] * v[:, t] + (1 - beta[:, t, :, None]) * old
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, t], new - old)
        heads.append(torch.einsum("bhk,bhkv->bhv", q[:, t], S) / math.sqrt(d_k))
    y = torch.stack(heads, 1)
    y = y / (y.square().mean(-1, keepdim=True) + cfg.norm_eps).sqrt() * mixer.norm.weight
    if mixer.gate is not None and mixer.decay == "channel":
        down, up = mixer.gate
        y = y * (x @ down.weight.T @ up.weight.T + up.bias).sigmoid().unflatten(-1, (H, -1))
    elif mixer.gate is not None:
        z = (x @ mixer.gate.weight.T).unflatten(-1, (H, -1))
        y = y * z * z.sigmoid()
    return y.flatten(-2) @ mixer.out.weight.T


@pytest.mark.parametrize("mixer", EACH)
@pytest.mark.parametrize(
    "changes", [{}, {"allow_neg_eigval": True}, {"gate": True}, {"gate": False}]
)
@torch.no_grad()
def test_a_layer_is_its_equations(mixer, changes):
    layer = build(tiny(mixer, size=NARROW, **changes)).double().blocks[1].mixer
    layer.move()
    x = torch.randn(2, 21, 32, dtype=torch.float64)
    assert relative(layer(x, Context(None)), by_equations(layer, x)) < 1e-12


@pytest.mark.parametrize("mixer", EACH)
def test_keys_have_length_one_in_every_precision(mixer):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        layer = build(tiny(mixer, size=NARROW, norm_eps=0.0)).to(dtype).blocks[0].mixer
        x = torch.randn(1, 50, 32).to(dtype)
        q, k, *_ = layer._mixing(x, layer.conv(layer.qkv(x)))
        for part in (q, k):
            assert part.dtype == dtype
            error = (part.double().square().sum(-1) - 1).abs().max()
            assert error < 3 * torch.finfo(dtype).eps


def heads(name, mixer):
    cfg = match(name, mixer, kernel="delta_chunkwise").config
    return cfg.n_heads, cfg.key_dim, cfg.value_dim


def test_heads_of_every_size():
    assert [heads(name, "deltanet") for name in SIZES] == [
        (2, 32, 32),
        (3, 32, 32),
        (4, 32, 32),
        (4, 48, 48),
        (4, 64, 64),
        (4, 64, 64),
        (4, 96, 96),
        (4, 128, 128),
        (5, 128, 128),
        (6, 128, 128),
        (8, 128, 128),
        (16, 128, 128),
        (20, 128, 128),
        (32, 128, 128),
        (40, 128, 128),
    ]
    assert [heads(name, "kda") for name in SIZES] == [heads(name, "deltanet") for name in SIZES]
    assert [heads(name, "gated_deltanet") for name in SIZES] == [
        (2, 24, 48),
        (3, 24, 48),
        (3, 32, 64),
        (3, 48, 96),
        (3, 64, 128),
        (3, 64, 128),
        (3, 96, 192),
        (3, 128, 256),
        (3, 160, 320),
        (3, 192, 384),
        (3, 256, 512),
        (6, 256, 512),
        (8, 240, 480),
        (12, 256, 512),
        (15, 256, 512),
    ]


@pytest.mark.parametrize(
    ("mixer", "parameters", "state"),
    [
        ("deltanet", 4 * 1024**2 + 1024 * 8 + 12 * 1024 + 128, 131_072 + 9_216),
        (
            "gated_deltanet",
            6 * 1024**2 + 2 * 1024 * 3 + 12 * 1024 + 512 + 2 * 3,
            393_216 + 9_216,
        ),
        (
            "kda",
            4 * 1024**2 + 1024 * 8 + 4 * 128 * 1024 + 12 * 1024 + 128 + 8 + 2 * 1024,
            131_072 + 9_216,
        ),
    ],
)
def test_the_authors_allocation_at_width_1024(mixer, parameters, state):
    cfg = match("200M", mixer, kernel="delta_chunkwise").config
    kind = MIXERS[mixer]
    assert kind.matrix_parameters(cfg) + kind.other_parameters(cfg) == parameters
    assert kind.state_bytes(cfg, 1, 77, 4) == 4 * state


@pytest.mark.parametrize("mixer", EACH)
@pytest.mark.parametrize("name", SIZES)
def test_a_retnets_state_is_within_reach_at_every_size(name, mixer):
    matched = match(name, mixer, by="state", kernel="delta_chunkwise")
    retnet = cost.state_bytes(match(name, "retention", kernel="chunkwise").config, 1, 2048, 4)
    found = cost.state_bytes(matched.config, 1, 2048, 4)
    assert found == pytest.approx(retnet, rel=0.1)
    assert matched.mismatch == pytest.approx(found / retnet - 1)
    assert matched.config.key_dim <= 256, "which flash-linear-attention takes"


def test_head_dim_and_expand_say_the_shape():
    options = MIXERS["deltanet"].Options(head_dim=16, expand=1.5)
    cfg = match("0.1M", "deltanet", options=options, kernel="delta_chunkwise").config
    assert (cfg.n_heads, cfg.key_dim, cfg.value_dim) == (4, 16, 24)
    assert (cfg.options.head_dim, cfg.options.expand) == (None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head_dim": 48}, "head_dim 48 does not divide the width 64"),
        ({"expand": 1.01}, "expand 1.01 of keys of 32 is no whole value dimension"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        match("0.1M", "deltanet", options=MIXERS["deltanet"].Options(**options))


def test_an_expansion_that_the_widths_contradict_is_refused():
    with pytest.raises(UserError, match="expand is 2, but heads have keys of 8 and values of 8"):
        tiny("deltanet", expand=2.0)


@pytest.mark.parametrize("mixer", EACH)
def test_the_start(mixer):
    """Xavier as all arms where they share a map; rates small; the gate's own as its authors'."""
    cfg = tiny(mixer, "paper", Size(512, 3, 64, 64), d_ffn=8)
    layer = build(cfg).blocks[0].mixer
    gain = (8 * 3) ** -0.25
    q, k, v = layer.qkv.weight.split([cfg.d_key, cfg.d_key, cfg.d_value])
    maps = [(q, 1.0), (k, 1.0), (v, gain), (layer.out.weight, gain)]
    if layer.gate:
        gates = layer.gate if mixer == "kda" else [layer.gate]
        maps += [(gate.weight, gain) for gate in gates]
    for weight, own in maps:
        std = own * (2 / sum(weight.shape)) ** 0.5
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert layer.rates.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (layer.norm.weight == 1).all()


def test_the_start_of_decays():
    """A in U(0.001, 16), dt log-uniform in [0.001, 0.1]: no decay is -inf or 0. KDA's A is never
    below 1."""
    cfg = tiny("gated_deltanet", n_heads=1500, d_key=3000, d_value=3000, d_ffn=1, n_layers=1)
    layer = build(cfg).blocks[0].mixer
    A, dt = layer.A_log.detach().exp(), F.softplus(layer.dt_bias.detach())
    assert 1e-3 <= A.min() < 0.1
    assert 15.9 < A.max() <= 16.001
    assert A.mean().item() == pytest.approx(8, rel=0.1)
    assert 0.99e-3 <= dt.min() < 1.1e-3
    assert 0.09 < dt.max() <= 0.1001
    assert dt.log().mean().item() == pytest.approx(math.log(1e-2), rel=0.03)
    layer = build(tiny("kda", n_heads=500, d_key=1000, d_value=1000, d_ffn=1)).blocks[0].mixer
    assert 1 <= layer.A_log.exp().min() < 1.2
    assert 15.5 < layer.A_log.exp().max() <= 16.001
    dt = F.softplus(layer.dt_bias.detach())
    assert 0.99e-3 <= dt.min() < dt.max() <= 0.1001


@pytest.mark.parametrize("mixer", ["gated_deltanet", "kda"])
def test_decays_are_learned_in_fp32_and_not_decayed(mixer):
    model = build(tiny(mixer))
    for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        layer = model.to(dtype).blocks[0].mixer
        assert layer.A_log.dtype == layer.dt_bias.dtype == kept
        assert layer.out.weight.dtype == dtype
    names = {name for name, _ in model.named_parameters()}
    undecayed = model.undecayed()
    assert undecayed <= names
    assert {name.split("mixer.")[1] for name in undecayed} == {
        "A_log",
        "dt_bias",
        "conv.weight",
        "norm.weight",
    }


@pytest.mark.parametrize("mixer", EACH)
def test_training_under_autocast_is_near_fp32(mixer):
    """Products in bf16; states, inverses and rates stay in fp32, and so do the gradients."""
    model = build(tiny(mixer, size=NARROW))
    ids = tokens(model.cfg, 2, 40)
    losses, grads = [], []
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model.loss(ids, ids.roll(-1, 1))
        loss.backward()
        losses.append(loss.item())
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    assert all(g.dtype == torch.float32 for g in grads)
    assert (grads[1] - grads[0]).norm() < 0.05 * grads[0].norm()


@pytest.mark.slow
def test_the_compiler_takes_a_layer_whole():
    model = build(tiny("gated_deltanet", n_layers=1))
    ids = tokens(model.cfg, 1, 16)
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative(whole(ids), model(ids)) < 1e-5


@pytest.mark.parametrize("mixer", EACH)
def test_closed_forms_equal_the_models(mixer):
    parameters_equal_the_models(mixer)
    state_bytes_equal_the_tensors(tiny(mixer))
    state_bytes_equal_the_tensors(tiny(mixer, conv_width=0, gate=True))


@pytest.mark.parametrize("mixer", EACH)
@pytest.mark.parametrize("kernel", ["delta_chunkwise", "delta_recurrent"])
@pytest.mark.parametrize("length", [1, 8, 9, 29])
def test_flops_equal_the_counters(mixer, kernel, length):
    flops_equal_the_counters(tiny(mixer, kernel=kernel, family="modern"), length)
    shape = {"n_heads": 3, "d_key": 12, "d_value": 15, "conv_width": 0, "gate": True}
    flops_equal_the_counters(tiny(mixer, kernel=kernel, **shape), length)


@pytest.mark.parametrize("mixer", EACH)
@pytest.mark.parametrize("negative", [False, True])
def test_gradients_are_finite_on_adversarial_weights(mixer, negative):
    learns_on_adversarial_weights(tiny(mixer, allow_neg_eigval=negative))


def test_inverses_are_counted_by_hand_and_in_utilisation():
    """Two chunks of 8: 2 x 8 x 7 x 6 / 3 FLOPs a head beside what the counter sees."""
    cfg = tiny("deltanet")
    assert DeltaNet.uncounted_flops(cfg, 16) == cfg.n_heads * 2 * 112
    future = cfg.n_layers * 2 * 28 * 2 * (3 * cfg.d_key + 2 * cfg.d_value)
    seen = cost.forward_flops(cfg, 16, masked=True) - future
    assert cost.forward_flops(cfg, 16) == seen + cfg.n_layers * cfg.n_heads * 2 * 112
    assert DeltaNet.uncounted_flops(replace(cfg, kernel="delta_recurrent"), 16) == 0


def test_models_of_paper_sizes_are_made_without_memory():
    for mixer in EACH:
        cfg: ModelConfig = match("13B", mixer, kernel="delta_chunkwise").config
        assert sum(p.numel() for p in on_meta(cfg).parameters()) == cost.parameters(cfg)
