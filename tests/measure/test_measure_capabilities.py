from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from fakes.cuda import FakeCuda
from fakes.nvml import H100, FakeNvml

from retnet_bench.measure.capabilities import Capability, capabilities


def by_name(device: str | None = None, **options: Path) -> dict[str, Capability]:
    found = capabilities(device, **options)
    assert len({c.what for c in found}) == len(found)
    assert all(c.how_or_why for c in found)
    return {c.what: c for c in found}


def processor(root: Path, flags: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(f"model name\t: Some CPU\nflags\t\t: {flags}\n")
    return root


@pytest.mark.parametrize(
    ("flags", "bf16", "fp16"),
    [
        ("fpu avx2", "emulated, slow", "emulated, slow"),
        ("avx512f avx512_bf16", "native (avx512_bf16)", "emulated, slow"),
        ("amx_bf16 amx_tile avx512_fp16", "native (amx_bf16)", "native (avx512_fp16)"),
    ],
)
def test_low_precision_is_native_only_with_its_flag(tmp_path, flags, bf16, fp16):
    found = by_name(root=processor(tmp_path, flags))
    assert found["bf16 on cpu"].how_or_why == bf16
    assert found["fp16 on cpu"].how_or_why == fp16


def test_unknown_processor_is_not_called_native(tmp_path):
    assert "unknown" in by_name(root=tmp_path)["bf16 on cpu"].how_or_why


def test_rapl_readable_missing_and_forbidden(tmp_path, monkeypatch):
    assert not by_name(root=tmp_path)["cpu energy"].available
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.parent.mkdir(parents=True)
    counter.write_text("12345")
    (counter.parent / "name").write_text("package-0\n")
    (counter.parent / "max_energy_range_uj").write_text("262143328850\n")
    assert by_name(root=tmp_path)["cpu energy"].available
    real = Path.read_text

    def refuse(path: Path, *arguments, **options) -> str:
        if path == counter:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    refused = by_name(root=tmp_path)["cpu energy"]
    assert not refused.available
    assert refused.how_or_why.endswith("energy_uj: Permission denied")


def test_compile_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused = by_name("cpu")["compile on cpu"]
    assert not refused.available
    assert "no-such-compiler not found" in refused.how_or_why
    compiler = tmp_path / "my-g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert by_name("cpu")["compile on cpu"].available


def test_a_gpu_with_a_driver_but_an_old_card(monkeypatch):
    faults = {"nvmlDeviceGetTotalEnergyConsumption": "NotSupported"}
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([H100], faults))
    FakeCuda(monkeypatch, H100["uuid"], initialized=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = by_name()
    assert found["cuda"] == Capability("cuda", True, "1 GPU(s), CUDA 13.0")
    assert found["nvml"].how_or_why == "driver 570.86.15"
    assert found["gpu energy"].how_or_why == "power integrated (NVML: Not Supported)"
    assert found["gpu power"] == Capability("gpu power", True, "now 350.0 W")
    assert "compile on cuda" in found


def test_a_build_without_cuda_says_so(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    found = by_name()
    assert not found["cuda"].available
    assert "built without CUDA" in found["cuda"].how_or_why
    assert "compile on cpu" in found


def test_a_cuda_build_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert by_name()["cuda"].how_or_why == "torch is built for CUDA 13.0, but no GPU is usable"


def test_env_shows_each_field_with_its_value_or_why_unknown():
    from retnet_bench.catalogue.machine import machine

    facts, here, recorded = machine()
    assert [table.row_count > 0 for table in (facts, here, recorded)] == [True] * 3
    shown = dict(zip(*(list(column.cells) for column in recorded.columns)))
    assert shown["torch.version"] == torch.__version__
    assert all(text and text != "None" for text in shown.values())
    assert any(text.startswith("unknown: ") for text in shown.values())
    counted = list(here.columns[0].cells)
    assert {"load by others", "waiting for a core", "gpu throttling", "cpu energy"} <= {*counted}
