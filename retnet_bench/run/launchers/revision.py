"""Workers of another revision of this code, checked out in a tree of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from retnet_bench import files, interrupts
from retnet_bench.base import UserError, printable
from retnet_bench.run import orphans, wire
from retnet_bench.run.launchers.base import SERVER_LOST, SERVER_START_S, StartedWorker, answering
from retnet_bench.run.launchers.sockets import short_place
from retnet_bench.study.plan import Planned

WORKER_MODULES = ("retnet_bench.run.worker", "retnet_bench.study.worker")
"""Where a revision may have its worker, the newest place first."""


@dataclass
class RevisionLauncher:
    """Workers of the code in another tree, with an interpreter of its own: one at a time, forked
    from `python -m` its worker module, running there. Made by `serving`."""

    tree: Path
    listener: Listener
    control: Connection
    process: subprocess.Popen[bytes]

    def start(self, planned: Planned, output: str) -> StartedWorker:
        limit_s = planned.protocol.timeout_s
        with answering(limit_s, self.process.kill):
            self.control.send_bytes(wire.assignment(planned.running, planned.protocol, output))
            pid = int(self.control.recv_bytes())
            conn, liveness = (_accept(self.listener, limit_s) for _ in range(2))
        return StartedWorker(conn, liveness, _ServedProcess(pid, self.control, self.process))


@dataclass
class _ServedProcess:
    """A worker that is its server's child: the server tells when it ends, and how."""

    pid: int
    control: Connection
    server: subprocess.Popen[bytes]
    code: int | None = field(default=None, init=False)

    def kill(self) -> None:
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> int | None:
        if self.code is None and self.control.poll(timeout_s):
            try:
                self.code = int(self.control.recv_bytes())
            except (EOFError, OSError):
                self.code = SERVER_LOST
        return self.code

    def abandon(self) -> None:
        self.server.kill()


@contextmanager
def serving(tree: Path, python: Path) -> Iterator[RevisionLauncher]:
    """Workers of the revision checked out in `tree`, run by `python`, while the context lasts.

    UserError when that revision has no worker that can be driven from outside, or can't start.
    """
    with files.scratch(short_place()) as folder:
        address, log = str(folder / "socket"), folder / "server.log"
        command = [str(python), "-m", _worker_module(tree), address]
        mortal = [str(python), "-I", "-S", orphans.__file__, str(os.getpid()), *command]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        with Listener(address, "AF_UNIX") as listener, log.open("wb") as output:
            with interrupts.deferred():
                process = subprocess.Popen(
                    mortal, cwd=tree, env=environment, stdout=output, stderr=output
                )
            try:
                control = _first_call(tree, listener, process, log)
                with control:
                    yield RevisionLauncher(tree, listener, control, process)
            finally:
                process.kill()
                process.wait()


def _worker_module(tree: Path) -> str:
    """The worker's module in that tree; the newest one's name where it has none, which fails."""
    places = {module: tree / (module.replace(".", "/") + ".py") for module in WORKER_MODULES}
    return next((module for module, path in places.items() if path.exists()), WORKER_MODULES[0])


def _accept(listener: Listener, limit_s: float) -> Connection:
    """The next caller. TimeoutError when there is none within `limit_s`."""
    listener._listener._socket.settimeout(limit_s)  # type: ignore[attr-defined]
    return listener.accept()


def _first_call(
    tree: Path, listener: Listener, process: subprocess.Popen[bytes], log: Path
) -> Connection:
    """The server's first call, or a UserError with its last words if it dies before."""
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            return _accept(listener, 0.2)
        if process.poll() is not None:
            break
    last = (log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
    raise UserError(
        f"the revision in {tree} has no worker that can be driven: {printable(last, 300)}"
    )
