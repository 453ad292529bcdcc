"""Ctrl-C, SIGTERM and SIGHUP: one way out, on which everything is cleared up."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
GRACE_S = 5.0
"""For so long after a signal further ones are left unheard, so that clearing up is not cut off: a
closed terminal and a service manager both send two."""
TRIES = 3
"""How often a signal is raised again before this process is ended without more ado."""

_RESUMES = "finished cells are kept, the same command resumes"
LEAVES = {
    "run": _RESUMES,
    "compare": _RESUMES,
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
    return f"interrupted: {_left or LEAVES.get(verb, 'nothing was changed')}"


_left: str | None = None
"""Said in place of LEAVES."""


@contextmanager
def leaving(left: str) -> Iterator[None]:
    """If a signal ends what is done within, `left` is what its line says is left of it."""
    global _left
    _left = left
    try:
        yield
    except Exception:
        _left = None
        raise
    _left = None


class Interrupted(BaseException):
    """A signal asked this process to end. Not an Exception: nothing on the way handles it."""


class _Ending:
    """The signals' handler. It raises, and insists: a library that is just being imported may
    swallow any exception."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the first signal."""
        self.deaf_until_s = 0.0
        self.caught = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.caught or now < self.deaf_until_s:
            return
        if self.number is None:
            self.number = number
            threading.Thread(target=self._insist, args=(number,), daemon=True).start()
        self.deaf_until_s = now + GRACE_S
        raise Interrupted

    def _insist(self, number: int) -> None:
        """Raise again until it is caught; at last end this process, whatever it does."""
        for _ in range(TRIES):
            time.sleep(1.1 * GRACE_S)
            if not self.caught:
                os.kill(os.getpid(), number)
        os._exit(128 + number)


_ending = _Ending()


def handle() -> None:
    """Raise Interrupted in the main thread on each of SIGNALS, except for those that whoever
    started this process had it ignore (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _ending)


@contextmanager
def reporting(arguments: Sequence[str]) -> Iterator[None]:
    """Run the command with these arguments; if a signal ends it, say in one line what is left of it
    and exit with 128 + the signal's number."""
    try:
        yield
    except BaseException:
        # Any: Python itself and libraries wrap what is raised within a class or an import.
        if _ending.number is None:
            raise
        _ending.caught = True
        with suppress(OSError):  # the terminal may be gone
            print(words(arguments), file=sys.stderr)
        sys.exit(128 + _ending.number)


@contextmanager
def deferred() -> Iterator[None]:
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
