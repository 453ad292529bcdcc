"""The layer round the short convolution: one answer whole, in parts and step by step."""

from __future__ import annotations

import pytest
import torch
from tiny_models import relative

from retnet_bench.kernels import KERNELS, Setting
from retnet_bench.models import convolution
from retnet_bench.models.convolution import ShortConvolution, parameters, state_bytes

EXACT = 1e-13


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_the_layer_runs_prefills_and_steps_alike(width, bias):
    torch.manual_seed(0)
    layer = ShortConvolution(6, width, bias=bias).double()
    assert sum(p.numel() for p in layer.parameters()) == parameters(6, width, bias)
    assert layer.weight.abs().max() <= width**-0.5
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    whole = layer(x)
    assert whole.min() > -0.3, "SiLU's least value is -0.278"
    for at in (1, 2, 5):
        state = layer.new_state(2, x)
        assert state.nbytes == 2 * state_bytes(6, width, 8)
        held = state
        with torch.no_grad():
            parts = [layer.prefill(x[:, :at], state), layer.prefill(x[:, at : at + 2], state)]
            parts += [layer.step(x[:, t : t + 1], state) for t in range(at + 2, 9)]
        assert state is held
        assert relative(torch.cat(parts, 1), whole) < EXACT


def test_the_layer_follows_autocast_and_a_move():
    layer = ShortConvolution(8)
    x = torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x.bfloat16())
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
    assert layer.bfloat16().new_state(1, x.bfloat16()).dtype == torch.bfloat16


def test_the_package_is_asked_for_where_it_takes_the_shape(monkeypatch):
    asked = []
    package = KERNELS["causal_conv1d"]
    monkeypatch.setattr(convolution, "best", lambda *a: asked.append(a) or package)
    choose = convolution._fastest.__wrapped__
    assert choose("cuda", torch.bfloat16, 64, 4) == "causal_conv1d"
    assert asked == [("short_conv", Setting("cuda", "bf16"))]
    for channels, width in ((60, 4), (64, 5), (64, 1)):
        assert choose("cuda", torch.bfloat16, channels, width) == "short_conv"
