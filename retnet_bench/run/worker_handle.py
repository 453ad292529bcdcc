"""The runner's end of a worker process: what it asks, and what became of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from retnet_bench.measure import cgroup
from retnet_bench.run import wire
from retnet_bench.run.launchers.base import (
    ANSWER_S,
    SERVER_LOST,
    Launcher,
    deadline,
    lost_server,
)
from retnet_bench.run.launchers.network import LOST
from retnet_bench.study.plan import Planned

AMID_ANSWER_S = 60.0
"""What the rest of an answer that has begun may take, or the news of how a worker ended: both are
there at once, but whoever passes them on may have to wait for a core."""
TAIL_BYTES = 4000
"""Of what a worker wrote to stdout and stderr."""


class WorkerHandle:
    """The runner's end of one worker process."""

    nodes: tuple[str, ...] = ()
    """Names of further machines that work on the cell."""

    def __init__(self, planned: Planned, launcher: Launcher, output: Path) -> None:
        self.planned, self.output = planned, output
        self.spent_s = 0.0
        self.stopped_amid_answer = False
        self.oom_kills = cgroup.oom_kills()
        self.started = launcher.start(planned, str(output))

    @property
    def pids(self) -> list[int]:
        return [self.started.process.pid]

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
                self.spent_s, start = 0.0, time.monotonic()  # a training may take days
        except LOST:
            return self._death()
        finally:
            self.spent_s += time.monotonic() - start

    def answered(self) -> wire.Answer:
        """The answer that it has begun, or a Failure: its own, a stop amid it, or its death."""
        try:
            return self._answer(0.0)
        except LOST:
            return self._death()

    def _answer(self, timeout_s: float) -> wire.Answer:
        if not self.started.conn.poll(timeout_s):
            self.kill()
            words = f"not finished after timeout_s = {self.planned.protocol.timeout_s:g} s"
            return wire.Failure("timeout", words)
        with deadline(AMID_ANSWER_S, self._stop_amid_answer):
            data = self.started.conn.recv_bytes()
        # Not within the deadline: on a busy machine this process may be slow to read a long answer.
        return wire.read(data)

    def _stop_amid_answer(self) -> None:
        self.stopped_amid_answer = True
        self.kill()

    def _death(self) -> wire.Failure:
        """What ended the worker. Raises UserError when it was the server's end."""
        code = self.started.process.wait(AMID_ANSWER_S)
        if self.stopped_amid_answer:
            words = f"stopped for {AMID_ANSWER_S:g} s in the midst of an answer"
            return wire.Failure("timeout", words)
        if code in (None, SERVER_LOST):
            raise lost_server()
        if code == -signal.SIGKILL:
            return self._killed()
        return wire.Failure("crash", f"the worker died: {_end_text(code)}")

    def _killed(self) -> wire.Failure:
        """The kernel counts whom it kills for memory; anyone else's kill -9 is not counted."""
        for_memory = self._for_memory()
        if for_memory:
            return wire.Failure("oom", "killed by the system, which had run out of memory")
        unknown = "" if for_memory is False else "; whether for memory this system does not tell"
        return wire.Failure("killed", f"killed by signal 9 from outside{unknown}")

    def _for_memory(self) -> bool | None:
        """Whether the kernel has killed someone for want of memory since it began; None where that
        is not known."""
        now = cgroup.oom_kills()
        return None if now is None else now != self.oom_kills

    def tail(self) -> str | None:
        """The end of what the worker wrote to stdout and stderr."""
        return tail_of(self.output)

    def kill(self) -> None:
        self.started.process.kill()

    def ask_to_stop(self) -> None:
        """Have the worker end once it has answered, and do not wait for that."""
        process = self.started.process
        if process.wait(0) is None:
            try:
                wire.request(self.started.conn, "stop")
            except OSError:
                process.kill()

    def stop(self) -> None:
        """Let the worker end; kill it if it does not."""
        self.ask_to_stop()
        self.await_end()

    def await_end(self) -> None:
        """Wait for a worker that was asked to stop; kill it if it does not."""
        process = self.started.process
        if process.wait(ANSWER_S) is None:
            process.kill()
        if process.wait(ANSWER_S) is None:
            process.abandon()
        self.started.conn.close()
        self.started.liveness.close()


def tail_of(output: Path) -> str | None:
    """The end of what a worker wrote."""
    if not output.exists():
        return None
    return output.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace") or None


def _end_text(code: int) -> str:
    """An exit code in words; a negative one is a signal, which may have no name of its own."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name} ({signal.strsignal(-code)})"
    return f"signal {-code}"
