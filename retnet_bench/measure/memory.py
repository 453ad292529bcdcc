"""Memory of one phase: the process's peak, the tensors' exact peak, the GPU's counters."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch.autograd import DeviceType

from retnet_bench.measure import cgroup, nvml
from retnet_bench.measure.clock import WallClock, time_call
from retnet_bench.measure.reading import Reading

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
COUNTED_RUN = "retnet_bench.counted_run"
# <malloc.h> of glibc, and its defaults
_M_TRIM_THRESHOLD, _TRIM_DEFAULT, _NEVER = -1, 128 * 1024, -1
_M_MMAP_MAX, _MAPS_DEFAULT = -4, 65536
CUDA_KEYS = ("cuda_peak_allocated_bytes", "cuda_peak_reserved_bytes", "nvml_used_bytes")


def _status_bytes(key: str) -> int:
    """A `key:  1234 kB` line of /proc/self/status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def reset_peak_rss() -> str | None:
    """Set the kernel's high-water mark to the present size; returns why it cannot, or None."""
    if sys.platform != "linux":
        return f"no resettable peak on {sys.platform}"
    try:
        CLEAR_REFS.write_text("5")
    except OSError as error:
        return f"{CLEAR_REFS}: {error.strerror}"
    return None


def keep_freed_memory(keep: bool) -> bool:
    """Let the C heap keep what is freed for the next allocation (True), or give large pieces back
    to the kernel, as glibc does by default (False). Returns whether this heap can be told.

    By default a freed tensor of 32 MiB or more goes back at once, smaller ones as the heap's end
    falls free, and each step faults its pages in anew: up to a third of a training step, more for
    the arm with the wider tensors. GPU allocators and other C libraries keep what is freed anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if mallopt is None:
        return False
    trim, most_maps = (_NEVER, 0) if keep else (_TRIM_DEFAULT, _MAPS_DEFAULT)
    return bool(mallopt(_M_TRIM_THRESHOLD, trim) and mallopt(_M_MMAP_MAX, most_maps))


def release_freed_memory() -> None:
    """Give the C heap's freed pages back, so that an earlier phase's are not counted again."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def peak_rss_bytes(fn: Callable[[], object]) -> Reading[int]:
    """Largest resident size of this process while `fn` runs.

    The interpreter, its libraries and everything alive before count too.
    """
    release_freed_memory()
    reason = reset_peak_rss()
    fn()
    return Reading(_status_bytes("VmHWM")) if reason is None else Reading.missing(reason)


def peak_tensor_bytes(fn: Callable[[], object]) -> int:
    """Exact bytes on torch's CPU allocator at the peak of `fn`, above those alive before it.

    `fn` must leave as much alive as it found, as a training or decoding step does once warm.
    It runs twice, slowly, and the second time counts: the profiler does not see the end of a
    tensor that is older than the profile, so what `fn` replaces must be born inside it.
    """
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        fn()
        with torch.autograd.profiler.record_function(COUNTED_RUN):
            fn()
    assert profile.kineto_results is not None
    events = sorted(profile.kineto_results.events(), key=lambda e: e.start_ns())
    start_ns = next(e.start_ns() for e in events if e.name() == COUNTED_RUN)
    live = peak = 0
    for event in events:
        on_cpu = event.name() == "[memory]" and event.device_type() == DeviceType.CPU
        if on_cpu and event.start_ns() >= start_ns:
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def _reset_cuda_peaks(device: torch.device) -> None:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # else blocks that an earlier phase reserved would count here
    torch.cuda.reset_peak_memory_stats(device)


def _cuda_readings(device: torch.device) -> dict[str, Reading[int]]:
    """GPU counters, to be read while the phase's memory is still reserved."""
    if device.type != "cuda":
        # On a build without CUDA the counters return 0 and no error.
        return {key: Reading.missing(f"device is {device.type}") for key in CUDA_KEYS}
    values = (
        Reading(torch.cuda.max_memory_allocated(device)),
        Reading(torch.cuda.max_memory_reserved(device)),
        nvml.used_bytes(device),
    )
    return dict(zip(CUDA_KEYS, values))


def _tensor_reading(device: torch.device, fn: Callable[[], object], resident: int) -> Reading[int]:
    if device.type != "cpu":
        return Reading.missing(f"counted on cpu only, device is {device.type}")
    return Reading(resident + peak_tensor_bytes(fn))


def measure_phase(
    device: torch.device | str, fn: Callable[[], object], *, resident_bytes: int
) -> dict[str, Reading[int]]:
    """Peak memory of one phase, each way that `device` offers; the others say why not.

    Runs `fn` once with all peaks reset just before, and on the CPU twice more under the
    profiler; so `fn` must be repeatable, see `peak_tensor_bytes`. `resident_bytes`: tensors
    alive before and after (weights, gradients, optimizer, state), which `peak_tensor_bytes`
    includes. `nvml_used_bytes` is read after `fn`, for the whole GPU.
    """
    device = torch.device(device)
    clock = WallClock(device)
    if device.type == "cuda":
        _reset_cuda_peaks(device)
    return {
        "peak_rss_bytes": peak_rss_bytes(lambda: time_call(clock, fn)),
        **_cuda_readings(device),
        "peak_tensor_bytes": _tensor_reading(device, fn, resident_bytes),
    }


def available_bytes() -> int:
    """Bytes this process may still take: free memory, or what its control groups leave of it."""
    free = psutil.virtual_memory().available
    headroom = cgroup.memory_headroom_bytes()
    return free if headroom is None else min(free, headroom)


def limit_memory(extra_bytes: int) -> Reading[int]:
    """Let this process map `extra_bytes` more of private memory than now, and no more.

    A larger CPU allocation then raises RuntimeError or MemoryError, where the kernel would
    kill the process. For CPU workers only: GPU drivers map far more than they use. The reading
    is the new RLIMIT_DATA (soft).
    """
    if sys.platform != "linux":
        return Reading.missing(f"RLIMIT_DATA does not bound allocations on {sys.platform}")
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _status_bytes("VmData") + extra_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return Reading(limit)
