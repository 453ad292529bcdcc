"""What a training says while it runs: a short line every few seconds, and TensorBoard if asked."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retnet_bench.base import UserError
from retnet_bench.measure.clock import Clock

EVERY_S = 5.0
"""Seconds between two lines."""


class Live:
    """Says at most every EVERY_S seconds where a piece of work stands."""

    def __init__(self, clock: Clock, report: Callable[[str], None]) -> None:
        self.clock, self.report = clock, report
        self.start_s = self.said_s = clock.now()

    def due(self) -> bool:
        """Whether it is time for a line; if so, the next is due EVERY_S from now."""
        now = self.clock.now()
        if now - self.said_s < EVERY_S:
            return False
        self.said_s = now
        return True

    def training(self, done: int, first: int, steps: int, tokens: int, loss: float) -> None:
        """Step `done` of `steps`, of which `first` were done before this process; `tokens` each."""
        if not self.due():
            return
        seconds = self.said_s - self.start_s
        rate = (done - first) / seconds
        minutes, rest = divmod(round((steps - done) / rate), 60)
        self.report(
            f"step {done}/{steps}, loss {loss:.3f}, {rate * tokens:,.0f} tokens/s, "
            f"eta {minutes}:{rest:02d}"
        )

    def scoring(self, done: int, documents: int) -> None:
        if self.due():
            self.report(f"scored {done} of {documents} documents")


def require_tensorboard() -> None:
    """UserError where it is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError("tensorboard was asked for but is not installed; pip install tensorboard")


class Board:
    """TensorBoard's event files in `folder`; with None, nothing at all."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            require_tensorboard()
        self.folder = folder
        self.writer: Any = None

    def open(self, tokens: int) -> None:
        """Begin to write after `tokens`; what an earlier process wrote beyond is dropped."""
        if self.folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=tokens + 1)

    def write(self, tokens: int, **values: float) -> None:
        """Values by name, after `tokens` tokens."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, tokens)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
