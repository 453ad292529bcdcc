"""Ctrl-C, SIGTERM and SIGHUP: one way out, on which everything is cleared up."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
GRACE_S = 5.0
"""For so long after a signal further ones are left unheard, so that clearing up is not cut off: a
closed terminal and a service manager both send two."""

_RESUMES = "finished cells are kept, the same command resumes"
LEAVES = {
    "run": _RESUMES,
    "selftest": _RESUMES,
    "reproduce": _RESUMES,
    "check": "no verdict; the same command measures anew",
    "eval": "scores of finished tasks are kept; the same command scores every task again",
    "bundle": "no archive was written",
    "verify": "no verdict; of a second run, finished cells are kept and the same command resumes",
    "plot": "figures drawn so far are kept",
    "history": "figures drawn so far are kept",
    "data": "texts that were whole are kept, the same command gets the others",
}
"""What an interrupted verb leaves; any other leaves everything as it was."""


def words(arguments: Sequence[str]) -> str:
    """The line that a user who interrupted the command with these arguments sees."""
    verb = next((word for word in arguments if not word.startswith("-")), "")
    return f"interrupted: {LEAVES.get(verb, 'nothing was changed')}"


class Interrupted(BaseException):
    """A signal asked this process to end. Not an Exception: nothing on the way handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def handle() -> None:
    """Raise Interrupted in the main thread on each of SIGNALS, except for those that whoever
    started this process had it ignore (nohup)."""
    once = _Once()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, once)


class _Once:
    """A signal's handler that raises once in GRACE_S."""

    def __init__(self) -> None:
        self.deaf_until_s = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() >= self.deaf_until_s:
            self.deaf_until_s = time.monotonic() + GRACE_S
            raise Interrupted(number)


@contextmanager
def held() -> Iterator[None]:
    """Let the signals wait until the context ends. A process started in it is deaf to them for
    good: ending it is this process's to do."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
