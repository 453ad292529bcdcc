"""Workers on the other nodes of this process's Slurm job.

One `srun` starts a server on each of them (`run.node`), which calls back over TCP and forks the
workers. The servers stay until this process ends: only the first world waits for their start.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from retnet_bench import files, interrupts
from retnet_bench.base import UserError, printable
from retnet_bench.measure import allocation
from retnet_bench.run import node, orphans, wire
from retnet_bench.run.launchers.base import (
    ANSWER_S,
    SERVER_LOST,
    SERVER_START_S,
    StartedWorker,
    answering,
)
from retnet_bench.run.launchers.network import LOST, Door
from retnet_bench.study.plan import Planned

SRUN = (
    *("--overlap", "--mpi=none", "--cpu-bind=none", "--export=ALL"),
    *("--ntasks-per-node=1", "--kill-on-bad-exit=0", "--input=none"),
)
"""Options of srun: one server a node, beside whatever the job runs there, with all of its cores."""

LOOK_EVERY_S = 0.2
"""While a call is waited for: how often it is looked whether who should call is alive."""


@dataclass
class NodeLauncher:
    """Starts workers on another node. Made by `others`."""

    name: str
    control: Connection
    door: Door
    srun: subprocess.Popen[bytes]
    ended: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What the node told of the end of workers, by their number."""
    lost: bool = False
    _numbers: int = 0
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def start(self, planned: Planned, output: str) -> StartedWorker:
        limit_s = planned.protocol.timeout_s
        self._numbers += 1
        assignment = wire.assignment(planned.running, planned.protocol, output).decode()
        with answering(limit_s, self.srun.kill):
            self.send(worker=self._numbers, assignment=assignment, output=output)
            conn, liveness = self._called(limit_s), self._called(limit_s)
        return StartedWorker(conn, liveness, RemoteProcess(self._numbers, self))

    def _called(self, limit_s: float) -> Connection:
        """The next call of the newest worker; one that came too late for its world is let go.
        EOFError when it died before, or its node."""
        last = time.monotonic() + limit_s
        while time.monotonic() < last:
            with suppress(TimeoutError):
                call = self.door.called(LOOK_EVERY_S)
                if call.said == {"node": self.name, "worker": self._numbers}:
                    return call.conn
                call.conn.close()
            if self.told(self._numbers, 0.0):
                raise EOFError
        raise TimeoutError

    def send(self, **words: Any) -> None:
        with self._sending:  # a time-out kills from a thread of its own
            self.control.send_bytes(json.dumps(words).encode())

    def told(self, number: int, limit_s: float) -> dict[str, Any] | None:
        """What the node tells of the end of that worker; None while it lives."""
        last = time.monotonic() + limit_s
        while number not in self.ended:
            if self.lost:
                return {"code": SERVER_LOST}
            if not self._hear(max(last - time.monotonic(), 0.0)):
                return None
        return self.ended[number]

    def _hear(self, limit_s: float) -> bool:
        """Take in the next thing that the node tells, or that it is gone. False when it tells
        nothing within `limit_s`."""
        try:
            if not self.control.poll(limit_s):
                return False
            told = json.loads(self.control.recv_bytes())
        except LOST:
            self.lost = True
        else:
            self.ended[told["worker"]] = told
        return True

    @property
    def lives(self) -> bool:
        while not self.lost and self._hear(0.0):
            pass
        return not self.lost


@dataclass(frozen=True)
class RemoteProcess:
    """A worker on another node, which tells when it ends, and how."""

    number: int
    node: NodeLauncher

    @property
    def pid(self) -> int:
        """None of this machine's processes."""
        return -1

    def kill(self) -> None:
        with suppress(OSError):
            self.node.send(worker=self.number)

    def wait(self, timeout_s: float) -> int | None:
        told = self.node.told(self.number, timeout_s)
        return None if told is None else told["code"]

    def abandon(self) -> None:
        self.node.lost = True
        self.node.srun.kill()

    def told(self) -> dict[str, Any]:
        """What its node told of its end; nothing if it does not tell in time."""
        return self.node.told(self.number, ANSWER_S) or {}


@dataclass
class _Step:
    """The job's step that has a server on each other node."""

    srun: subprocess.Popen[bytes]
    door: Door
    nodes: list[NodeLauncher]
    address: str
    """Of this machine, as the others reach it."""

    def close(self) -> None:
        """Let the servers end, which they do once their connection does; then srun ends."""
        self.door.close()
        for one in self.nodes:
            one.control.close()
        try:
            self.srun.wait(2 * ANSWER_S)
        except subprocess.TimeoutExpired:
            self.srun.kill()
            self.srun.wait()


_steps: list[_Step] = []
"""At most one, the present."""


def others(count: int) -> tuple[str, list[NodeLauncher]]:
    """This machine's address, and launchers of so many other nodes of the job.

    Raises UserError when Slurm does not start them, or they do not call in time.
    """
    if _steps and not all(node.lives for node in _steps[0].nodes):  # one was killed: start anew
        close()
    if not _steps:
        _steps.append(_started(allocation.here().nodes - 1))
    return _steps[0].address, _steps[0].nodes[:count]


@atexit.register
def close() -> None:
    """End what `others` started."""
    while _steps:
        _steps.pop().close()


def _started(count: int) -> _Step:
    program = shutil.which("srun")
    if program is None:
        raise UserError(
            "parallel needs more than one of the job's nodes, and so srun, which is not on this "
            "node's PATH"
        )
    door = Door()
    module = [sys.executable, "-m", node.__name__, platform.node(), str(door.port)]
    own = os.environ.get("SLURMD_NODENAME", "")
    where = [f"--nodes={count}", f"--ntasks={count}", f"--exclude={own}"]
    command = [sys.executable, "-I", "-S", str(orphans.__file__), str(os.getpid())]
    with files.scratch() as folder:
        log = folder / "srun.log"
        with log.open("wb") as output, interrupts.deferred():
            srun = subprocess.Popen(
                [*command, program, *SRUN, *where, *module],
                env=os.environ | {node.KEY: door.key.hex()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        step = _Step(srun, door, [], "")
        try:
            _await_calls(step, count, log)
        except BaseException:
            srun.kill()
            step.close()
            raise
    return step


def _await_calls(step: _Step, count: int, log: Path) -> None:
    last = time.monotonic() + SERVER_START_S
    while len(step.nodes) < count and step.srun.poll() is None and time.monotonic() < last:
        with suppress(TimeoutError):
            call = step.door.called(LOOK_EVERY_S)
            step.nodes.append(NodeLauncher(call.said["node"], call.conn, step.door, step.srun))
            step.address = step.address or call.at
    if len(step.nodes) == count:
        step.nodes.sort(key=lambda one: one.name)
        return
    missing = f"{count - len(step.nodes)} of the job's {count} other nodes have not called"
    code = step.srun.poll()
    why = f" within {SERVER_START_S:g} s" if code is None else f": srun ended with exit code {code}"
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    words = f": {printable('; '.join(lines[-3:]), 300)}" if lines else ""
    raise UserError(f"{missing}{why}{words}")
