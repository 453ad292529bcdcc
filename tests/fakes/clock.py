"""A clock whose time passes only as the test says, for a device that works asynchronously."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class FakeClock:
    """Work is queued as on a GPU: its time passes when somebody waits for it.

    Reading the time while work is queued is the bug this clock is there to find.
    """

    def __init__(self) -> None:
        self._now_s = 100.0
        self._queued_s: float | None = None
        self.log: list[str] = []

    def work(self, seconds: float) -> None:
        """Queue `seconds` of device work."""
        self._queued_s = (self._queued_s or 0.0) + seconds
        self.log.append("work")

    def idle(self, seconds: float) -> None:
        """Let time pass on the host."""
        self._now_s += seconds

    def sync(self) -> None:
        self._now_s += self._queued_s or 0.0
        self._queued_s = None
        self.log.append("sync")

    def now(self) -> float:
        assert self._queued_s is None, "time read before sync: the work is still running"
        self.log.append("now")
        return self._now_s

    def steps(self, durations_s: Iterable[float]) -> Callable[[], None]:
        """A step that takes the given seconds, call by call; the last duration repeats."""
        remaining = iter(durations_s)
        last = 0.0

        def step() -> None:
            nonlocal last
            last = next(remaining, last)
            self.work(last)

        return step
