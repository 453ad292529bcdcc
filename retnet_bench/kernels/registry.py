"""What a kernel is: what it computes, what it needs, and why it is not available here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch

from retnet_bench.base import Registry

LOW = ("fp16", "bf16")
ALL = ("fp64", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Setting:
    """Where a kernel is asked to run. Unknown fields are None and are not checked."""

    device: str = "cpu"
    dtype: str | None = None
    key_dim: int | None = None
    value_dim: int | None = None
    mode: str | None = None


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A way to compute one mixer's token mixing, with the limits of where it runs."""

    name: str
    mixer: str
    """The family of mixers it serves: what their `kernels` names."""
    run: Callable
    """Whole sequence."""
    step: Callable
    """One token against the state."""
    meaning: str
    form: str
    """What its cost follows, in the mixer's own words: parallel, chunkwise or recurrent for
    retention; quadratic or flash for attention."""
    package: str | None = None
    """Module that must be importable."""
    distribution: str | None = None
    devices: tuple[str, ...] = ()
    """Device types it runs on; empty for all."""
    dtypes: tuple[str, ...] = ALL
    cuda_dtypes: tuple[str, ...] | None = None
    """Where fewer dtypes run on CUDA than elsewhere."""
    modes: tuple[str, ...] = ("eager", "compile", "cudagraph")
    max_key_dim: int | None = None
    rank: int = field(default=0)
    """Preference on each device: the highest available one is the default."""

    def why_not(self, setting: Setting) -> str | None:
        """One line that says why it can't run there, or None when it can."""
        kind = setting.device.split(":")[0]
        dtypes = (self.cuda_dtypes or self.dtypes) if kind == "cuda" else self.dtypes
        checks = (
            (self.devices and kind not in self.devices, f"needs {' or '.join(self.devices)}"),
            (kind == "cuda" and not torch.cuda.is_available(), "no CUDA device on this machine"),
            (
                self.package and find_spec(self.package) is None,
                f"package {self.distribution} is not installed",
            ),
            (
                setting.dtype and setting.dtype not in dtypes,
                f"takes {', '.join(dtypes)}, not {setting.dtype}",
            ),
            (
                setting.mode and setting.mode not in self.modes,
                f"runs in mode {', '.join(self.modes)}, not {setting.mode}",
            ),
            (
                self.max_key_dim and (setting.key_dim or 0) > self.max_key_dim,
                f"key head dimension {setting.key_dim} is above {self.max_key_dim}",
            ),
        )
        return next((reason for failed, reason in checks if failed), None)

    def label(self) -> str:
        """Name with the version of the package it comes from."""
        if self.distribution is None:
            return self.name
        return f"{self.name} ({self.distribution} {importlib.metadata.version(self.distribution)})"


KERNELS: Registry[Kernel] = Registry("kernel")


def best(mixer: str, setting: Setting) -> Kernel:
    """What `kernel: auto` means: the preferred kernel that can run there, or, where none can, the
    preferred one that needs no package, so that a plan for another machine can still be made."""
    ours = [kernel for _, kernel in KERNELS.items() if kernel.mixer == mixer]
    able = [kernel for kernel in ours if kernel.why_not(setting) is None]
    plain = [kernel for kernel in ours if kernel.package is None]
    return max(able or plain, key=lambda kernel: kernel.rank)
