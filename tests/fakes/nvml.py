"""A stand-in for the pynvml module: GPUs as dictionaries, faults by function name."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

H100 = {
    "uuid": "GPU-11111111-2222-3333-4444-555555555555",
    "name": "NVIDIA H100 80GB HBM3",
    "total": 80 << 30,
    "used": 5 << 30,
    "energy_mj": 123_000,
    "clocks": (1980, 1980, 2619, 1545),  # graphics, sm, memory, video
    "power_mw": 350_000,
    "power_limit_mw": 700_000,
    "temperature": 64,
    "throttle": 0x4,
    "processes": {},  # pid -> bytes, or None
    "utilisation": {},  # pid -> percent
}
A100 = {**H100, "uuid": "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "name": "NVIDIA A100-SXM4-80GB"}

MESSAGES = {
    "LibraryNotFound": "NVML Shared Library Not Found",
    "NotSupported": "Not Supported",
    "NoPermission": "Insufficient Permissions",
    "NotFound": "Not Found",
    "FunctionNotFound": "Function Not Found",
}


class NVMLError(Exception):
    """As pynvml's: the message is the driver's."""


class NotFound(NVMLError):
    """As pynvml.NVMLError_NotFound."""


class FunctionNotFound(NVMLError):
    """As pynvml.NVMLError_FunctionNotFound."""


ERRORS = {"NotFound": NotFound, "FunctionNotFound": FunctionNotFound}


class Memory:
    def __init__(self, gpu: dict) -> None:
        self.total, self.used = gpu["total"], gpu["used"]


class FakeNvml(ModuleType):
    """`faults`: function name -> key of MESSAGES. Functions fail outside init ... shutdown."""

    NVMLError = NVMLError
    NVMLError_NotFound = NotFound
    NVMLError_FunctionNotFound = FunctionNotFound
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, gpus: list[dict], faults: dict[str, str] | None = None) -> None:
        super().__init__("pynvml")
        self.gpus, self.faults = gpus, faults or {}
        self.sessions = 0

    def _enter(self, function: str) -> None:
        if function in self.faults:
            fault = self.faults[function]
            raise ERRORS.get(fault, NVMLError)(MESSAGES[fault])
        assert self.sessions >= 1 or function == "nvmlInit", f"{function} outside a session"

    def nvmlInit(self) -> None:
        self._enter("nvmlInit")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self._enter("nvmlShutdown")
        self.sessions -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._enter("nvmlSystemGetDriverVersion")
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:
        self._enter("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict:
        self._enter("nvmlDeviceGetHandleByIndex")
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> dict:
        self._enter("nvmlDeviceGetHandleByUUID")
        found = [gpu for gpu in self.gpus if gpu["uuid"] == uuid]
        if not found:
            raise NotFound(MESSAGES["NotFound"])
        return found[0]

    def nvmlDeviceGetName(self, gpu: dict) -> str:
        self._enter("nvmlDeviceGetName")
        return gpu["name"]

    def nvmlDeviceGetUUID(self, gpu: dict) -> str:
        self._enter("nvmlDeviceGetUUID")
        return gpu["uuid"]

    def nvmlDeviceGetMemoryInfo(self, gpu: dict) -> Memory:
        self._enter("nvmlDeviceGetMemoryInfo")
        return Memory(gpu)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: dict) -> int:
        self._enter("nvmlDeviceGetTotalEnergyConsumption")
        return gpu["energy_mj"]

    def nvmlDeviceGetClockInfo(self, gpu: dict, kind: int) -> int:
        self._enter("nvmlDeviceGetClockInfo")
        return gpu["clocks"][kind]

    def nvmlDeviceGetMaxClockInfo(self, gpu: dict, kind: int) -> int:
        self._enter("nvmlDeviceGetMaxClockInfo")
        return gpu["clocks"][kind]

    def nvmlDeviceGetPowerUsage(self, gpu: dict) -> int:
        self._enter("nvmlDeviceGetPowerUsage")
        return gpu["power_mw"]

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: dict) -> int:
        self._enter("nvmlDeviceGetEnforcedPowerLimit")
        return gpu["power_limit_mw"]

    def nvmlDeviceGetTemperature(self, gpu: dict, sensor: int) -> int:
        self._enter("nvmlDeviceGetTemperature")
        return gpu["temperature"]

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: dict) -> int:
        self._enter("nvmlDeviceGetCurrentClocksEventReasons")
        return gpu["throttle"]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: dict) -> int:
        self._enter("nvmlDeviceGetCurrentClocksThrottleReasons")
        return gpu["throttle"]

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: dict) -> list[SimpleNamespace]:
        self._enter("nvmlDeviceGetComputeRunningProcesses")
        sizes = gpu["processes"].items()
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in sizes]

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: dict) -> list[SimpleNamespace]:
        self._enter("nvmlDeviceGetGraphicsRunningProcesses")
        return []

    def nvmlDeviceGetProcessUtilization(self, gpu: dict, since_us: int) -> list[SimpleNamespace]:
        self._enter("nvmlDeviceGetProcessUtilization")
        if not gpu["utilisation"]:
            raise NotFound(MESSAGES["NotFound"])
        shares = gpu["utilisation"].items()
        return [SimpleNamespace(pid=pid, smUtil=share) for pid, share in shares]
