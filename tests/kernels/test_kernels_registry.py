"""The table of kernels: why a kernel is not available, and which one is preferred."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace

import pytest
import torch
from fake_packages import install_fla, install_flash_attn, install_flash_attn_4

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS, Elsewhere, Setting, best
from retnet_bench.kernels import registry as table

FORMS = ("chunkwise", "parallel", "recurrent", "fla")


@pytest.fixture
def gpu_machine(monkeypatch):
    """CUDA and both packages present, as far as the table can see."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    install_fla(monkeypatch)
    install_flash_attn(monkeypatch)


def test_the_kernels_and_their_mixers():
    assert {name: kernel.mixer for name, kernel in KERNELS.items()} == {
        "chunkwise": "retention",
        "parallel": "retention",
        "recurrent": "retention",
        "fla": "retention",
        "sdpa": "attention",
        "math": "attention",
        "flash_attn": "attention",
        "flash_attn_4": "attention",
        "sdpa_flash": "attention",
        "sdpa_cudnn": "attention",
        "sdpa_efficient": "attention",
        **{f"scalar_{form}": "scalar_decay" for form in FORMS},
        **{f"ssd_{form}": "ssd" for form in FORMS},
        "mamba_ssm": "ssd",
        "short_conv": "short_conv",
        "causal_conv1d": "short_conv",
        "delta_chunkwise": "delta",
        "delta_recurrent": "delta",
        "delta_fla": "delta",
        "channel_decay_chunkwise": "channel_decay",
        "channel_decay_recurrent": "channel_decay",
        "channel_decay_fla": "channel_decay",
        "linear_chunkwise": "linear",
        "linear_parallel": "linear",
        "linear_recurrent": "linear",
        "linear_fla": "linear",
        "h3_fft": "h3",
        "h3_recurrent": "h3",
        "long_conv_fft": "long_conv",
        "long_conv_toeplitz": "long_conv",
        "wkv_chunkwise": "wkv",
        "wkv_recurrent": "wkv",
        "wkv_fla": "wkv",
    }
    assert all(name == kernel.name for name, kernel in KERNELS.items())


def test_an_unknown_kernel_is_a_user_error_with_a_suggestion():
    with pytest.raises(UserError, match='unknown kernel "chunkwize"; did you mean "chunkwise"'):
        KERNELS["chunkwize"]


@pytest.mark.usefixtures("gpu_machine")
@pytest.mark.parametrize(
    ("name", "setting", "reason"),
    [
        ("fla", Setting("cpu"), "needs a CUDA device"),
        ("sdpa_cudnn", Setting("cpu"), "needs a CUDA device"),
        ("sdpa_flash", Setting("cuda", window=512), "takes no window"),
        ("sdpa_cudnn", Setting("cuda", window=512), None),
        ("sdpa_efficient", Setting("cuda", "fp32"), None),
        ("sdpa_cudnn", Setting("cuda", "fp32"), "takes fp16, bf16, not fp32"),
        ("sdpa_cudnn", Setting("cuda", key_dim=36), "key head dimension 36 is no multiple of 8"),
        ("flash_attn_4", Setting("cuda", "bf16"), "package flash-attn-4 is not installed"),
        ("sdpa", Setting("mps"), "needs cpu or cuda"),
        ("fla", Setting("cuda", "fp64"), "takes fp32, fp16, bf16, not fp64"),
        ("flash_attn", Setting("cuda", "fp32"), "takes fp16, bf16, not fp32"),
        ("fla", Setting("cuda", mode="cudagraph"), "runs in mode eager, compile, not cudagraph"),
        ("flash_attn", Setting("cuda", key_dim=264), "key head dimension 264 is above 256"),
        ("flash_attn", Setting("cuda:0", "bf16", 256, 256, "cudagraph"), None),
        ("fla", Setting("cuda:3", "fp32", 256, 512, "compile"), None),
        ("chunkwise", Setting("mps", "fp16", 1024, 4096, "compile"), None),
    ],
)
def test_why_not(name, setting, reason):
    assert KERNELS[name].why_not(setting) == reason


@pytest.mark.usefixtures("gpu_machine")
def test_why_not_on_an_older_gpu(monkeypatch):
    install_flash_attn_4(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    for name, since in SINCE.items():
        found = KERNELS[name].why_not(Setting("cuda", "fp16", 64))
        assert found == f"needs compute capability {since}, not 7.5"
    assert KERNELS["sdpa_efficient"].why_not(Setting("cuda", "fp16", 64)) is None


SINCE = {"sdpa_flash": "8.0", "sdpa_cudnn": "8.0", "flash_attn_4": "9.0"}


def test_why_not_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("chunkwise", "fla", "sdpa", "flash_attn"):
        assert KERNELS[name].why_not(Setting("cuda:0")) == "no CUDA device on this machine"


def test_why_not_elsewhere_leaves_out_what_this_machine_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    there = Setting("cuda", "bf16", 64, elsewhere=Elsewhere((9, 0)))
    for name in ("flash_attn", "flash_attn_4", "sdpa_cudnn"):
        assert KERNELS[name].why_not(there) is None
    older = replace(there, elsewhere=Elsewhere((7, 5)))
    for name, since in SINCE.items():
        said = f"needs compute capability {since}, not 7.5"
        assert KERNELS[name].why_not(older) == said
        assert KERNELS[name].why_not(replace(there, elsewhere=Elsewhere())) is None


def test_why_not_without_the_package(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in ("fla", "flash_attn"):
        monkeypatch.setitem(sys.modules, module, None)
    assert KERNELS["fla"].why_not(Setting("cuda")) == "package fla-core is not installed"
    assert KERNELS["flash_attn"].why_not(Setting("cuda")) == "package flash-attn is not installed"


def test_best_on_cpu():
    for dtype in table.ALL:
        assert best("retention", Setting("cpu", dtype)).name == "chunkwise"
        assert best("attention", Setting("cpu", dtype)).name == "sdpa"


def test_best_is_by_rank_not_by_place(monkeypatch):
    raised = replace(KERNELS["parallel"], rank=9)
    monkeypatch.setitem(KERNELS._items, "parallel", raised)
    assert best("retention", Setting("cpu")) is raised


def test_best_for_a_machine_that_is_not_here_needs_no_package(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    install_fla(monkeypatch)
    install_flash_attn(monkeypatch)
    assert best("retention", Setting("cuda", "bf16")).name == "chunkwise"
    assert best("attention", Setting("cuda", "bf16")).name == "sdpa"


@pytest.mark.usefixtures("gpu_machine")
def test_sdpa_is_not_offered_in_fp64_on_cuda():
    assert KERNELS["sdpa"].why_not(Setting("cuda", "fp64")) is not None


def test_labels_name_the_packages_version(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"1.2-{name}")
    assert KERNELS["fla"].label() == "fla (fla-core 1.2-fla-core)"
    assert KERNELS["chunkwise"].label() == "chunkwise"
