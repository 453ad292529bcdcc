"""How a worker process is started: forked from a warm server of this revision, or of another."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any, Protocol

from retnet_bench import files, interrupts
from retnet_bench.base import UserError, printable
from retnet_bench.measure import cgroup
from retnet_bench.study import orphans, wire
from retnet_bench.study.plan import Planned
from retnet_bench.study.worker import serve

TAIL_BYTES = 4000
SERVER_START_S = 120.0
"""What a new server may take for its imports before it forks the first worker."""
ANSWER_S = 5.0
"""What a worker may take to send an answer it has begun, or to end."""
SERVER_LOST = 255
"""Stands for a worker's exit code where the server that would tell it is dead."""
SOCKET_FOLDER_BYTES = 46
"""Longest place for a folder with sockets in it: their whole path has about a hundred bytes."""


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
        context, limit_s = _context(), planned.protocol.timeout_s
        if _started_server():
            limit_s += SERVER_START_S
        conn, theirs = context.Pipe()
        life_theirs, life = context.Pipe(duplex=False)
        arguments = (theirs, life_theirs, output, planned.cell, planned.protocol)
        process = context.Process(target=serve, args=arguments, daemon=True)
        with _answering(limit_s, _kill_server):
            process.start()
        theirs.close()
        life_theirs.close()
        return Started(conn, life, _Child(process))


@contextmanager
def _answering(limit_s: float, kill: Callable[[], None]) -> Iterator[None]:
    """UserError where the server that forks workers turns out to be dead, or does not answer: after
    `limit_s` it is killed, which ends any wait for it."""
    try:
        with _deadline(limit_s, kill):
            yield
    except (EOFError, ConnectionError, TimeoutError, FileNotFoundError):
        raise _lost_server() from None


def _lost_server() -> UserError:
    return UserError(
        "the server that workers are forked from has died, most likely killed for memory, or was "
        "stopped; finished cells are kept, and the same command goes on"
    )


@contextmanager
def _deadline(limit_s: float, kill: Callable[[], None]) -> Iterator[None]:
    """Call `kill` unless the context ends within `limit_s`."""
    timer = threading.Timer(limit_s, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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

    def abandon(self) -> None:
        _kill_server()
        self.process.join(ANSWER_S)


def _context() -> Any:
    forking = "forkserver" in multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if forking else "spawn")


def _started_server() -> bool:
    """Have the fork server run; True if it had to be started.

    It is deaf to the signals that end a run, which are the runner's to handle, and ends with it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return False
    from multiprocessing import forkserver, resource_tracker

    earlier = _server_pid()
    forkserver.set_forkserver_preload([orphans.__name__, serve.__module__])
    # By itself it would put its socket under TMPDIR, however long that is, and leave it there when
    # it is killed.
    process: Any = multiprocessing.current_process()
    process._config["tempdir"] = str(_socket_folder())
    with interrupts.held():
        resource_tracker.ensure_running()  # which lets signals through when it is started
    with interrupts.held():
        os.environ[orphans.RUNNER] = str(os.getpid())
        try:
            forkserver.ensure_running()
        finally:
            os.environ.pop(orphans.RUNNER, None)
    return _server_pid() != earlier


def _server_pid() -> int | None:
    from multiprocessing import forkserver

    return getattr(forkserver._forkserver, "_forkserver_pid", None)


def _kill_server() -> None:
    """Its pipes to the runner close with it; where there is none, nothing happens."""
    with suppress(ImportError, ProcessLookupError):
        if (pid := _server_pid()) is not None:
            os.kill(pid, signal.SIGKILL)


@atexit.register
def _leave_nobody() -> None:
    """At its exit multiprocessing waits for every child: one that an interrupt lost, or whose
    server is stopped, would hold it for ever."""
    for child in multiprocessing.active_children():
        child.kill()
    _kill_server()


@cache
def _socket_folder() -> Path:
    """This process's own folder for sockets, until it ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(files.scratch(_short_place()))


def _short_place() -> Path:
    """Where folders with sockets can be: a socket's path may not be long, whatever TMPDIR is."""
    with files.guarded(Path("TMPDIR"), "used for temporary files", files.NotWritten):
        usual = tempfile.gettempdir()
    for place in (usual, "/tmp", "/var/tmp"):
        if len(os.fsencode(place)) <= SOCKET_FOLDER_BYTES and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    raise UserError(
        f"TMPDIR is {printable(usual)}: too long for a socket in it (at most {SOCKET_FOLDER_BYTES} "
        f"bytes), and /tmp can't be written"
    )


@dataclass
class There:
    """Workers of the code in another tree, with an interpreter of its own: one at a time, forked
    from `python -m retnet_bench.study.worker` running there. Made by `server`."""

    tree: Path
    listener: Listener
    control: Connection
    process: subprocess.Popen[bytes]

    def start(self, planned: Planned, output: str) -> Started:
        limit_s = planned.protocol.timeout_s
        with _answering(limit_s, self.process.kill):
            self.control.send_bytes(wire.assignment(planned.cell, planned.protocol, output))
            pid = int(self.control.recv_bytes())
            conn, life = (_accept(self.listener, limit_s) for _ in range(2))
        return Started(conn, life, _Served(pid, self.control, self.process))


@dataclass
class _Served:
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
def server(tree: Path, python: Path) -> Iterator[There]:
    """Workers of the revision checked out in `tree`, run by `python`, while the context lasts.

    UserError when that revision has no worker that can be driven from outside, or can't start.
    """
    with files.scratch(_short_place()) as folder:
        address, log = str(folder / "socket"), folder / "server.log"
        command = [str(python), "-m", "retnet_bench.study.worker", address]
        mortal = [str(python), "-I", "-S", orphans.__file__, str(os.getpid()), *command]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        with Listener(address, "AF_UNIX") as listener, log.open("wb") as output:
            with interrupts.held():
                process = subprocess.Popen(
                    mortal, cwd=tree, env=environment, stdout=output, stderr=output
                )
            try:
                control = _first_call(tree, listener, process, log)
                with control:
                    yield There(tree, listener, control, process)
            finally:
                process.kill()
                process.wait()


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


class Worker:
    """The runner's end of one worker process."""

    def __init__(self, planned: Planned, launcher: Launcher, output: Path) -> None:
        self.planned, self.output = planned, output
        self.spent_s = 0.0
        self.oom_kills = cgroup.oom_kills()
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
        words = f"not finished after timeout_s = {self.planned.protocol.timeout_s:g} s"
        if self.started.conn.poll(timeout_s):
            begun = time.monotonic()
            try:
                with _deadline(ANSWER_S, self.kill):
                    return wire.receive(self.started.conn)
            except (EOFError, ConnectionError):
                if time.monotonic() - begun < ANSWER_S:
                    raise
            words = f"stopped for {ANSWER_S:g} s in the midst of an answer"
        self.kill()
        return wire.Failure("timeout", words)

    def _death(self) -> wire.Failure:
        """What ended the worker. Raises UserError when it was the server's end."""
        code = self.started.process.wait(2 * ANSWER_S)
        if code in (None, SERVER_LOST):
            raise _lost_server()
        if code == -signal.SIGKILL:
            return self._killed()
        return wire.Failure("crash", f"the worker died: {_end_text(code)}")

    def _killed(self) -> wire.Failure:
        """The kernel counts whom it kills for memory; anyone else's kill -9 is not counted."""
        now = cgroup.oom_kills()
        if now is not None and now != self.oom_kills:
            return wire.Failure("oom", "killed by the system, which had run out of memory")
        unknown = "" if now is not None else "; whether for memory this system does not tell"
        return wire.Failure("killed", f"killed by signal 9 from outside{unknown}")

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
        if process.wait(ANSWER_S) is None:
            process.kill()
        if process.wait(ANSWER_S) is None:
            process.abandon()
        self.started.conn.close()
        self.started.life.close()


def _end_text(code: int) -> str:
    """An exit code in words; a negative one is a signal, which may have no name of its own."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name} ({signal.strsignal(-code)})"
    return f"signal {-code}"
