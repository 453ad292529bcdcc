"""The gated convolution: its formula, one answer from all forms, and a broken twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_models import build, relative, tiny
from torch import Tensor

from retnet_bench.models import cost
from retnet_bench.models.agreement import check
from retnet_bench.models.convolution import ShortConvolution
from retnet_bench.models.mixers.base import Context
from retnet_bench.models.mixers.gated_conv import GatedConv

NOWHERE = Context(None)


@pytest.mark.parametrize("width", [2, 3, 5])
def test_each_output_is_its_neighbours_weighed_times_the_gate(width):
    torch.manual_seed(0)
    cfg = tiny("gated_conv", width=width)
    mixer = GatedConv(cfg).double()
    mixer.move()
    x = torch.randn(2, 7, cfg.d_model, dtype=torch.float64)
    out = mixer(x, NOWHERE)
    taps, gate = mixer.conv.weight, mixer.gate
    for t in range(x.shape[1]):
        near = sum(taps[:, width - 1 - s] * x[:, t - s] for s in range(min(width, t + 1)))
        assert relative(out[:, t], near * (x[:, t] @ gate.weight.T + mixer.offset)) < 1e-14


def test_it_starts_with_open_gates():
    model = build(tiny("gated_conv"))
    for block in model.blocks:
        assert isinstance(block.mixer, GatedConv)
        assert (block.mixer.offset == 1).all()
    assert model.undecayed() == {
        f"layers.{i}.mixer.{name}" for i in range(2) for name in GatedConv.undecayed
    }


def test_a_step_costs_what_a_token_of_the_whole_sequence_does():
    cfg = tiny("gated_conv")
    assert GatedConv.uncounted_flops(cfg, 10) == 2 * 3 * cfg.d_model * 10
    assert cost.step_flops(cfg, 0) == cost.step_flops(cfg, 99) == cost.forward_flops(cfg, 1)
    assert cost.state_bytes(cfg, 3, 99, 4) == 2 * 3 * 2 * cfg.d_model * 4


def without_its_own_state(self: ShortConvolution, x: Tensor, state: Tensor) -> Tensor:
    fresh = state * 0
    return _right_prefill(self, x, fresh)


def a_token_late(self: ShortConvolution, x: Tensor, state: Tensor) -> Tensor:
    return _right_step(self, x, state).roll(1, -1)


_right_prefill, _right_step = ShortConvolution.prefill, ShortConvolution.step


@pytest.mark.parametrize(
    ("form", "broken"), [("prefill", without_its_own_state), ("step", a_token_late)]
)
def test_a_broken_twin_is_red(monkeypatch: pytest.MonkeyPatch, form: str, broken: Callable) -> None:
    assert check(tiny("gated_conv"), "cpu", "fp64")[0].ok
    monkeypatch.setattr(ShortConvolution, form, broken)
    assert not check(tiny("gated_conv"), "cpu", "fp64")[0].ok
