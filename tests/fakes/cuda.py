"""A stand-in for the torch.cuda functions that measuring uses; shows the order of the calls.

Not to be combined with FakeTensorMode, which asks torch.cuda.is_available() itself.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


class FakeCuda:
    """One GPU with an allocator that peaks at what `allocate` says."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, uuid: str, initialized: bool = True
    ) -> None:
        self.log: list[str] = []
        self.uuid = uuid
        self._peak_bytes = 7 << 30  # what an earlier phase left behind
        self._queued_bytes = 0
        surface = {
            "is_available": lambda: True,
            "is_initialized": lambda: initialized,
            "device_count": lambda: 1,
            "synchronize": self._synchronize,
            "empty_cache": lambda: self.log.append("empty_cache"),
            "reset_peak_memory_stats": self._reset,
            "max_memory_allocated": self._allocated,
            "max_memory_reserved": lambda device: 2 * self._allocated(device),
            "get_device_properties": self._properties,
        }
        for name, function in surface.items():
            monkeypatch.setattr(torch.cuda, name, function)

    def allocate(self, size_bytes: int) -> None:
        """What a queued kernel will have allocated once it ran."""
        self._queued_bytes = size_bytes
        self.log.append("allocate")

    def _synchronize(self, device: torch.device) -> None:
        assert device.type == "cuda"
        self._peak_bytes = max(self._peak_bytes, self._queued_bytes)
        self._queued_bytes = 0
        self.log.append("sync")

    def _reset(self, device: torch.device) -> None:
        self._peak_bytes = 0
        self.log.append("reset")

    def _allocated(self, device: torch.device) -> int:
        assert self.log[-1] == "sync", "counter read before synchronize"
        return self._peak_bytes

    def _properties(self, device: torch.device) -> SimpleNamespace:
        uuid = self.uuid.removeprefix("GPU-")  # as torch gives it
        return SimpleNamespace(name="NVIDIA H100 80GB HBM3", uuid=uuid, total_memory=85 * 10**9)
