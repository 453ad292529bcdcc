"""Questions to the NVIDIA driver through nvidia-ml-py. Asking does not initialise CUDA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import torch

from retnet_bench.measure.reading import Reading

T = TypeVar("T")


def ask(question: Callable[[ModuleType], T]) -> Reading[T]:
    """`question(pynvml)` between init and shutdown; NVML's errors become the reason.

    So a missing driver, a counter the card lacks and a refused permission each say so.
    """
    try:
        import pynvml
    except ImportError:
        return Reading.missing("nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
        try:
            return Reading(question(pynvml))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Reading.missing(f"NVML: {error}")


def ask_gpu(uuid: str, question: Callable[[ModuleType, Any], T]) -> Reading[T]:
    """`question(pynvml, handle)` about the GPU with this UUID, whatever its index."""
    return ask(lambda nvml: question(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)))


@functools.cache
def keep_open() -> str | None:
    """Leave the driver's library initialised in this process; returns why it cannot, or None.

    It counts its users, so that the `ask`s that follow cost microseconds. For the runner: a
    process that forks afterwards must not have called it.
    """
    opened: Reading[bool] = ask(lambda nvml: nvml.nvmlInit() or True)
    return opened.reason


def torch_uuid(device: torch.device) -> str:
    """The UUID by which NVML knows torch's `device`; their indices may differ. Starts CUDA."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def used_bytes(device: torch.device) -> Reading[int]:
    """Memory in use on the whole GPU, other processes and the CUDA context included."""
    uuid = torch_uuid(device)
    return ask(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid)).used)


def sm_clock_mhz(nvml: ModuleType, gpu: Any) -> int:
    return nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)


def memory_clock_mhz(nvml: ModuleType, gpu: Any) -> int:
    return nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)


def max_sm_clock_mhz(nvml: ModuleType, gpu: Any) -> int:
    return nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)


def power_w(nvml: ModuleType, gpu: Any) -> float:
    return nvml.nvmlDeviceGetPowerUsage(gpu) / 1000


def power_limit_w(nvml: ModuleType, gpu: Any) -> float:
    """The limit in force, which may be lower than the one set."""
    return nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000


def temperature_c(nvml: ModuleType, gpu: Any) -> int:
    return nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)


def energy_j(nvml: ModuleType, gpu: Any) -> float:
    """Joules since the driver was loaded (Volta and later); moves every 20 to 100 ms."""
    return nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000


def throttle_bits(nvml: ModuleType, gpu: Any) -> int:
    """Why the clocks are not at their highest, as the mask of nvmlClocksEventReasons."""
    try:
        return nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
    except nvml.NVMLError_FunctionNotFound:  # before driver 535
        return nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)


def processes(nvml: ModuleType, gpu: Any) -> dict[int, int | None]:
    """Bytes of each process on the GPU, by process id; None where the driver does not say."""
    found = [
        *nvml.nvmlDeviceGetComputeRunningProcesses(gpu),
        *nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu),
    ]
    return {process.pid: process.usedGpuMemory for process in found}


def utilisation(nvml: ModuleType, gpu: Any, since_us: int) -> dict[int, int]:
    """Highest share of the GPU in percent of each process since `since_us` (Unix time), by id."""
    try:
        samples = nvml.nvmlDeviceGetProcessUtilization(gpu, since_us)
    except nvml.NVMLError_NotFound:  # nobody used it since
        return {}
    highest: dict[int, int] = {}
    for sample in samples:
        highest[sample.pid] = max(sample.smUtil, highest.get(sample.pid, 0))
    return highest
