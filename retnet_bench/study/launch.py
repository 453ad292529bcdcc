"""How a worker process is started: forked from a warm server of this revision, or of another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any, Protocol

from retnet_bench.base import UserError
from retnet_bench.study import wire
from retnet_bench.study.plan import Planned
from retnet_bench.study.worker import serve

TAIL_BYTES = 4000
SERVER_START_S = 120.0


class Process(Protocol):
    """A started worker process, as far as the runner must hold it."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code (negative: the signal), or None while it lives."""
        ...


@dataclass(frozen=True)
class Started:
    """A worker process, and the runner's ends of its two pipes."""

    conn: Connection
    life: Connection
    process: Process


class Launcher(Protocol):
    """Starts a worker for a cell; the worker writes what it prints to `output`."""

    def start(self, planned: Planned, output: str) -> Started: ...


class Here:
    """Workers of this very code, forked from a server that has imported torch; spawned where there
    is no forking."""

    def start(self, planned: Planned, output: str) -> Started:
        context = _context()
        conn, theirs = context.Pipe()
        life_theirs, life = context.Pipe(duplex=False)
        arguments = (theirs, life_theirs, output, planned.cell, planned.protocol)
        process = context.Process(target=serve, args=arguments, daemon=True)
        with _server_alive():
            process.start()
        theirs.close()
        life_theirs.close()
        return Started(conn, life, _Child(process))


@contextmanager
def _server_alive() -> Iterator[None]:
    """UserError where the server that forks workers turns out to be dead."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise UserError(
            "the server that workers are forked from has died, most likely killed for memory; "
            "finished cells are kept, and the same command goes on"
        ) from None


@dataclass(frozen=True)
class _Child:
    process: Any

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()

    def wait(self, timeout_s: float) -> int | None:
        self.process.join(timeout_s)
        return self.process.exitcode


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retnet_bench.study.worker"])
    _start_server()
    return context


def _start_server() -> None:
    """Start the fork server deaf to Ctrl-C, which is the runner's to handle: by itself it would be
    so only after its imports, and until then die with a traceback."""
    from multiprocessing import forkserver  # not to be had where there is no forking

    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, earlier)


@dataclass
class There:
    """Workers of the code in another tree, with an interpreter of its own: one at a time, forked
    from `python -m retnet_bench.study.worker` running there. Made by `server`."""

    tree: Path
    listener: Listener
    control: Connection

    def start(self, planned: Planned, output: str) -> Started:
        with _server_alive():
            self.control.send_bytes(wire.assignment(planned.cell, planned.protocol, output))
            pid = int(self.control.recv_bytes())
        conn, life = self.listener.accept(), self.listener.accept()
        return Started(conn, life, _Served(pid, self.control))


@dataclass
class _Served:
    """A worker that is its server's child: the server tells when it ends, and how."""

    pid: int
    control: Connection
    code: int | None = field(default=None, init=False)

    def kill(self) -> None:
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> int | None:
        if self.code is None and self.control.poll(timeout_s):
            self.code = int(self.control.recv_bytes())
        return self.code


@contextmanager
def server(tree: Path, python: Path) -> Iterator[There]:
    """Workers of the revision checked out in `tree`, run by `python`, while the context lasts.

    UserError when that revision has no worker that can be driven from outside, or can't start.
    """
    with tempfile.TemporaryDirectory(prefix="retnet-bench-") as folder:
        address = str(Path(folder) / "socket")
        log = Path(folder) / "server.log"
        command = [str(python), "-m", "retnet_bench.study.worker", address]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        with Listener(address, "AF_UNIX") as listener, log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=tree, env=environment, stdout=output, stderr=output
            )
            try:
                control = _accept(tree, listener, process, log)
                with control:
                    yield There(tree, listener, control)
            finally:
                process.kill()
                process.wait()


def _accept(tree: Path, listener: Listener, process: subprocess.Popen, log: Path) -> Connection:
    """The server's first call, or a UserError with its last words if it dies before."""
    listening = listener._listener._socket  # type: ignore[attr-defined]
    listening.settimeout(0.2)
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            control = listener.accept()
            listening.settimeout(None)
            return control
        if process.poll() is not None:
            break
    last = (log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
    raise UserError(f"the revision in {tree} has no worker that can be driven: {last}")


class Worker:
    """The runner's end of one worker process."""

    def __init__(self, planned: Planned, launcher: Launcher, output: Path) -> None:
        self.planned, self.output = planned, output
        self.spent_s = 0.0
        self.started = launcher.start(planned, str(output))

    def ask(
        self, name: str, on_progress: Callable[[str], None] = lambda words: None, **arguments: Any
    ) -> wire.Answer:
        """The worker's answer, or a Failure: its own, a time-out, or its death."""
        start = time.monotonic()
        try:
            wire.request(self.started.conn, name, **arguments)
            while True:
                left = self.planned.protocol.timeout_s - self.spent_s - time.monotonic() + start
                answer = self._answer(max(left, 0.0))
                if not isinstance(answer, wire.Progress):
                    return answer
                on_progress(answer.words)
        except (EOFError, ConnectionError):
            return self._death()
        finally:
            self.spent_s += time.monotonic() - start

    def _answer(self, timeout_s: float) -> wire.Answer:
        if self.started.conn.poll(timeout_s):
            return wire.receive(self.started.conn)
        self.started.process.kill()
        limit = self.planned.protocol.timeout_s
        return wire.Failure("timeout", f"not finished after timeout_s = {limit:g} s")

    def _death(self) -> wire.Failure:
        code = self.started.process.wait(10.0) or 0
        if code == -signal.SIGKILL:
            words = "killed by SIGKILL: most likely the system ran out of memory"
            return wire.Failure("oom", words)
        name = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return wire.Failure("crash", f"the worker died: {name}")

    def tail(self) -> str | None:
        """The end of what the worker wrote to stdout and stderr."""
        if not self.output.exists():
            return None
        return self.output.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace") or None

    def kill(self) -> None:
        self.started.process.kill()

    def stop(self) -> None:
        """Let the worker end; kill it if it does not."""
        process = self.started.process
        if process.wait(0) is None:
            try:
                wire.request(self.started.conn, "stop")
            except OSError:
                process.kill()
        if process.wait(5.0) is None:
            process.kill()
            process.wait(5.0)
        self.started.conn.close()
        self.started.life.close()
