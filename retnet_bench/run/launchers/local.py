"""Workers of this very code, on this machine."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from retnet_bench import interrupts
from retnet_bench.base import UserError
from retnet_bench.run import orphans
from retnet_bench.run.launchers.base import ANSWER_S, SERVER_START_S, StartedWorker, answering
from retnet_bench.run.launchers.sockets import socket_folder
from retnet_bench.run.worker import PRELOADED, serve
from retnet_bench.study.plan import Planned


class LocalLauncher:
    """Workers of this very code, forked from a server that has imported torch; spawned where there
    is no forking."""

    def start(self, planned: Planned, output: str) -> StartedWorker:
        context, limit_s = _context(), planned.protocol.timeout_s
        if _started_server():
            limit_s += SERVER_START_S
        conn, worker_conn = context.Pipe()
        worker_liveness, liveness = context.Pipe(duplex=False)
        arguments = (worker_conn, worker_liveness, output, planned.running, planned.protocol)
        process = context.Process(target=serve, args=arguments, daemon=True)
        try:
            with answering(limit_s, _kill_server):
                process.start()
        except UserError:
            _kill_server()  # and so the next worker has another server
            raise
        worker_conn.close()
        worker_liveness.close()
        return StartedWorker(conn, liveness, _ForkedProcess(process))


@dataclass(frozen=True)
class _ForkedProcess:
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
    forkserver.set_forkserver_preload([orphans.__name__, serve.__module__, PRELOADED])
    # By itself it would put its socket under TMPDIR, however long that is, and leave it there when
    # it is killed.
    process: Any = multiprocessing.current_process()
    process._config["tempdir"] = str(socket_folder())
    with interrupts.deferred():
        resource_tracker.ensure_running()  # which lets signals through when it is started
    with interrupts.deferred():
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
    """Its pipes to the runner close with it; where there is none, nothing happens. They close a
    moment before it is dead, and until then multiprocessing would take it for a server that serves:
    so this waits for its end, which multiprocessing then collects."""
    with suppress(ImportError, ProcessLookupError, psutil.NoSuchProcess):
        if (pid := _server_pid()) is not None:
            os.kill(pid, signal.SIGKILL)
            ends = time.monotonic() + ANSWER_S
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < ends:
                time.sleep(0.001)


@atexit.register
def _leave_nobody() -> None:
    """At its exit multiprocessing waits for every child: one that an interrupt lost, or whose
    server is stopped, would hold it for ever."""
    for child in multiprocessing.active_children():
        child.kill()
    _kill_server()
