"""The adapters to flash-attn and fla, against stand-ins that hold to the packages' interfaces."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from delta_inputs import DeltaCase
from fake_packages import install_fla, install_flash_attn
from kernel_inputs import Case, relative

from retnet_bench.kernels import KERNELS, Setting, attention, delta, retention

FP32 = 1e-5
CASE = Case(2, 37, 2, 4, 6, 16, stateful=True, seed=5)


@pytest.fixture
def fla(monkeypatch):
    install_fla(monkeypatch)


@pytest.fixture
def flash(monkeypatch):
    install_flash_attn(monkeypatch)


def fp32(case: Case):
    return tuple(None if x is None else x.float() for x in case.tensors(torch.float32))


@pytest.mark.usefixtures("fla")
@pytest.mark.parametrize("length", [1, 16, 37])
def test_fla_gives_our_output_from_an_empty_state(length):
    q, k, v, decay, _ = fp32(replace(CASE, length=length))
    out, _ = retention.fla_chunkwise(q, k, v, decay, chunk=16)
    assert relative(out, retention.chunkwise(q, k, v, decay, chunk=16)[0]) < FP32


@pytest.mark.usefixtures("fla")
def test_fla_prefill_in_two_parts_then_steps_equals_our_recurrence():
    q, k, v, decay, _ = fp32(CASE)
    parts, state, at = [], None, 0
    for end in (20, 30):
        cut = (x[:, at:end] for x in (q, k, v))
        out, state = retention.fla_chunkwise(*cut, decay, chunk=16, state=state)
        parts.append(out)
        at = end
    for n in range(30, 37):
        held = state
        out = retention.fla_step(q[:, n], k[:, n], v[:, n], decay, state)
        assert state is held
        parts.append(out[:, None])
    expected, _ = retention.recurrent(q, k, v, decay)
    assert relative(torch.cat(parts, 1), expected) < FP32


@pytest.mark.usefixtures("fla")
def test_a_state_means_the_same_to_every_kernel():
    q, k, v, decay, state = fp32(CASE)
    out, new = retention.fla_chunkwise(q, k, v, decay, chunk=16, state=state)
    ours_out, ours = retention.chunkwise(q, k, v, decay, chunk=16, state=state)
    assert relative(out, ours_out) < FP32
    assert relative(new, ours) < FP32
    stepped = state.clone()
    out = retention.fla_step(q[:, 0], k[:, 0], v[:, 0], decay, stepped)
    assert relative(out, retention.recurrent_step(q[:, 0], k[:, 0], v[:, 0], decay, state)) < FP32
    assert relative(stepped, state) < FP32


@pytest.mark.usefixtures("fla")
def test_fla_passes_the_chunk_on():
    q, k, v, decay, _ = fp32(CASE)
    with pytest.raises(ValueError, match="power of 2, got 48"):
        retention.fla_chunkwise(q, k, v, decay, chunk=48)


DELTA = DeltaCase(length=37, d_k=8, d_v=6, stateful=False)
BOTH_RULES = pytest.mark.parametrize("gated", [True, False], ids=["gated", "ungated"])
BF16 = 1e-2
"""Inputs are the same in bf16 and products of the stand-ins fp32: only the outputs are rounded."""


@pytest.mark.usefixtures("fla")
@BOTH_RULES
@pytest.mark.parametrize("length", [1, 16, 37])
def test_fla_delta_gives_our_output_from_an_empty_state(length, gated):
    inputs = replace(DELTA, length=length, gated=gated).tensors(torch.bfloat16)[:5]
    out, state = delta.fla_chunkwise(*inputs, chunk=16)
    expected, ours = delta.recurrent(*inputs)
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert relative(out, expected) < BF16
    assert relative(state, ours) < FP32


@pytest.mark.usefixtures("fla")
@BOTH_RULES
def test_fla_delta_in_two_parts_then_steps_equals_our_recurrence(gated):
    """d_k and d_v differ, so a state with values first would not fit."""
    inputs = replace(DELTA, gated=gated).tensors(torch.bfloat16)[:5]
    parts, state, at = [], None, 0
    for end in (20, 30):
        cut = (None if x is None else x[:, at:end] for x in inputs)
        out, state = delta.fla_chunkwise(*cut, chunk=16, state=state)
        parts.append(out)
        at = end
    for n in range(30, 37):
        held = state
        token = (None if x is None else x[:, n] for x in inputs)
        parts.append(delta.fla_step(*token, state)[:, None])
        assert state is held
    expected, end_state = delta.recurrent(*inputs)
    assert relative(torch.cat(parts, 1), expected) < BF16
    assert relative(state, end_state) < FP32


@pytest.mark.usefixtures("fla")
@BOTH_RULES
def test_fla_delta_passes_the_chunk_on(gated):
    inputs = replace(DELTA, gated=gated).tensors(torch.bfloat16)[:5]
    with pytest.raises(ValueError, match="16, 32, or 64, got 48"):
        delta.fla_chunkwise(*inputs, chunk=48)


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize(("T", "S"), [(9, 9), (9, 21), (1, 21)])
def test_flash_attn_equals_math(T, S):
    q, k, v = (torch.randn(2, n, 3, 8) for n in (T, S, S))
    assert relative(attention.flash_attn(q, k, v), attention.math(q, k, v)) < FP32


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("filled", [None, 1, 13, 21])
def test_a_flash_attn_step_equals_a_math_step(filled):
    q, k, v = (torch.randn(2, 3, n, 8) for n in (1, 21, 21))
    mask = None if filled is None else torch.arange(21) < filled
    found, wanted = (f(q, k, v, mask) for f in (attention.flash_attn_step, attention.math_step))
    assert found.shape == (2, 3, 1, 8)
    assert relative(found, wanted) < FP32


@pytest.mark.usefixtures("fla", "flash")
def test_installed_packages_on_a_cuda_machine_are_preferred(monkeypatch):
    from retnet_bench.kernels import best

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best("retention", Setting("cuda", "bf16", 256, 512, "eager")).name == "fla"
    assert best("attention", Setting("cuda:1", "bf16", 128, 128, "eager")).name == "flash_attn"
    assert best("attention", Setting("cuda", "fp32", 128, 128, "eager")).name == "sdpa"
    assert best("retention", Setting("cuda", "bf16", 256, 512, "cudagraph")).name == "chunkwise"
    assert best("delta", Setting("cuda", "bf16", 256, 512, "compile")).name == "delta_fla"
    assert best("delta", Setting("cuda", "fp32", 128, 128, "eager")).name == "delta_chunkwise"
    assert KERNELS["flash_attn"].why_not(Setting("cuda", "bf16", 256)) is None
