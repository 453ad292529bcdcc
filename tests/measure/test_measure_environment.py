from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes.cuda import FakeCuda
from fakes.nvml import A100, H100, FakeNvml

from retnet_bench.measure import environment
from retnet_bench.measure.environment import capture, fingerprint, git_state, machine_name

REPOSITORY = Path(environment.__file__).parents[2]


@pytest.fixture(scope="module")
def captured() -> dict:
    return capture("cpu")


def test_capture_is_plain_json_and_quick(captured):
    took_s = []
    for _ in range(5):  # the quickest: a shared machine may take any time over one
        start_s = time.perf_counter()
        again = capture("cpu")
        took_s.append(time.perf_counter() - start_s)
    assert min(took_s) < 0.5
    assert json.loads(json.dumps(again)) == again
    assert again.keys() == captured.keys()


def test_every_none_has_its_reason_and_every_reason_its_none(captured):
    sections = {name: fields for name, fields in captured.items() if name != "unknown"}
    nones = {f"{s}.{k}" for s, fields in sections.items() for k, v in fields.items() if v is None}
    assert nones == captured["unknown"].keys()
    assert all(captured["unknown"].values())


def release(version: str) -> str:
    """2.11.0 of 2.11.0+cu130: the build's own part is in torch's word, not always in pip's."""
    return version.partition("+")[0]


def test_capture_knows_what_psutil_and_torch_know(captured):
    import psutil
    import torch

    assert captured["memory"]["total_bytes"] == psutil.virtual_memory().total
    assert captured["torch"]["version"] == torch.__version__
    assert release(captured["packages"]["torch"]) == release(torch.__version__)
    assert captured["threads"]["intra_op"] == torch.get_num_threads()


def test_a_version_is_kept_with_its_build(monkeypatch):
    monkeypatch.setattr("torch.__version__", "2.11.0+cu130")
    assert capture("cpu")["torch"]["version"] == "2.11.0+cu130"
    assert release("2.11.0+cu130") == release("2.11.0") == "2.11.0"


def example() -> dict:
    return {
        "cpu": {"model": "AMD EPYC", "physical_cores": 2, "logical_cores": 4, "governor": None},
        "memory": {"total_bytes": 25_276_510_208},
        "device": {"type": "cpu", "name": "AMD EPYC"},
        "torch": {"version": "2.13.0+cpu"},
        "threads": {"intra_op": 2},
        "load": {"load_1min": 0.5},
    }


def with_field(section: str, key: str, value: object) -> dict:
    changed = copy.deepcopy(example())
    changed[section][key] = value
    return changed


def test_fingerprint_is_12_hex_digits():
    assert len(fingerprint(example())) == 12
    int(fingerprint(example()), 16)


@pytest.mark.parametrize(
    "change",
    [
        ("cpu", "governor", "powersave"),
        ("load", "load_1min", 9.0),
        ("memory", "total_bytes", 25_276_510_208 + 100_000_000),
    ],
)
def test_fingerprint_ignores_what_varies_on_one_machine(change):
    assert fingerprint(with_field(*change)) == fingerprint(example())


@pytest.mark.parametrize(
    "change",
    [
        ("cpu", "model", "Intel Xeon"),
        ("cpu", "physical_cores", 4),
        ("cpu", "logical_cores", 8),
        ("memory", "total_bytes", 50_000_000_000),
        ("device", "name", "NVIDIA H100 80GB HBM3"),
        ("torch", "version", "2.14.0"),
        ("threads", "intra_op", 1),
    ],
)
def test_fingerprint_tells_machines_apart(change):
    assert fingerprint(with_field(*change)) != fingerprint(example())


def test_machine_names():
    assert machine_name(example()) == "AMD EPYC, 2 cores, cpu"
    assert machine_name(with_field("cpu", "physical_cores", None)) == "AMD EPYC, 4 cores, cpu"
    gpu = with_field("device", "type", "cuda")
    gpu["device"]["name"] = "NVIDIA H100 80GB HBM3"
    assert machine_name(gpu) == "NVIDIA H100 80GB HBM3"
    gpu["device"]["name"] = None
    assert machine_name(gpu) == "unnamed cuda device"


def cuda_capture(monkeypatch, gpus, initialized, **faults) -> dict:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpus, faults))
    FakeCuda(monkeypatch, A100["uuid"], initialized)
    return capture("cuda")


def test_one_gpu_is_described_without_starting_cuda(monkeypatch):
    device = cuda_capture(monkeypatch, [H100], initialized=False)["device"]
    assert device == {
        "type": "cuda",
        "name": H100["name"],
        "uuid": H100["uuid"],
        "driver": "570.86.15",
        "memory_bytes": H100["total"],
        "sm_clock_mhz": 1980,
        "max_sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "power_limit_w": 700.0,
        "throttle_bits": 0x4,
    }


def test_one_missing_counter_costs_one_field(monkeypatch):
    fault = {"nvmlDeviceGetEnforcedPowerLimit": "NoPermission"}
    captured = cuda_capture(monkeypatch, [H100], False, **fault)
    assert captured["unknown"]["device.power_limit_w"] == "NVML: Insufficient Permissions"
    assert (captured["device"]["power_limit_w"], captured["device"]["throttle_bits"]) == (None, 4)


@pytest.mark.parametrize("change", [("device", "power_limit_w", 350.0), ("cgroup", "cpus", 1.5)])
def test_fingerprint_knows_limits_where_there_are_any(change):
    section, key, value = change
    limited = {**example(), section: {**example().get(section, {}), key: value}}
    assert fingerprint(limited) != fingerprint(example())
    assert fingerprint({**limited, section: {**limited[section], key: None}}) == fingerprint(
        example()
    )


def test_two_different_gpus_before_cuda_are_not_guessed(monkeypatch):
    captured = cuda_capture(monkeypatch, [H100, A100], initialized=False)
    assert (captured["device"]["name"], captured["device"]["uuid"]) == (None, None)
    assert captured["device"]["memory_bytes"] == H100["total"]  # the same in both
    assert "GPUs differ" in captured["unknown"]["device.uuid"]


def test_two_equal_gpus_before_cuda_have_a_name_but_no_uuid(monkeypatch):
    twin = {**H100, "uuid": "GPU-twin"}
    captured = cuda_capture(monkeypatch, [H100, twin], initialized=False)
    assert captured["device"]["name"] == H100["name"]
    assert captured["device"]["uuid"] is None


def test_with_cuda_up_torch_says_which_gpu(monkeypatch):
    device = cuda_capture(monkeypatch, [H100, A100], initialized=True)["device"]
    assert device["uuid"] == A100["uuid"]
    assert device["memory_bytes"] == 85 * 10**9


def test_a_missing_driver_is_a_reason(monkeypatch):
    captured = cuda_capture(monkeypatch, [H100], False, nvmlInit="LibraryNotFound")
    assert captured["device"]["name"] is None
    assert captured["unknown"]["device.name"] == "NVML: NVML Shared Library Not Found"


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *command], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return package


def test_git_state_of_a_checkout(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"revision": head, "dirty": False}
    (checkout.parent / "results.parquet").write_text("not code")
    assert git_state(checkout)["dirty"] is False
    (checkout / "code.py").write_text("2")
    assert git_state(checkout) == {"revision": head, "dirty": True}


def test_git_state_of_an_installed_copy_inside_a_foreign_checkout(checkout):
    installed = checkout.parent / "site-packages"
    installed.mkdir()
    (installed / "code.py").write_text("1")
    state = git_state(installed)
    assert isinstance(state["revision"], environment.Unknown)
    assert "did not match any file" in state["revision"]


def test_git_state_without_git(monkeypatch, checkout):
    monkeypatch.setenv("PATH", "")
    assert isinstance(git_state(checkout)["revision"], environment.Unknown)


QUIET = """
import os, sys
import retnet_bench.measure
assert "torch" not in sys.modules
import torch
from retnet_bench.measure.capabilities import capabilities
from retnet_bench.measure.environment import capture
threads = len(os.listdir("/proc/self/task"))
capture("cpu"), capabilities()
assert len(os.listdir("/proc/self/task")) == threads, "started threads"
assert not torch.cuda.is_initialized()
torch.set_num_interop_threads(1)  # raises once the pool exists
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_looking_around_leaves_the_process_fit_to_fork():
    environment_variables = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", QUIET], check=True, env=environment_variables)
