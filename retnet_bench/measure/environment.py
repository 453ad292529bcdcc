"""What this machine is: a full dump for the records, a fingerprint for comparability.

Nothing here initialises CUDA or starts torch's threads, so a process may still fork afterwards.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import psutil
import torch

from retnet_bench.measure import cgroup, cores, nvml
from retnet_bench.measure.reading import Reading

ROOT = Path("/")
PACKAGE_FOLDER = Path(__file__).resolve().parent.parent
PACKAGES = (
    "retnet-bench",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "tokenizers",
    "nvidia-ml-py",
    "psutil",
    "triton",
    "flash-attn",
    "flash-attn-4",
    "fla-core",
    "lm-eval",
)
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "KMP_AFFINITY"),
    *("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
)
STABLE_FIELDS = (
    "cpu.model",
    "cpu.physical_cores",
    "cpu.logical_cores",
    "memory.total_bytes",
    "device.name",
    "torch.version",
    "threads.intra_op",
)
"""What must be equal for two records to be comparable; memory is rounded to whole GiB."""
STABLE_WHERE_KNOWN = ("cgroup.cpus", "device.power_limit_w", "world.ranks_by_machine")
"""The same for limits that few machines have, and for cells that several machines ran: left out
where unknown."""
GIT_TIMEOUT_S = 2.0
GPU_STATE = {
    "sm_clock_mhz": nvml.sm_clock_mhz,
    "max_sm_clock_mhz": nvml.max_sm_clock_mhz,
    "memory_clock_mhz": nvml.memory_clock_mhz,
    "power_limit_w": nvml.power_limit_w,
    "throttle_bits": nvml.throttle_bits,
}


class Unknown(str):
    """Stands for a value that could not be had; its text is the reason."""


def or_unknown(value: Any, reason: str) -> Any:
    """`value`, or Unknown where it is None."""
    return Unknown(reason) if value is None else value


def read_text(path: Path) -> str | Unknown:
    """The stripped text of a small system file."""
    try:
        return path.read_text().strip()
    except OSError as error:
        return Unknown(f"{path}: {error.strerror}")


def cuda_available() -> bool:
    """Whether torch can use a GPU, asked through NVML so that forking stays safe."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    return torch.cuda.is_available()


def cpuinfo(key: str, root: Path = ROOT) -> str | Unknown:
    """The first `key : value` line of /proc/cpuinfo."""
    text = read_text(root / "proc/cpuinfo")
    if isinstance(text, Unknown):
        return text
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else Unknown(f'/proc/cpuinfo has no "{key}"')


def frequency_mhz() -> float | Unknown:
    """Present clock rate of the first processor that reports one."""
    try:
        frequency = psutil.cpu_freq()
    except OSError as error:
        return Unknown(f"cpu frequency: {error.strerror}")
    return frequency.current if frequency else Unknown("the system reports no cpu frequency")


def _value(reading: Reading) -> Any:
    """A reading as a field: its value, or Unknown with the reason."""
    return or_unknown(reading.value, reading.reason or "")


def _cpu(root: Path) -> dict[str, Any]:
    governor = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    return {
        "model": cpuinfo("model name", root),
        "physical_cores": or_unknown(psutil.cpu_count(logical=False), "not reported"),
        "logical_cores": or_unknown(psutil.cpu_count(), "not reported"),
        "governor": read_text(governor),
        "frequency_mhz": frequency_mhz(),
        "affinity": _value(cores.allowed()),
    }


def _memory() -> dict[str, Any]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "swap_bytes": swap.total,
        "swap_used_bytes": swap.used,
    }


def _cgroup(root: Path) -> dict[str, Any]:
    return {
        "cpus": or_unknown(cgroup.cpu_limit(root), "no limit found"),
        "memory_bytes": or_unknown(cgroup.memory_limit_bytes(root), "no limit found"),
    }


def _blas() -> dict[str, Any]:
    """The libraries that torch and numpy multiply with, and torch's threads in them."""
    torch_info = torch.__config__.parallel_info()
    mkl = re.search(r"Math Kernel Library Version (\S+)", torch_info)
    onednn = re.search(r"MKL-DNN v(\S+)", torch_info)
    threads = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch_info)
    numpy_blas = numpy.__config__.show(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "mkl": mkl[1] if mkl else Unknown("torch is built without MKL"),
        "mkl_threads": int(threads[1]) if threads else Unknown("torch is built without MKL"),
        "onednn": onednn[1] if onednn else Unknown("torch is built without oneDNN"),
        "numpy": f"{numpy_blas['name']} {numpy_blas['version']}",
    }


def _torch() -> dict[str, Any]:
    build = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", build)
    return {
        "version": torch.__version__,
        "debug": bool(torch.version.debug),
        "git_revision": torch.version.git_version,
        "cuda": or_unknown(torch.version.cuda, "build without CUDA"),
        "blas": blas[1] if blas else Unknown("torch.__config__.show() names none"),
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available(),
        "openmp": torch.backends.openmp.is_available(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _threads() -> dict[str, Any]:
    variables = {name: or_unknown(os.environ.get(name), "not set") for name in THREAD_VARIABLES}
    return {
        "intra_op": torch.get_num_threads(),
        "inter_op": torch.get_num_interop_threads(),
        **variables,
    }


def package_version(package: str) -> str | Unknown:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Unknown("not installed")


def _git_output(folder: Path, *command: str) -> str | Unknown:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # never in the way of the user's git
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT_TIMEOUT_S,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unknown(f"git: {error}")
    if done.returncode:
        return Unknown(f"git: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def git_state(folder: Path) -> dict[str, Any]:
    """Revision of the checkout `folder` is part of, and whether `folder` differs from it.

    Results or notes that the user keeps elsewhere in the checkout do not make it dirty.
    """
    # An installed copy may lie inside somebody's checkout: it is part of it only if tracked.
    tracked = _git_output(folder, "ls-files", "--error-unmatch", ".")
    if isinstance(tracked, Unknown):
        return {"revision": tracked, "dirty": tracked}
    changes = _git_output(folder, "status", "--porcelain", ".")
    return {
        "revision": _git_output(folder, "rev-parse", "HEAD"),
        "dirty": changes if isinstance(changes, Unknown) else bool(changes),
    }


def _gpu_facts(pynvml: ModuleType) -> list[dict[str, Any]]:
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return [
        {
            "name": pynvml.nvmlDeviceGetName(handle),
            "uuid": pynvml.nvmlDeviceGetUUID(handle),
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        }
        for handle in handles
    ]


def _gpu_before_cuda(gpus: Reading[list[dict[str, Any]]]) -> dict[str, Any]:
    """What NVML tells while torch's numbering of the GPUs is still unknown."""
    keys = ("name", "uuid", "driver", "memory_bytes")
    if not gpus.value:
        return dict.fromkeys(keys, Unknown(gpus.reason or "NVML sees no GPU"))
    reason = "GPUs differ and CUDA is not initialised in this process"
    values = {key: {gpu[key] for gpu in gpus.value} for key in keys}
    return {key: v.pop() if len(v) == 1 else Unknown(reason) for key, v in values.items()}


def _gpu(device: torch.device) -> dict[str, Any]:
    gpus: Reading[list[dict[str, Any]]] = nvml.ask(_gpu_facts)
    if not torch.cuda.is_initialized():
        return _gpu_before_cuda(gpus)
    properties = torch.cuda.get_device_properties(device)
    driver = gpus.value[0]["driver"] if gpus.value else Unknown(gpus.reason or "no GPU in NVML")
    return {
        "name": properties.name,
        "uuid": nvml.torch_uuid(device),
        "driver": driver,
        "memory_bytes": properties.total_memory,
    }


def _gpu_state(uuid: str | Unknown) -> dict[str, Any]:
    """What may change on one GPU: each field that NVML does not tell has its own reason."""
    if isinstance(uuid, Unknown):
        return dict.fromkeys(GPU_STATE, uuid)
    return {name: _value(nvml.ask_gpu(uuid, ask)) for name, ask in GPU_STATE.items()}


def _device(device: torch.device, root: Path) -> dict[str, Any]:
    if device.type == "cpu":
        return {"type": "cpu", "name": cpuinfo("model name", root)}
    if device.type == "cuda":
        facts = _gpu(device)
        return {"type": "cuda", **facts, **_gpu_state(facts["uuid"])}
    return {"type": device.type, "name": Unknown(f"no source of names for {device.type}")}


def _settle(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Replace every Unknown by None and collect the reasons under "unknown"."""
    unknown = {
        f"{section}.{key}": str(value)
        for section, fields in sections.items()
        for key, value in fields.items()
        if isinstance(value, Unknown)
    }
    known = {
        section: {k: None if isinstance(v, Unknown) else v for k, v in fields.items()}
        for section, fields in sections.items()
    }
    return {**known, "unknown": unknown}


def capture(device: str, root: Path = ROOT) -> dict[str, Any]:
    """Everything known of this machine as nested plain JSON: section -> field -> value.

    An unknown field is None and its reason stands under `unknown["section.field"]`. Call it in
    the worker: thread counts are the calling process's, and on a machine with different GPUs
    the name and UUID of `device` are known only once CUDA is initialised.
    """
    load = dict(zip(("load_1min", "load_5min", "load_15min"), os.getloadavg()))
    return _settle(
        {
            "cpu": _cpu(root),
            "memory": _memory(),
            "cgroup": _cgroup(root),
            "os": {"platform": platform.platform(), "kernel": platform.release()},
            "python": {
                "version": platform.python_version(),
                "implementation": platform.python_implementation(),
            },
            "torch": _torch(),
            "threads": _threads(),
            "blas": _blas(),
            "device": _device(torch.device(device), root),
            "packages": {name: package_version(name) for name in PACKAGES},
            "git": git_state(PACKAGE_FOLDER),
            "load": load,
        }
    )


def _field(environment: dict[str, Any], field: str) -> Any:
    """A `section.field`; None where an older capture has none."""
    section, key = field.split(".")
    return environment.get(section, {}).get(key)


def fingerprint(environment: dict[str, Any]) -> str:
    """12 hex digits of the STABLE_FIELDS and STABLE_WHERE_KNOWN of `capture`'s answer."""
    stable = {field: _field(environment, field) for field in STABLE_FIELDS}
    limits = {field: _field(environment, field) for field in STABLE_WHERE_KNOWN}
    stable |= {field: value for field, value in limits.items() if value is not None}
    stable["memory.total_bytes"] = round(stable["memory.total_bytes"] / 2**30)
    return hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:12]


def machine_name(environment: dict[str, Any]) -> str:
    """Short name for captions: "AMD EPYC, 2 cores, cpu", or the name of the GPU."""
    device, cpu = environment["device"], environment["cpu"]
    if device["type"] != "cpu":
        return device["name"] or f"unnamed {device['type']} device"
    cores = cpu["physical_cores"] or cpu["logical_cores"]
    return f"{cpu['model'] or platform.machine()}, {cores} cores, cpu"
