from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from fakes.cuda import FakeCuda
from fakes.nvml import A100, H100, FakeNvml

from retnet_bench.measure import cgroup, memory
from retnet_bench.measure.memory import (
    CUDA_KEYS,
    available_bytes,
    measure_phase,
    peak_rss_bytes,
    peak_tensor_bytes,
)
from retnet_bench.measure.reading import Reading

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 1 << 20


def test_reading_is_a_value_or_a_reason():
    for value, reason in ((None, None), (1, "why")):
        with pytest.raises(AssertionError):
            Reading(value, reason)
    assert Reading(0).reason is None


def test_peak_tensor_bytes_of_known_allocations():
    def fn() -> None:
        a = torch.empty(1000)  # 4000
        b = torch.empty(2000)  # 12000 <- peak
        del a  # 8000
        c = torch.empty(500)  # 10000
        del b, c

    assert peak_tensor_bytes(fn) == 12_000


def test_peak_tensor_bytes_knows_that_a_replaced_state_was_freed():
    # The profiler does not report the end of the first state, which is older than the profile.
    state = [torch.empty(1000)]

    def step() -> None:
        for _ in range(3):
            state[0] = torch.empty(1000)  # old and new live side by side for a moment

    assert peak_tensor_bytes(step) == 4_000
    assert measure_phase("cpu", step, resident_bytes=4_000)["peak_tensor_bytes"] == Reading(8_000)


def test_peak_tensor_bytes_of_nothing():
    held = torch.empty(10_000)
    assert peak_tensor_bytes(held.zero_) == 0


def test_peak_tensor_bytes_of_a_linear_layer_forward_and_backward():
    x = torch.randn(32, 16)
    layer = torch.nn.Linear(16, 64, bias=False)
    seed = torch.ones(32, 64)
    y, grad = 32 * 64 * 4, 64 * 16 * 4

    def fn() -> None:
        out = layer(x)
        out.backward(seed)

    # the output is alive while a second gradient is made, to be added to the one in .grad
    assert peak_tensor_bytes(fn) == y + grad


def test_peak_tensor_bytes_of_a_step_that_replaces_its_gradients():
    x, layer = torch.randn(32, 16), torch.nn.Linear(16, 64, bias=False)
    seed = torch.ones(32, 64)
    layer(x).backward(seed)
    resident = 2 * 64 * 16 * 4

    def fn() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).backward(seed)

    # weight + output + gradient: the old gradient is gone before the new one comes
    readings = measure_phase("cpu", fn, resident_bytes=resident)
    assert readings["peak_tensor_bytes"] == Reading(resident + 32 * 64 * 4)


@linux_only
def test_peak_rss_sees_what_was_freed_again_and_forgets_the_phase_before():
    """D7, D8: a peak that is another phase's."""

    def allocate(size: int) -> None:
        torch.ones(size, dtype=torch.uint8)

    small = peak_rss_bytes(lambda: allocate(MIB)).value
    large = peak_rss_bytes(lambda: allocate(300 * MIB)).value
    after = peak_rss_bytes(lambda: allocate(MIB)).value
    assert large - small == pytest.approx(300 * MIB, rel=0.1)
    assert abs(after - small) < 30 * MIB


@linux_only
def test_peak_rss_does_not_count_the_heap_a_phase_before_left():
    small = peak_rss_bytes(lambda: None).value
    blocks = [torch.ones(30_000, dtype=torch.uint8) for _ in range(3000)]  # 90 MB in small blocks
    del blocks
    assert peak_rss_bytes(lambda: None).value - small < 30 * MIB


def test_peak_rss_says_why_it_cannot_be_reset(monkeypatch, tmp_path):
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    assert "No such file" in peak_rss_bytes(lambda: None).reason
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert peak_rss_bytes(lambda: None) == Reading(None, "no resettable peak on darwin")


def test_measure_phase_on_cpu_never_reports_a_cuda_zero():
    readings = measure_phase("cpu", lambda: torch.empty(1000), resident_bytes=123)
    assert {readings[key] for key in CUDA_KEYS} == {Reading(None, "device is cpu")}
    assert readings["peak_tensor_bytes"] == Reading(4123)
    assert (readings["peak_rss_bytes"].value is None) == (sys.platform != "linux")


def test_measure_phase_runs_a_cpu_phase_plain_first_then_twice_under_the_profiler():
    profiled = []
    measure_phase(
        "cpu",
        lambda: profiled.append(torch.autograd._profiler_enabled()),
        resident_bytes=0,
    )
    assert profiled == [False, True, True]


def fake_gpu(monkeypatch, uuid: str = H100["uuid"], **faults: str) -> FakeCuda:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([A100, H100], faults))
    return FakeCuda(monkeypatch, uuid)


def test_measure_phase_on_cuda_reads_after_sync_and_resets_before(monkeypatch):
    cuda = fake_gpu(monkeypatch)
    readings = measure_phase("cuda", lambda: cuda.allocate(3 << 30), resident_bytes=99)
    assert readings["cuda_peak_allocated_bytes"] == Reading(3 << 30)
    assert readings["cuda_peak_reserved_bytes"] == Reading(6 << 30)
    assert readings["peak_tensor_bytes"].reason == "counted on cpu only, device is cuda"
    assert cuda.log == ["sync", "empty_cache", "reset", "sync", "allocate", "sync"]


def test_nvml_reads_the_gpu_that_torch_uses_not_the_one_of_the_same_index(monkeypatch):
    monkeypatch.setitem(H100, "used", 42)
    cuda = fake_gpu(monkeypatch)
    readings = measure_phase("cuda", lambda: cuda.allocate(1), resident_bytes=0)
    assert readings["nvml_used_bytes"] == Reading(42)  # index 0 is the A100 in NVML
    assert sys.modules["pynvml"].sessions == 0


@pytest.mark.parametrize(
    ("faults", "uuid", "reason"),
    [
        ({"nvmlInit": "LibraryNotFound"}, H100["uuid"], "NVML Shared Library Not Found"),
        ({"nvmlDeviceGetMemoryInfo": "NotSupported"}, H100["uuid"], "Not Supported"),
        ({"nvmlDeviceGetMemoryInfo": "NoPermission"}, H100["uuid"], "Insufficient Permissions"),
        ({}, "GPU-another", "Not Found"),
    ],
)
def test_nvml_faults_become_reasons(monkeypatch, faults, uuid, reason):
    cuda = fake_gpu(monkeypatch, uuid, **faults)
    readings = measure_phase("cuda", lambda: cuda.allocate(5), resident_bytes=0)
    assert readings["nvml_used_bytes"] == Reading(None, f"NVML: {reason}")
    assert readings["cuda_peak_allocated_bytes"] == Reading(5)
    assert sys.modules["pynvml"].sessions == 0


def test_nvml_without_the_package_says_so(monkeypatch):
    cuda = fake_gpu(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    readings = measure_phase("cuda", lambda: cuda.allocate(5), resident_bytes=0)
    assert readings["nvml_used_bytes"].reason == "nvidia-ml-py is not installed"


def test_available_bytes_is_the_tighter_of_machine_and_group(monkeypatch):
    monkeypatch.setattr(cgroup, "memory_headroom_bytes", lambda: 1000)
    assert available_bytes() == 1000
    monkeypatch.setattr(cgroup, "memory_headroom_bytes", lambda: None)
    assert 0 < available_bytes() <= psutil.virtual_memory().total


def run_python(code: str) -> subprocess.CompletedProcess:
    root = str(Path(memory.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )


LIMITED = """
import torch
from retnet_bench.measure.memory import limit_memory
assert limit_memory(400 << 20).value > 400 << 20
torch.ones(200 << 20, dtype=torch.uint8)
try:
    torch.ones(600 << 20, dtype=torch.uint8)
except RuntimeError as error:
    print("raised:", error)
"""


@linux_only
def test_limit_memory_lets_small_allocations_pass_and_makes_large_ones_raise():
    assert "raised: " in run_python(LIMITED).stdout


FORKED = """
import os
import torch
from retnet_bench.measure.memory import measure_phase
child = os.fork()
if child == 0:
    readings = measure_phase("cpu", lambda: torch.empty(1000), resident_bytes=0)
    os._exit(0 if readings["peak_tensor_bytes"].value == 4000 else 1)
print("exit", os.waitpid(child, 0)[1])
"""


@linux_only
def test_measure_phase_works_in_a_forked_worker():
    assert "exit 0" in run_python(FORKED).stdout


KEEPING = """
import resource, sys, torch
from retnet_bench.measure import memory

def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

assert memory.keep_freed_memory(sys.argv[1] == "keep")
for _ in range(8):  # until the heap has found a place
    torch.ones(32 << 20)  # 128 MiB, freed at once
found = []
for _ in range(4):
    before = faults()
    torch.ones(32 << 20)
    found.append(faults() - before)
print(*sorted(found))
"""


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"),
    reason="tells glibc's heap",
)
def test_a_heap_that_keeps_what_is_freed_faults_its_pages_in_once():
    found = {}
    for mode in ("keep", "give"):
        command = [sys.executable, "-c", KEEPING, mode]
        done = subprocess.run(command, capture_output=True, check=True)
        found[mode] = [int(faults) for faults in done.stdout.split()]
    assert sum(found["keep"][:3]) < 200  # whatever else is done may move the heap's end once
    assert min(found["give"]) >= 64  # each anew: 32768 small pages, or 64 huge ones
