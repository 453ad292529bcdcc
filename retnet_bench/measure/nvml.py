"""Questions to the NVIDIA driver through nvidia-ml-py. Asking does not initialise CUDA."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

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


def torch_uuid(device: torch.device) -> str:
    """The UUID by which NVML knows torch's `device`; their indices may differ. Starts CUDA."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def used_bytes(device: torch.device) -> Reading[int]:
    """Memory in use on the whole GPU, other processes and the CUDA context included."""
    uuid = torch_uuid(device)
    return ask(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid)).used)
