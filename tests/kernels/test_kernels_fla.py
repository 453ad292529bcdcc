"""The adapters of channel decay, linear attention and wkv to fla, against stand-ins that hold to
the package's interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_fla import install_gla, install_rwkv4, install_undecayed
from kernel_laws import by_steps, copy_of, same, tensors

from retnet_bench.kernels import KERNELS, Setting, best, linear, wkv

FP32 = 2e-5


@dataclass(frozen=True)
class Adapter:
    """A family's fla kernel, beside the reference, and inputs of any length."""

    family: str
    install: Callable
    inputs: Callable[[int], list]
    empty: Callable[[list], Any]
    call: Callable
    """(run, inputs, chunk, state): a kernel's whole-sequence function on the inputs."""
    step: Callable
    """(step, inputs, state)."""


def _normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _channel(T):
    q, k = _normal(2, T, 2, 4), _normal(2, T, 2, 4) * 0.7
    return [q, k, _normal(2, T, 2, 6), F.logsigmoid(3 * _normal(2, T, 2, 4).flip(1))]


def _linear(T):
    q, k, v, turned = _channel(T)
    return [linear.feature(q), linear.feature(k), v, turned, turned.flip(-1)]


def _undecayed(function, inputs, *rest):
    q, k, v, *turned = inputs
    return function(q, k, v, *rest, turned=tuple(turned) or None)


DECAY, FIRST = torch.linspace(-5, 2, 6), torch.linspace(-1, 1, 6)
ADAPTERS = [
    Adapter(
        "channel_decay",
        install_gla,
        _channel,
        lambda x: torch.zeros(2, 2, 4, 6),
        lambda run, x, *rest: run(*x, *rest),
        lambda step, x, state: step(*x, state),
    ),
    Adapter(
        "linear",
        install_undecayed,
        lambda T: _linear(T)[:3],
        lambda x: linear.empty_state(x[1], x[2]),
        _undecayed,
        _undecayed,
    ),
    Adapter(
        "linear",
        install_undecayed,
        _linear,
        lambda x: linear.empty_state(x[1], x[2]),
        _undecayed,
        _undecayed,
    ),
    Adapter(
        "wkv",
        install_rwkv4,
        lambda T: [_normal(2, T, 6) * 3, _normal(2, T, 6)],
        lambda x: wkv.empty_state(2, 6, x[0]),
        lambda run, x, *rest: run(*x, DECAY, FIRST, *rest),
        lambda step, x, state: step(*x, DECAY, FIRST, state),
    ),
]


@pytest.fixture(params=ADAPTERS, ids=["channel_decay", "linear", "turned", "wkv"])
def adapter(request, monkeypatch):
    request.param.install(monkeypatch)
    return request.param


@pytest.mark.parametrize("length", [1, 16, 37])
def test_fla_gives_our_output_and_state_from_an_empty_state(adapter, length):
    x = adapter.inputs(length)
    ours, theirs = (KERNELS[f"{adapter.family}_{name}"].run for name in ("recurrent", "fla"))
    same(adapter.call(theirs, x, 16, None), adapter.call(ours, x, 16, None), FP32)


def test_fla_prefill_in_two_parts_then_steps_equals_our_recurrence(adapter):
    x = adapter.inputs(37)
    kernel = KERNELS[f"{adapter.family}_fla"]
    parts, state = [], None
    for rows in (slice(0, 20), slice(20, 30)):
        out, state = adapter.call(kernel.run, [y[:, rows] for y in x], 16, state)
        parts.append(out)
    held = copy_of(state)
    out, state = by_steps(
        lambda token, s: adapter.step(kernel.step, token, s), [y[:, 30:] for y in x], state
    )
    assert not any(torch.equal(a, b) for a, b in zip(tensors(held), tensors(state), strict=True))
    expected = adapter.call(KERNELS[f"{adapter.family}_recurrent"].run, x, 16, None)
    same((torch.cat([*parts, out], 1), state), expected, FP32)


def test_a_state_of_ours_goes_on_in_fla_and_back(adapter):
    x = adapter.inputs(33)
    ours, theirs = (KERNELS[f"{adapter.family}_{name}"].run for name in ("chunkwise", "fla"))
    state = adapter.empty(x)
    parts = []
    for run, rows in ((ours, slice(0, 11)), (theirs, slice(11, 22)), (ours, slice(22, 33))):
        out, state = adapter.call(run, [y[:, rows] for y in x], 16, state)
        parts.append(out)
    same((torch.cat(parts, 1), state), adapter.call(ours, x, 16, None), FP32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_the_states_in_fp32(adapter, dtype):
    x = [y.to(dtype) for y in adapter.inputs(20)]
    if adapter.family == "channel_decay":
        x[3] = adapter.inputs(20)[3]
    ours, theirs = (KERNELS[f"{adapter.family}_{name}"].run for name in ("recurrent", "fla"))
    out, state = adapter.call(theirs, x, 16, None)
    assert out.dtype == dtype
    assert all(y.dtype == torch.float32 for y in tensors(state))
    same((out, state), adapter.call(ours, x, 16, None), 4 * torch.finfo(dtype).eps)


def test_on_a_cuda_machine_with_fla_it_is_preferred(adapter, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    family = adapter.family
    assert best(family, Setting("cuda", "bf16", 64, 64, "eager")).name == f"{family}_fla"
    assert best(family, Setting("cuda", "bf16", 64, 64, "cudagraph")).name == f"{family}_chunkwise"
    assert best(family, Setting("cpu", "bf16")).name == f"{family}_chunkwise"
