"""What a tensor is computed on: the kind of device, what autocast makes of products there, and how
much of a tensor is worked on at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

CACHE_BYTES = 16 << 20
"""On a CPU: what is worked on at once stays in the cache that its cores share."""
MEMORY_BYTES = 256 << 20
"""Elsewhere, where one call costs more than it saves: only memory counts."""


@dataclass(frozen=True)
class Device:
    """What computes."""

    kind: str
    """As torch names its type."""
    low: torch.dtype | None
    """What autocast has products computed in; None where it is off."""

    def at_once(self, piece_bytes: int, pieces: int) -> int:
        """How many of so many pieces, of so many bytes each, to work on together: at least one."""
        budget = CACHE_BYTES if self.kind == "cpu" else MEMORY_BYTES
        return max(1, min(pieces, budget // max(1, piece_bytes)))

    def slices(self, piece_bytes: int, pieces: int) -> list[slice]:
        """All pieces, those together that are worked on at once."""
        n = self.at_once(piece_bytes, pieces)
        return [slice(first, min(first + n, pieces)) for first in range(0, pieces, n)]


CPU = Device("cpu", None)
_MODELLED: ContextVar[Device] = ContextVar("modelled", default=CPU)


@contextmanager
def modelled(device: Device) -> Iterator[None]:
    """Tensors without data (meta) stand for tensors of that device."""
    token = _MODELLED.set(device)
    try:
        yield
    finally:
        _MODELLED.reset(token)


def device_of(x: Tensor) -> Device:
    """What computes on `x` in a forward pass; in a backward pass autocast is off."""
    if x.is_meta:
        return _MODELLED.get()
    kind = x.device.type
    casts = x.dtype != torch.float64 and torch.is_autocast_enabled(kind)
    return Device(kind, torch.get_autocast_dtype(kind) if casts else None)
