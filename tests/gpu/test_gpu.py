"""What only a CUDA device can show. Run by `nox -s gpu`; has never run on hardware."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
import torch

from retnet_bench.kernels import KERNELS, Setting
from retnet_bench.measure import nvml
from retnet_bench.measure.memory import measure_phase
from retnet_bench.measure.purity import snapshot
from retnet_bench.measure.telemetry import Telemetry
from retnet_bench.models import MIXERS, agreement, match
from retnet_bench.workloads import WORKLOADS, Cell

pytestmark = pytest.mark.gpu
ARMS = {"retention": "chunkwise", "attention": "sdpa"}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("mixer", ARMS)
def test_every_kernel_that_runs_here_gives_the_same_answer(mixer, dtype):
    config = match("3M", mixer, kernel=ARMS[mixer]).config
    able = [k.name for _, k in KERNELS.items() if k.mixer == mixer]
    able = [n for n in able if KERNELS[n].why_not(Setting("cuda", dtype, 64, 128)) is None]
    assert ARMS[mixer] in able
    alone = [name for name in able if KERNELS[name].checked_alone]
    for kernel in (ARMS[mixer], *alone):
        for found in agreement.check(replace(config, kernel=kernel), "cuda", dtype):
            assert found.ok, f"{kernel}: {found.line()}"


def _workload(name: str, mixer: str, mode: str):
    workload = WORKLOADS[name](
        Cell(
            workload=name,
            arm=mixer,
            mixer=mixer,
            kernel=ARMS[mixer],
            size="3M",
            family="paper",
            match="params",
            batch=2,
            length=1024,
            dtype="fp32",
            mode=mode,
            device="cuda",
            threads=1,
            corpus="random",
            tokenizer="random:512",
            vocab_size=512,
            seed=0,
            measure=("time", "memory"),
            options=MIXERS[mixer].Options(),
            positions=3,
        )
    )
    workload.prepare()
    return workload


@pytest.mark.parametrize("mode", ["compile", "cudagraph"])
@pytest.mark.parametrize("mixer", ARMS)
@pytest.mark.parametrize("name", ["train", "prefill", "decode"])
def test_a_mode_computes_what_eager_does(name, mixer, mode):
    workload = _workload(name, mixer, mode)
    assert workload.mode_error() < agreement.TOLERANCE["fp32"]


def test_cuda_counters_count():
    n = 2**20
    found = measure_phase("cuda", lambda: torch.ones(n, device="cuda").sum(), resident_bytes=0)
    assert found["cuda_peak_allocated_bytes"].value >= 4 * n
    assert found["cuda_peak_reserved_bytes"].value >= found["cuda_peak_allocated_bytes"].value
    assert (found["nvml_used_bytes"].value is None) != (found["nvml_used_bytes"].reason is None)


def test_telemetry_of_a_busy_block():
    x = torch.randn(4096, 4096, device="cuda")
    with Telemetry("cuda", nvml.torch_uuid(torch.device("cuda", 0)), [os.getpid()]) as telemetry:
        end_s = time.monotonic() + 3
        while time.monotonic() < end_s:
            (x @ x).sum().item()
    found = {series.metric: series for series in telemetry.readings()}
    assert max(found["gpu_power_w"].values) > 10
    assert found["gpu_energy_j"].values or found["gpu_integrated_energy_j"].values


def test_the_allocator_s_counters_exist():
    held = torch.empty(1 << 20, device="cuda")
    before = snapshot("cuda")
    more = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    late = snapshot("cuda")
    assert (late.allocator_retries, late.device_mallocs - before.device_mallocs) == (0, 1)
    assert held.is_cuda
    assert more.is_cuda
