"""Dropout and activation checkpointing: off by default, in training only, invisible to the gate."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ARMS, EVERY, build, tiny, tokens

from retnet_bench.base import UserError
from retnet_bench.models import agreement


def gradients(cfg, recompute: bool) -> list[torch.Tensor]:
    model = build(cfg).train()
    model.recompute = recompute
    x = tokens(cfg, 2, 20)
    torch.manual_seed(5)
    model.loss(x[:, :-1], x[:, 1:]).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize(("mixer", "family"), ARMS)
def test_it_acts_while_training_only(mixer, family):
    cfg = tiny(mixer, family, dropout=0.5)
    model, plain = build(cfg), build(tiny(mixer, family))
    x = tokens(cfg, 2, 20)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert torch.equal(plain.train()(x), plain.eval()(x))
    assert not torch.equal(model.train()(x), model(x))
    state = model.new_state(2, 20)
    assert torch.equal(model.prefill(x, state), plain.prefill(x, plain.new_state(2, 20)))


def test_it_drops_the_share_it_says_from_three_places(monkeypatch):
    asked = []
    drop = torch.nn.functional.dropout
    monkeypatch.setattr(
        torch.nn.functional, "dropout", lambda x, p: (asked.append((p, x.shape)), drop(x, p))[1]
    )
    cfg = tiny("retention", dropout=0.25)
    build(cfg).train()(tokens(cfg, 2, 20))
    assert asked == [(0.25, (2, 20, 16))] * (1 + 2 * cfg.n_layers)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("mixer", "family"), ARMS)
def test_recomputation_gives_the_same_gradients(mixer, family, dropout):
    cfg = tiny(mixer, family, dropout=dropout)
    assert all(map(torch.equal, gradients(cfg, False), gradients(cfg, True)))


def test_recomputation_keeps_less_for_the_backward_pass():
    cfg = tiny("attention", n_layers=6)
    saved = {}
    for recompute in (False, True):
        held = 0

        def pack(x):
            nonlocal held
            held += x.numel()
            return x

        model = build(cfg).train()
        model.recompute = recompute
        x = tokens(cfg, 2, 64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model.loss(x[:, :-1], x[:, 1:])
        saved[recompute] = held
    assert saved[True] < 0.5 * saved[False]


@pytest.mark.parametrize("mixer", EVERY)
def test_the_gate_sees_no_dropout(mixer):
    assert all(a.ok for a in agreement.check(tiny(mixer, dropout=0.5), "cpu", "fp32"))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_makes_no_sense_is_refused(share):
    with pytest.raises(UserError, match="it must be at least 0 and below 1"):
        tiny("retention", dropout=share)
