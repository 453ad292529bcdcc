"""The adapters to flash-attn and fla, against stand-ins that hold to the packages' interfaces."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_packages import install_fla, install_flash_attn, install_flash_attn_4
from kernel_inputs import Case, relative

from retnet_bench.kernels import KERNELS, Setting, attention, retention

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


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize(("T", "S"), [(9, 9), (9, 21), (1, 21)])
def test_flash_attn_equals_math(T, S):
    q, k, v = (torch.randn(2, n, 3, 8) for n in (T, S, S))
    assert relative(attention.flash_attn(q, k, v), attention.math(q, k, v)) < FP32


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize(("T", "S"), [(9, 9), (60, 60), (60, 67)])
@pytest.mark.parametrize("window", [1, 7, 80])
def test_flash_attn_has_windows_and_groups_of_its_own(T, S, window):
    q, k, v = (torch.randn(2, n, heads, 8) for n, heads in ((T, 6), (S, 2), (S, 2)))
    found, wanted = (f(q, k, v, window) for f in (attention.flash_attn, attention.math))
    assert relative(found, wanted) < FP32


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("filled", [None, 1, 13, 21])
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_a_flash_attn_step_equals_a_math_step(filled, kv_heads):
    q, k, v = (torch.randn(2, heads, n, 8) for n, heads in ((1, 6), (21, kv_heads), (21, kv_heads)))
    mask = None if filled is None else torch.arange(21) < filled
    found, wanted = (f(q, k, v, mask) for f in (attention.flash_attn_step, attention.math_step))
    assert found.shape == (2, 6, 1, 8)
    assert relative(found, wanted) < FP32


@pytest.fixture(params=[90, 100], ids=["Hopper", "Blackwell"])
def flash_4(request, monkeypatch):
    install_flash_attn_4(monkeypatch, request.param)
    return request.param


BF16 = 8e-3


@pytest.mark.usefixtures("flash_4")
@pytest.mark.parametrize(("T", "S"), [(9, 9), (9, 21), (1, 21), (60, 67)])
@pytest.mark.parametrize("window", [None, 1, 7, 80])
def test_flash_attn_4_equals_math(T, S, window):
    q, k, v = (torch.randn(2, n, heads, 8).bfloat16() for n, heads in ((T, 6), (S, 2), (S, 2)))
    found = attention.flash_attn_4(q, k, v, window)
    assert found.dtype == torch.bfloat16
    wanted = attention.math(q.float(), k.float(), v.float(), window)
    assert relative(found, wanted) < BF16


@pytest.mark.usefixtures("flash_4")
@pytest.mark.parametrize("filled", [None, 1, 13, 21])
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_a_flash_attn_4_step_equals_a_math_step(filled, kv_heads):
    shapes = ((1, 6), (21, kv_heads), (21, kv_heads))
    q, k, v = (torch.randn(2, heads, n, 8).bfloat16() for n, heads in shapes)
    mask = None if filled is None else torch.arange(21) < filled
    found = attention.flash_attn_4_step(q, k, v, mask)
    assert found.shape == (2, 6, 1, 8)
    wanted = attention.math_step(q.float(), k.float(), v.float(), mask)
    assert relative(found, wanted) < BF16


def test_flash_attn_4_splits_the_cache_where_it_can():
    splits = attention.flash_attn_4_splits
    assert [splits(at) for at in ((8, 0), (9, 0), (10, 0), (11, 0), (12, 0), None)] == [
        *(1, 1, 0, 0, 1, 1)
    ]


def test_flash_attn_4_is_none_of_flash_attn(flash_4, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    setting = Setting("cuda", "bf16", 128, 128, "eager")
    assert KERNELS["flash_attn_4"].why_not(setting) is None
    assert KERNELS["flash_attn"].why_not(setting) == "package flash-attn is not installed"


@pytest.mark.usefixtures("fla", "flash")
def test_installed_packages_on_a_cuda_machine_are_preferred(monkeypatch):
    from retnet_bench.kernels import best

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best("retention", Setting("cuda", "bf16", 256, 512, "eager")).name == "fla"
    assert best("attention", Setting("cuda:1", "bf16", 128, 128, "eager")).name == "flash_attn"
    assert best("attention", Setting("cuda", "fp32", 128, 128, "eager")).name == "sdpa"
    assert best("retention", Setting("cuda", "bf16", 256, 512, "cudagraph")).name == "chunkwise"
    assert KERNELS["flash_attn"].why_not(Setting("cuda", "bf16", 256)) is None
