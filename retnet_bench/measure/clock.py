"""Time as the measuring code sees it: injected, so that tests can set it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch


class Clock(Protocol):
    """A monotonic clock that can wait for the device it times."""

    def now(self) -> float:
        """Seconds since an arbitrary fixed moment; never runs backwards."""
        ...

    def sync(self) -> None:
        """Return only when all work queued on the device has finished."""
        ...


class WallClock:
    """The real clock of one device. Work on the CPU is finished when its call returns."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def now(self) -> float:
        return time.perf_counter()

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def time_call(clock: Clock, fn: Callable[[], object]) -> float:
    """Seconds that `fn` takes, from an idle device to an idle device."""
    clock.sync()
    start_s = clock.now()
    fn()
    clock.sync()
    return clock.now() - start_s
