"""Law 2: positions and decay are exact whatever the model's dtype."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from tiny_models import ARMS, build, kernel_of, on_meta, rotary, tiny, tokens

from retnet_bench.models import MIXERS
from retnet_bench.models.layers import Exact
from retnet_bench.models.mixers.retention import log_decay
from retnet_bench.models.options import names

CONFIG = {"decay": "eq8", "d_model": 32, "n_heads": 4, "d_key": 32, "d_value": 64}


def fast(mixer):
    """The kernel and chunk that 4096 tokens take least time with."""
    chunk = {"chunk": 128} if "chunk" in names(MIXERS[mixer].Options) else {}
    return {"kernel": "sdpa" if mixer == "attention" else kernel_of(mixer), **chunk}


INHERENT = {"deltanet": 0.025}
"""Where more than 1.5 % remains even with every product in fp32: a rule that subtracts what it has
stored hands roundings of keys and values on."""
ROTATED = [
    name
    for name, kind in MIXERS.items()
    if kind.rotates and "turned" not in names(kind.Options)  # which is off by default
]


def exact_buffers(model):
    return [rotary(model).frequency, *(b.mixer.log_decay for b in model.blocks)]


def assert_exact(model, dtype, cfg):
    frequency = 10000.0 ** (-torch.arange(0, cfg.key_dim, 2, dtype=torch.float64) / cfg.key_dim)
    wanted = [frequency, *[log_decay(cfg.options.decay, cfg.n_heads)] * cfg.n_layers]
    for found, exact in zip(exact_buffers(model), wanted, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, exact.to(dtype))


MOVES = {
    "bfloat16": (lambda m: m.to(torch.bfloat16), torch.float32),
    "half": (lambda m: m.half(), torch.float32),
    "double": (lambda m: m.double(), torch.float64),
    "bf16 then double": (lambda m: m.bfloat16().double(), torch.float64),
    "double then bf16": (lambda m: m.double().to("cpu", torch.bfloat16), torch.float32),
    "bf16 twice": (lambda m: m.bfloat16().bfloat16(), torch.float32),
    "copy": (lambda m: copy.deepcopy(m).bfloat16(), torch.float32),
}


@pytest.mark.parametrize("move", MOVES)
def test_constants_survive_every_move(move):
    cfg = tiny("retention", **CONFIG)
    moved, dtype = MOVES[move][0](build(cfg)), MOVES[move][1]
    assert_exact(moved, dtype, cfg)


def test_weights_do_follow_the_move():
    model = build(tiny("retention")).to(torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constants_survive_meta(dtype):
    """A large model is made on meta, given memory, then filled: to_empty leaves buffers blank."""
    cfg = tiny("retention", **CONFIG)
    model = on_meta(cfg)
    assert all(t.is_meta for t in exact_buffers(model))
    assert_exact(model.to(dtype).to_empty(device="cpu"), torch.float32, cfg)


def test_constants_are_not_in_checkpoints():
    saved = build(tiny("retention")).state_dict()
    assert not [name for name in saved if "log_decay" in name or "frequency" in name]


@pytest.mark.parametrize("mixer", ROTATED)
def test_angles_are_exact_to_fp32_at_late_positions(mixer):
    """4095 rounds to 4096 in bf16, and 1 rad of error is no angle at all."""
    model = build(tiny(mixer)).bfloat16()
    cos, sin = rotary(model).at(4095, 1)
    exact = 4095 * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    assert (cos.flatten() - exact.cos()).abs().max() < 5e-4
    assert (sin.flatten() - exact.sin()).abs().max() < 5e-4


def error_by_quarter(model, length: int = 4096) -> torch.Tensor:
    """Relative error (Frobenius) of the model's logits in each quarter of `length` positions,
    against fp64 with the same weights and a decay and angles that were never rounded."""
    truth = build(model.cfg).double()
    truth.load_state_dict(model.state_dict())
    ids = tokens(model.cfg, 1, length)
    with torch.no_grad():
        found, wanted = (m(ids).double().view(4, -1) for m in (model, truth))
    return (found - wanted).norm(dim=1) / wanted.norm(dim=1)


@pytest.mark.parametrize(("mixer", "family"), ARMS)
def test_bf16_does_not_drift_with_position(mixer, family):
    errors = error_by_quarter(build(tiny(mixer, family, **fast(mixer))).bfloat16())
    assert errors[0] < INHERENT.get(mixer, 0.015)
    assert errors.max() < 1.3 * errors[0]


def test_bf16_does_not_drift_at_the_slow_decay_of_equation_8():
    cfg = tiny("retention", chunk=128, decay="eq8", n_heads=4)
    errors = error_by_quarter(build(cfg).bfloat16())
    assert errors[0] < 0.015
    assert errors.max() < 1.3 * errors[0]


@pytest.mark.parametrize("mixer", ROTATED)
def test_cast_constants_would_be_seen(monkeypatch, mixer):
    """The same measure with the constants cast as torch casts them shows what law 2 is for."""
    cfg = tiny(mixer, **fast(mixer))
    right = error_by_quarter(build(cfg).bfloat16())
    with monkeypatch.context() as patch:
        patch.setattr(Exact, "_apply", nn.Module._apply)
        cast = build(cfg).bfloat16()
    assert rotary(cast).frequency.dtype == torch.bfloat16
    assert error_by_quarter(cast).min() > 3 * right.max()
