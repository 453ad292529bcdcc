"""Nobody outlives the runner, and nobody who is stopped holds it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from fakes import faults
from fakes.cells import QUICK, cell

from retnet_bench.base import UserError
from retnet_bench.run import orphans, wire, worker_handle
from retnet_bench.run.launchers import base, local, revision, sockets
from retnet_bench.run.launchers.local import LocalLauncher
from retnet_bench.run.worker_handle import WorkerHandle
from retnet_bench.study.plan import Planned

TREE = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl")


def planned(arm: str = "retnet", **protocol: float) -> Planned:
    return Planned(cell(arm=arm, measure=("time",)), replace(QUICK, **protocol), None)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone_within(seconds: float, pids: list[int]) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def quick(monkeypatch):
    for module in (worker_handle, local):
        monkeypatch.setattr(module, "ANSWER_S", 0.3)
    monkeypatch.setattr(worker_handle, "AMID_ANSWER_S", 0.3)


# --- the runner dies -----------------------------------------------------------------------------


@linux
def test_a_killed_runner_takes_server_and_worker_with_it_whatever_they_do(tmp_path):
    """The worker holds the interpreter's lock, so that no thread of its own could end it."""
    runner = subprocess.Popen(
        [sys.executable, "-m", "fakes.busy_runner"],
        cwd=TREE / "tests",
        env=os.environ | {"PYTHONPATH": f"{TREE}{os.pathsep}{TREE / 'tests'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdout is not None
    pids = [int(pid) for pid in runner.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    runner.kill()
    assert gone_within(1.0, pids)
    runner.wait()


@linux
def test_a_process_whose_parent_is_gone_already_ends_at_once():
    words = f"from retnet_bench.run.orphans import end_with; end_with({os.getpid()}); print('on')"
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {words!r}])"
    done = subprocess.run([sys.executable, "-c", grandchild], capture_output=True, text=True)
    assert done.stdout == ""
    mine = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert mine.stdout == "on\n"


@linux
def test_a_server_of_another_revision_ends_with_the_runner_though_its_code_knows_nothing_of_it():
    script = (
        "import os, subprocess, sys; from retnet_bench.run import orphans\n"
        "words = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "wrapped = [sys.executable, '-I', '-S', orphans.__file__, str(os.getpid()), *words]\n"
        "print(subprocess.Popen(wrapped).pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert gone_within(1.0, [int(done.stdout)])


def test_the_runner_s_pid_is_not_handed_on():
    local._started_server()
    assert orphans.RUNNER not in os.environ


# --- someone is stopped --------------------------------------------------------------------------


def test_a_stopped_server_is_one_line_in_time_and_the_next_worker_has_another(tmp_path):
    first = WorkerHandle(planned(), LocalLauncher(), tmp_path / "1")
    first.stop()
    os.kill(local._server_pid(), signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"has died, .* or was stopped; finished cells are kept"):
        WorkerHandle(planned(timeout_s=0.5), LocalLauncher(), tmp_path / "2")
    assert 0.5 <= time.monotonic() - begun < 3
    again = WorkerHandle(planned(), LocalLauncher(), tmp_path / "3")
    assert isinstance(again.ask("prepare"), wire.Prepared)
    again.stop()
    assert again.started.process.wait(0) == 0


def test_a_server_that_was_killed_is_dead_for_who_asks_next():
    """Until it is, multiprocessing takes it for one that serves."""
    local._started_server()
    pid = local._server_pid()
    local._kill_server()
    assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert local._started_server()
    local._kill_server()


def test_a_worker_whose_server_is_stopped_is_let_go_of(tmp_path, quick):
    worker = WorkerHandle(planned(), LocalLauncher(), tmp_path / "log")
    os.kill(local._server_pid(), signal.SIGSTOP)
    begun = time.monotonic()
    worker.stop()
    assert time.monotonic() - begun < 3
    assert worker.started.process.wait(0) == base.SERVER_LOST
    assert not multiprocessing.active_children()


def test_a_stopped_worker_is_a_timeout(tmp_path):
    WorkerHandle(planned(), LocalLauncher(), tmp_path / "0").stop()  # the server's start takes long
    worker = WorkerHandle(planned(timeout_s=1.0), LocalLauncher(), tmp_path / "log")
    os.kill(worker.started.process.pid, signal.SIGSTOP)
    assert worker.ask("prepare").status == "timeout"
    begun = time.monotonic()
    worker.stop()
    assert time.monotonic() - begun < 3
    assert worker.started.process.wait(0) == -signal.SIGKILL


def test_a_stopped_server_of_another_revision_is_one_line_in_time(tmp_path):
    with revision.serving(TREE, Path(sys.executable)) as there:
        there.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(UserError, match="or was stopped"):
            WorkerHandle(planned(timeout_s=0.5), there, tmp_path / "log")
        assert time.monotonic() - begun < 3


class Half:
    """A worker that begins an answer and never ends it, until it is killed."""

    pid = 0

    def __init__(self) -> None:
        self.conn, self.theirs = multiprocessing.Pipe()
        os.write(self.theirs.fileno(), struct.pack("!i", 100) + b"{")

    def start(self, planned: Planned, output: str) -> base.StartedWorker:
        return base.StartedWorker(self.conn, self.conn, self)

    def kill(self) -> None:
        with suppress(OSError):  # by the deadline's thread and by the runner, as it comes
            self.theirs.close()

    def wait(self, timeout_s: float) -> int | None:
        return 0

    def abandon(self) -> None:
        raise AssertionError("it is dead")


def test_a_worker_stopped_in_the_midst_of_an_answer_is_a_timeout(tmp_path, quick):
    worker = WorkerHandle(planned(), Half(), tmp_path / "log")
    answer = worker.ask("prepare")
    assert answer == wire.Failure("timeout", "stopped for 0.3 s in the midst of an answer")


class Whole(Half):
    """A worker that has answered, and is not to be killed."""

    def __init__(self) -> None:
        self.conn, self.theirs = multiprocessing.Pipe()
        wire.send(self.theirs, wire.Failure("diverged", "its own"))

    def kill(self) -> None:
        raise AssertionError("it has answered")


def test_a_runner_that_reads_slowly_kills_nobody(tmp_path, quick, monkeypatch):
    """On a busy machine the reading of a long answer took longer than the worker was given for it;
    it was killed, and its cell recorded as killed from outside."""
    read = wire.read

    def slowly(data: bytes) -> wire.Answer:
        time.sleep(0.6)
        return read(data)

    monkeypatch.setattr(wire, "read", slowly)
    worker = WorkerHandle(planned(), Whole(), tmp_path / "log")
    assert worker.ask("prepare") == wire.Failure("diverged", "its own")
    assert not worker.stopped_amid_answer


class Talks(Half):
    """A worker that says how far it is, a few times, and then nothing."""

    def __init__(self, every_s: float, words: int) -> None:
        self.conn, self.theirs = multiprocessing.Pipe()
        threading.Thread(target=self._talk, args=(every_s, words), daemon=True).start()

    def _talk(self, every_s: float, words: int) -> None:
        for step in range(words):
            time.sleep(every_s)
            wire.send(self.theirs, wire.Progress(f"step {step}"))


def test_a_training_is_no_timeout_as_long_as_it_says_how_far_it_is(tmp_path):
    """It may take days: only its silence is limited."""
    worker = WorkerHandle(planned(timeout_s=1.0), Talks(0.4, 5), tmp_path / "log")
    said: list[str] = []
    begun = time.monotonic()
    answer = worker.ask("finish", said.append)
    assert answer == wire.Failure("timeout", "not finished after timeout_s = 1 s")
    assert said == [f"step {n}" for n in range(5)]
    assert 5 * 0.4 + 1.0 <= time.monotonic() - begun < 5


# --- someone is killed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "status", "reason"),
    [
        (3, 4, "oom", "killed by the system, which had run out of memory"),
        (3, 3, "killed", "killed by signal 9 from outside"),
        (None, None, "killed", "whether for memory this system does not tell"),
    ],
)
def test_a_kill_is_for_memory_only_where_the_kernel_counted_one(
    tmp_path, monkeypatch, before, after, status, reason
):
    counts = iter([before, after])
    monkeypatch.setattr(worker_handle.cgroup, "oom_kills", lambda: next(counts))
    worker = WorkerHandle(planned(), LocalLauncher(), tmp_path / "log")
    worker.kill()
    answer = worker.ask("prepare")
    assert (answer.status, reason in answer.reason) == (status, True)
    worker.stop()


def test_a_killed_server_is_no_outcome_of_the_cell_in_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "serve", faults.serve)
    worker = WorkerHandle(planned("sleeps"), LocalLauncher(), tmp_path / "log")
    worker.ask("unheard_of")  # it is up, and ends with its server
    os.kill(local._server_pid(), signal.SIGKILL)
    with pytest.raises(UserError, match="the server that workers are forked from has died"):
        worker.ask("prepare")
    worker.stop()


# --- sockets -------------------------------------------------------------------------------------


def test_sockets_are_in_a_short_place_whatever_tmpdir_is(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 140)
    deep.mkdir()
    monkeypatch.setattr(sockets.tempfile, "tempdir", str(deep))
    assert sockets.short_place() == Path("/tmp")
    with revision.serving(TREE, Path(sys.executable)) as there:
        worker = WorkerHandle(planned(), there, tmp_path / "log")
        assert isinstance(worker.ask("prepare"), wire.Prepared)
        worker.stop()


def test_no_place_for_sockets_is_one_line(monkeypatch):
    monkeypatch.setattr(sockets.tempfile, "tempdir", "/" + "x" * 140)
    monkeypatch.setattr(sockets.os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"^TMPDIR is /x+: too long for a socket in it"):
        sockets.short_place()
