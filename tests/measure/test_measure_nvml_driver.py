"""The real nvidia-ml-py, through ctypes, on a driver library compiled here."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest
import torch
from fakes.cuda import FakeCuda

from retnet_bench.measure import environment, nvml
from retnet_bench.measure.capabilities import capabilities
from retnet_bench.measure.reading import Series
from retnet_bench.measure.telemetry import Telemetry

SOURCE = Path(__file__).parents[1] / "fakes" / "nvml_driver.c"
COMPILER = shutil.which("gcc") or shutil.which("cc")
UUIDS = [f"GPU-00000000-0000-0000-0000-{i:012d}" for i in range(2)]
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler for the driver's stand-in")


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Callable[..., ctypes.CDLL]:
    def compiled(*flags: str) -> ctypes.CDLL:
        library = tmp_path_factory.mktemp("driver") / "libnvidia-ml.so.1"
        command = [COMPILER, "-shared", "-fPIC", *flags, "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))

    return compiled


@pytest.fixture(scope="module")
def library(build) -> ctypes.CDLL:
    return build()


@pytest.fixture
def install(monkeypatch) -> Iterator[Callable[[ctypes.CDLL | None], None]]:
    """Put a library in the place of the machine's own, for this test."""
    cache: dict = {}
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", cache)
    nvml.keep_open.cache_clear()
    yield lambda driver: monkeypatch.setattr(pynvml, "nvmlLib", driver)
    nvml.keep_open.cache_clear()


@pytest.fixture
def driver(install, library, monkeypatch) -> None:
    install(library)
    monkeypatch.setenv("STUB_NOW", "0")


def measured(
    monkeypatch, uuid: str | None = UUIDS[0], window_s: float = 4.0, pid: int = 100, gpus: int = 1
):
    """Telemetry of one block of `window_s` on a clock that stands still but for this."""
    now = [100.0]
    told = {"now": lambda: now[0], "sample_s": 0.001, "gpus": gpus}
    telemetry = Telemetry("cuda", uuid, pids=[pid], **told)
    with telemetry:
        deadline = time.monotonic() + 10
        while telemetry._thread and len(telemetry._processes) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        now[0] += window_s
        monkeypatch.setenv("STUB_NOW", str(window_s))
    return telemetry


def by_metric(telemetry: Telemetry) -> dict[str, Series]:
    found = telemetry.readings()
    assert len({s.metric for s in found}) == len(found)
    assert all(bool(s.values) != bool(s.reason) for s in found)
    return {s.metric: s for s in found}


def test_every_gauge_of_a_block(driver, monkeypatch):
    found = by_metric(measured(monkeypatch))
    values = {metric: set(series.values) for metric, series in found.items() if series.values}
    assert values == {
        "gpu_sm_clock_mhz": {1755.0},
        "gpu_memory_clock_mhz": {2619.0},
        "gpu_power_w": {100.0},
        "gpu_temperature_c": {60.0},
        "gpu_throttle_bits": {4.0},
        "gpu_foreign_bytes": {0.0},
        "gpu_energy_j": {400.0},
        "energy_window_s": {4.0},
    }


def test_energy_of_one_gpu_is_not_that_of_several(driver, monkeypatch):
    found = by_metric(measured(monkeypatch, gpus=2))
    assert found["gpu_energy_j"].reason == "2 GPUs worked on it, of which one is watched"
    assert found["gpu_power_w"].values


def test_a_gpu_is_found_by_uuid_though_torch_numbers_them_the_other_way_round(driver, monkeypatch):
    """Pain 14: torch's cuda:0 is NVML's second GPU."""
    FakeCuda(monkeypatch, UUIDS[1])
    device = torch.device("cuda", 0)
    assert nvml.torch_uuid(device) == UUIDS[1]
    assert nvml.used_bytes(device).value == 2 << 30
    found = by_metric(measured(monkeypatch, nvml.torch_uuid(device)))
    assert set(found["gpu_power_w"].values) == {200.0}
    assert found["gpu_energy_j"].values == (800.0,)
    captured = environment.capture("cuda")
    assert captured["device"]["uuid"] == UUIDS[1]
    assert captured["device"]["power_limit_w"] == 700.0


def test_a_uuid_that_is_not_there_is_a_reason_for_each_metric(driver, monkeypatch):
    found = by_metric(measured(monkeypatch, "GPU-other"))
    assert found["gpu_power_w"].reason == "NVML: Not Found"
    assert found["gpu_energy_j"].reason == "NVML: Not Found"
    unknown = by_metric(measured(monkeypatch, None))
    assert unknown["gpu_power_w"].reason == "the UUID of torch's device is unknown"


def test_energy_of_a_short_window_is_null_with_a_reason(driver, monkeypatch):
    """Pain 20: counters that move every 0.1 s read 0 J, or anything, in a short window."""
    found = by_metric(measured(monkeypatch, window_s=1.9))
    assert found["gpu_energy_j"].values == ()
    assert found["gpu_energy_j"].reason == "window under 2 s: the counters are too coarse"
    assert "energy_window_s" not in found


@pytest.mark.parametrize(("code", "words"), [(3, "Not Supported"), (4, "Insufficient Permissions")])
def test_without_the_energy_counter_power_is_integrated_and_says_so(
    driver, monkeypatch, code, words
):
    monkeypatch.setenv("STUB_FAIL", f"nvmlDeviceGetTotalEnergyConsumption={code}")
    found = by_metric(measured(monkeypatch))
    assert found["gpu_energy_j"] == Series("gpu_energy_j", "j", (), f"NVML: {words}")
    assert found["gpu_integrated_energy_j"].values == pytest.approx((400.0,))


def test_one_refused_counter_leaves_the_others(driver, monkeypatch):
    """Missing counter and missing permission (NVML_ERROR_NO_PERMISSION)."""
    monkeypatch.setenv("STUB_FAIL", "nvmlDeviceGetTemperature=4")
    found = by_metric(measured(monkeypatch))
    assert found["gpu_temperature_c"].reason == "NVML: Insufficient Permissions"
    assert set(found["gpu_power_w"].values) == {100.0}


def test_without_a_driver_no_thread_is_started(install, monkeypatch):
    def nowhere(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    install(None)
    monkeypatch.setattr(pynvml, "CDLL", nowhere)
    telemetry = measured(monkeypatch)
    assert telemetry._thread is None
    found = by_metric(telemetry)
    gpu = {metric: s.reason for metric, s in found.items() if metric.startswith("gpu_")}
    assert set(gpu.values()) == {"NVML: NVML Shared Library Not Found"}
    assert telemetry.judge() is None


def test_a_driver_that_is_not_loaded(driver, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "nvmlInitWithFlags=9")
    assert by_metric(measured(monkeypatch))["gpu_power_w"].reason == "NVML: Driver Not Loaded"
    assert {c.what: c.how_or_why for c in capabilities("cpu")}["nvml"] == "NVML: Driver Not Loaded"


@pytest.mark.parametrize(
    ("bits", "reason"),
    [
        (0x1 | 0x2 | 0x4, None),
        (0x8 | 0x40, "GPU throttled: hardware slowdown, too hot (hardware) (bits 0x48)"),
        (0x20, "GPU throttled: too hot (software) (bits 0x20)"),
        (0x80, "GPU throttled: power brake (bits 0x80)"),
    ],
)
def test_a_throttled_block_is_flagged_and_its_bits_kept(driver, monkeypatch, bits, reason):
    """Pain 15: flagged, never dropped; the power cap is recorded only, else every block had it."""
    monkeypatch.setenv("STUB_THROTTLE", str(bits))
    telemetry = measured(monkeypatch)
    assert telemetry.judge() == reason
    assert set(by_metric(telemetry)["gpu_throttle_bits"].values) == {float(bits)}


def test_an_old_driver_tells_throttling_by_its_old_name(install, build, monkeypatch):
    install(build("-DOLD_DRIVER"))
    assert set(by_metric(measured(monkeypatch))["gpu_throttle_bits"].values) == {4.0}


def test_others_on_the_gpu(driver, monkeypatch):
    monkeypatch.setenv("STUB_OTHERS_GIB", "2")
    monkeypatch.setenv("STUB_OTHERS_PERCENT", "35")
    telemetry = measured(monkeypatch)
    assert set(by_metric(telemetry)["gpu_foreign_bytes"].values) == {float(2 << 30)}
    assert telemetry.judge() == (
        "others held 2.15 GB of the GPU (limit 1.07); others used 35 % of the GPU (limit 5 %)"
    )


def test_the_desktop_of_an_idle_workstation_is_no_load(driver, monkeypatch):
    monkeypatch.setenv("STUB_OTHERS_GIB", "0.5")
    monkeypatch.setenv("STUB_OTHERS_PERCENT", "3")
    assert measured(monkeypatch).judge() is None


def test_a_container_that_hides_process_ids_is_unknown_not_zero(driver, monkeypatch):
    """Pain 14 (containers hide PIDs): ours are not in the list, so the list says nothing."""
    monkeypatch.setenv("STUB_OTHERS_GIB", "2")
    telemetry = measured(monkeypatch, pid=7)
    series = by_metric(telemetry)["gpu_foreign_bytes"]
    assert (series.values, telemetry.judge()) == ((), None)
    assert "process id namespace" in series.reason


def test_capabilities_name_every_counter_and_each_refusal(driver, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "nvmlDeviceGetClockInfo=4")
    found = {c.what: c for c in capabilities("cpu")}
    assert found["gpu energy"].available
    assert found["gpu throttling"].available
    assert found["gpu clocks"].how_or_why == "NVML: Insufficient Permissions"
