"""The lock: one writer a folder, whatever it is, and gone with its process."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retnet_bench.base import UserError
from retnet_bench.results import lock
from retnet_bench.results.store import Store

PACKAGE = Path(lock.__file__).parents[1]

HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from retnet_bench.results.lock import alone
import os, subprocess
with alone(Path(sys.argv[1])):
    pids = [os.getpid()]
    child = os.fork()
    if child == 0:
        time.sleep(60)
    pids += [child, subprocess.Popen(["sleep", "60"], close_fds=False).pid]
    print(*pids, flush=True)
    time.sleep(60)
"""


def take(folder: Path) -> None:
    with lock.alone(folder):
        pass


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder, with a forked and an executed child: their pids."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), str(PACKAGE.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = list(map(int, process.stdout.readline().split()))
        yield pids
        for pid in pids[1:]:
            os.kill(pid, signal.SIGKILL)
        process.kill()


def test_another_process_is_kept_out_and_let_in_once_the_holder_is_killed(tmp_path, holder):
    with pytest.raises(UserError, match=f"^another run is writing to {tmp_path}: wait until"):
        take(tmp_path)
    os.kill(holder[0], signal.SIGKILL)
    os.waitid(os.P_PID, holder[0], os.WEXITED | os.WNOWAIT)
    for orphan in holder[1:]:
        os.kill(orphan, 0)  # lives, and holds nothing
    take(tmp_path)


def test_a_second_caller_of_one_process_is_kept_out_too_and_loses_nothing(tmp_path):
    with lock.alone(tmp_path):
        for _ in range(2):
            with pytest.raises(UserError, match="another run is writing"):
                take(tmp_path)
    take(tmp_path)


def test_the_lock_is_let_go_when_the_work_fails(tmp_path):
    with pytest.raises(RuntimeError, match="broken"), lock.alone(tmp_path):
        raise RuntimeError("broken")
    take(tmp_path)


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", unknown)
    with pytest.raises(UserError, match=f"^can't lock {tmp_path}: No locks available; use --out"):
        take(tmp_path)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file", "file is a file, where a folder is needed"),
        ("file/below", "file is a file, where a folder is needed"),
        ("a\0b", "embedded null (byte|character in path)"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, place, why):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=rf"^can't write to .*{why}; use another folder$"):
        take(tmp_path / place)


def test_a_lock_file_that_is_a_link_does_not_empty_its_target(tmp_path):
    (tmp_path / "precious").write_text("text")
    (tmp_path / lock.NAME).symlink_to("precious")
    take(tmp_path)
    assert (tmp_path / "precious").read_text() == "text"


def test_every_path_of_the_package_that_writes_records_holds_the_folder():
    """`Store.alone` is the only way in: a store that is opened by its name alone is not held."""
    opened = {
        f"{path.relative_to(PACKAGE)}:{call.lineno}"
        for path in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == Store.__name__
    }
    assert opened == set()
