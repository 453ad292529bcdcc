"""What this machine can measure, and how; what it cannot, and why."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from retnet_bench.kernels.registry import is_importable
from retnet_bench.measure import cores, energy, environment, nvml, purity
from retnet_bench.measure.environment import ROOT, Unknown
from retnet_bench.measure.memory import reset_peak_rss
from retnet_bench.measure.reading import Reading

NATIVE_FLAGS = {
    "bf16": ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "svebf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "avx10_2", "asimdhp"),
}
"""Processor flags that mean arithmetic in the format itself (/proc/cpuinfo, x86 and Arm)."""


@dataclass(frozen=True)
class Capability:
    """One thing that can or cannot be measured here."""

    what: str
    available: bool
    how_or_why: str


def _from_reading(what: str, reading: Reading, how: str) -> Capability:
    return Capability(what, reading.reason is None, reading.reason or how)


def _cuda() -> Capability:
    build = torch.version.cuda
    if build is None:
        return Capability("cuda", False, f"torch {torch.__version__} is built without CUDA")
    if not environment.cuda_available():
        return Capability("cuda", False, f"torch is built for CUDA {build}, but no GPU is usable")
    return Capability("cuda", True, f"{torch.cuda.device_count()} GPU(s), CUDA {build}")


def _first_gpu(question: Callable[[ModuleType, Any], Any]) -> Reading:
    return nvml.ask(lambda pynvml: question(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)))


def _nvml() -> list[Capability]:
    version = nvml.ask(lambda pynvml: pynvml.nvmlSystemGetDriverVersion())
    counted = _first_gpu(nvml.energy_j)
    power = _first_gpu(nvml.power_w)
    energy_how = "energy counter of the driver, blocks of 2 s or more"
    if counted.value is None and power.value is not None:
        counted, energy_how = power, f"power integrated ({counted.reason})"
    return [
        _from_reading("nvml", version, f"driver {version.value}"),
        _from_reading("gpu energy", counted, energy_how),
        _from_reading("gpu power", power, f"now {power.value} W"),
        _from_reading("gpu clocks", _first_gpu(nvml.sm_clock_mhz), "sampled in each block"),
        _from_reading("gpu temperature", _first_gpu(nvml.temperature_c), "sampled in each block"),
        _from_reading("gpu throttling", _first_gpu(nvml.throttle_bits), "sampled in each block"),
        _from_reading("gpu in use by others", _first_gpu(nvml.processes), "memory of processes"),
    ]


def _cpu_energy(root: Path) -> Capability:
    counters = energy.rapl(root)
    how = f"RAPL of {len(counters.value or ())} package(s), blocks of 2 s or more"
    return _from_reading("cpu energy", counters, how)


def _purity(root: Path) -> list[Capability]:
    """What a block's purity is judged by, besides what torch itself counts."""
    counters = purity.snapshot("cpu", root)
    why = dict(counters.unknown)
    return [
        Capability(what, field not in why, why.get(field, how))
        for what, field, how in (
            ("load by others", "busy_s", f"/proc/stat of {counters.n_cores} allowed core(s)"),
            ("waiting for a core", "waited_s", "/proc/self/task/*/schedstat"),
            ("page faults", "major_faults", "getrusage"),
            ("cpu frequency", "frequency_mhz", "scaling_cur_freq of the allowed cores"),
        )
    ]


def _pinning() -> Capability:
    found = cores.allowed()
    names = ", ".join(map(str, found.value or []))
    return _from_reading("pinning to cores", found, f"cores {names} may be used")


def _peak_rss() -> Capability:
    reason = reset_peak_rss()
    return Capability("peak rss per phase", reason is None, reason or "VmHWM, reset per phase")


def _compile(device: torch.device) -> Capability:
    what = f"compile on {device.type}"
    if device.type == "cuda":
        found = importlib.util.find_spec("triton") is not None
        return Capability(what, found, "triton" if found else "triton is not installed")
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    path = shutil.which(compiler)
    return Capability(what, path is not None, path or f"no C++ compiler: {compiler} not found")


def _package(what: str, module: str, distribution: str) -> Capability:
    found = is_importable(module)
    how = f"package {distribution}" + ("" if found else " is not installed")
    return Capability(what, found, how)


def _low_precision(name: str, root: Path) -> Capability:
    what = f"{name} on cpu"
    flags = environment.cpuinfo("(?:flags|Features)", root)
    if isinstance(flags, Unknown):
        return Capability(what, True, f"speed unknown: {flags}")
    native = [flag for flag in NATIVE_FLAGS[name] if flag in flags.split()]
    how = f"native ({', '.join(native)})" if native else "emulated, slow"
    return Capability(what, True, how)


def capabilities(device: str | None = None, root: Path = ROOT) -> list[Capability]:
    """What can be measured here. `device`: where models would run; by default the GPU if any."""
    target = torch.device(device or ("cuda" if environment.cuda_available() else "cpu"))
    return [
        _cuda(),
        *_nvml(),
        _cpu_energy(root),
        _peak_rss(),
        *_purity(root),
        _pinning(),
        _compile(target),
        _package("flash attention", "flash_attn", "flash-attn"),
        _package("FlashAttention-4", "flash_attn.cute", "flash-attn-4"),
        _package("fla kernels", "fla", "fla-core"),
        _package("downstream tasks", "lm_eval", "lm-eval"),
        *(_low_precision(name, root) for name in NATIVE_FLAGS),
    ]
