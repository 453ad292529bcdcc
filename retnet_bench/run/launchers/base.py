"""What every launcher gives the runner, and the waits of all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol

from retnet_bench.base import UserError

if TYPE_CHECKING:
    from retnet_bench.study.plan import Planned

SERVER_START_S = 120.0
"""What a new server may take for its imports before it forks the first worker."""
ANSWER_S = 5.0
"""What a worker may take to send an answer it has begun, or to end."""
SERVER_LOST = 255
"""Stands for a worker's exit code where the server that would report it is dead."""


class Process(Protocol):
    """A started worker process, as far as the runner must hold it."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code (negative: the signal; SERVER_LOST), or None while it lives."""
        ...

    def abandon(self) -> None:
        """Kill the server of a worker that was killed and still is not reported as dead."""
        ...


@dataclass(frozen=True)
class StartedWorker:
    """A worker process, and the runner's ends of its two pipes."""

    conn: Connection
    liveness: Connection
    process: Process


class Launcher(Protocol):
    """Starts a worker for a cell; the worker writes what it prints to `output`."""

    def start(self, planned: Planned, output: str) -> StartedWorker: ...


@contextmanager
def answering(limit_s: float, kill: Callable[[], None]) -> Iterator[None]:
    """UserError where the server that forks workers turns out to be dead, or does not answer: after
    `limit_s` it is killed, which ends any wait for it."""
    try:
        with deadline(limit_s, kill):
            yield
    except (EOFError, ConnectionError, TimeoutError, FileNotFoundError):
        raise lost_server() from None


def lost_server() -> UserError:
    return UserError(
        "the server that workers are forked from has died, most likely killed for memory, or was "
        "stopped; finished cells are kept, and the same command goes on"
    )


@contextmanager
def deadline(limit_s: float, kill: Callable[[], None]) -> Iterator[None]:
    """Call `kill` unless the context ends within `limit_s`."""
    timer = threading.Timer(limit_s, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
