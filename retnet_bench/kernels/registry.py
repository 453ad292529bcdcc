"""What a kernel is: what it computes, what it needs, and why it is not available here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch

from retnet_bench.base import Registry

LOW = ("fp16", "bf16")
ALL = ("fp64", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Elsewhere:
    """Another machine than this one: what this one lacks does not count there, and that packages
    are installed is taken for granted."""

    capability: tuple[int, int] | None = None
    """Of its NVIDIA GPU."""


@dataclass(frozen=True)
class Setting:
    """Where a kernel is asked to run. Unknown fields are None and are not checked."""

    device: str = "cpu"
    dtype: str | None = None
    key_dim: int | None = None
    value_dim: int | None = None
    mode: str | None = None
    window: int | None = None
    """Keys that a query sees, where that is not all of them."""
    elsewhere: Elsewhere | None = None
    """None: this machine."""

    @property
    def capability(self) -> tuple[int, int] | None:
        """Of the device, where it is an NVIDIA GPU and that can be told."""
        return capability(self.device) if self.elsewhere is None else self.elsewhere.capability


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
    key_dim_multiple: int = 1
    """Key dimensions of a head that it takes are multiples of this."""
    windows: bool = True
    """Whether a query may see a window of keys only."""
    capability: tuple[int, int] | None = None
    """Least compute capability of an NVIDIA GPU, where it can be told (`capability`)."""
    checked_alone: bool = False
    """Its forms are held against the reference where it is a cell's own kernel, and elsewhere it is
    left alone: for one that may refuse what its family takes, so that it fails no other."""
    rank: int = field(default=0)
    """Preference on each device: the highest available one is the default."""

    def why_not(self, setting: Setting) -> str | None:
        """One line that says why it can't run there, or None when it can."""
        return next(self._reasons(setting), None)

    def _reasons(self, setting: Setting) -> Iterator[str]:
        kind = setting.device.split(":")[0]
        dtypes = (self.cuda_dtypes or self.dtypes) if kind == "cuda" else self.dtypes
        if self.devices and kind not in self.devices:
            yield f"needs {' or '.join(_NEEDED.get(self.devices, self.devices))}"
        if setting.elsewhere is None:
            yield from self._lacking(kind)
        if setting.dtype and setting.dtype not in dtypes:
            yield f"takes {', '.join(dtypes)}, not {setting.dtype}"
        if setting.mode and setting.mode not in self.modes:
            yield f"runs in mode {', '.join(self.modes)}, not {setting.mode}"
        if self.max_key_dim and (setting.key_dim or 0) > self.max_key_dim:
            yield f"key head dimension {setting.key_dim} is above {self.max_key_dim}"
        if (setting.key_dim or 0) % self.key_dim_multiple:
            yield (
                f"key head dimension {setting.key_dim} is no multiple of {self.key_dim_multiple}"
            )
        if setting.window and not self.windows:
            yield "takes no window"
        found = setting.capability if self.capability and kind == "cuda" else None
        if self.capability and found is not None and found < self.capability:
            yield f"needs compute capability {_dotted(self.capability)}, not {_dotted(found)}"

    def _lacking(self, kind: str) -> Iterator[str]:
        """What this machine lacks."""
        if kind == "cuda" and not torch.cuda.is_available():
            yield "no CUDA device on this machine"
        if self.package and not is_importable(self.package):
            yield f"package {self.distribution} is not installed"

    def label(self) -> str:
        """Name with the version of the package it comes from."""
        if self.distribution is None:
            return self.name
        return f"{self.name} ({self.distribution} {importlib.metadata.version(self.distribution)})"


_NEEDED: dict[tuple[str, ...], tuple[str, ...]] = {("cuda",): ("a CUDA device",)}
"""Devices in words, where their names alone would not say enough."""


def is_importable(package: str) -> bool:
    """Whether there is such a module. A folder without code is none: flash-attn-4 has one called
    as flash-attn 2's module is."""
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:  # nor is there the package that it would be in
        return False
    return spec is not None and spec.origin is not None


def capability(device: torch.device | str) -> tuple[int, int] | None:
    """Compute capability of an NVIDIA GPU; None in a process that has not initialised CUDA, which
    asking would do: a runner must not hold memory of the GPU that its workers measure."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_initialized() else None


def _dotted(found: tuple[int, int]) -> str:
    return ".".join(map(str, found))


KERNELS: Registry[Kernel] = Registry("kernel")


def best(mixer: str, setting: Setting) -> Kernel:
    """What `kernel: auto` means: the preferred kernel that can run there, or, where none can, the
    preferred one that needs no package, so that a plan for another machine can still be made."""
    ours = [kernel for _, kernel in KERNELS.items() if kernel.mixer == mixer]
    able = [kernel for kernel in ours if kernel.why_not(setting) is None]
    plain = [kernel for kernel in ours if kernel.package is None]
    return max(able or plain, key=lambda kernel: kernel.rank)
