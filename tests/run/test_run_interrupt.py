"""Ctrl-C, SIGTERM and SIGHUP: one line that is true, its exit code, and nothing left over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from fakes import cells
from typer.main import get_command

from retnet_bench import interrupts
from retnet_bench.cli import main as cli

TREE = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def heard():
    """The signals as a terminal has them: one that is ignored here (nohup, a background job of a
    shell) would be ignored by every process that is started, too."""
    earlier = {number: signal.signal(number, signal.SIG_DFL) for number in interrupts.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


def python(words: str, **options) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(TREE)}
    return subprocess.Popen([sys.executable, "-c", words], env=environment, **(pipes | options))


SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.parametrize("number", [signal.SIGINT, *SLOW])
def test_a_signal_to_a_run_ends_it_with_everything_cleared_up(tmp_path, number):
    """To the whole group, as terminals and service managers send it: a worker that heard it would
    be a crash in the records."""
    content = cells.study()
    content["protocol"] |= {"block_s": 60.0, "max_samples": 100_000}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "retnet_bench", "run", "long.yaml", "--out", "out"]
    run = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TREE), "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list((tmp_path / "tmp").glob("retnet-bench-*/*.log")):
        assert run.poll() is None
        time.sleep(0.1)
    time.sleep(1.0)
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 3  # the server and two workers
    begun = time.monotonic()
    os.killpg(run.pid, number)
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - begun < 30  # not the minute that a block takes
    assert said == "interrupted: finished cells are kept, the same command resumes\n"
    assert run.returncode == 128 + number
    left = psutil.wait_procs(family, timeout=1.0)[1]
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in left)
    left = [path.name for path in (tmp_path / "tmp").iterdir()]
    assert not [name for name in left if name.startswith(("retnet-bench-", "pymp-"))]
    assert not list((tmp_path / "out" / "records").iterdir())


def test_an_interrupt_that_a_library_swallows_comes_again():
    swallowing = (
        "import signal, time; from retnet_bench import interrupts as i; i.GRACE_S = 0.1\n"
        "i.handle()\n"
        "with i.reporting(['--debug', 'check', 'decode']):\n"
        "    try: signal.raise_signal(signal.SIGTERM)\n"
        "    except: pass\n"
        "    time.sleep(20)\n"
    )
    run = python(swallowing)
    assert run.communicate(timeout=10)[1] == (
        "interrupted: no verdict; the same command measures anew\n"
    )
    assert run.returncode == 128 + signal.SIGTERM


def test_an_interrupt_that_is_wrapped_is_one_all_the_same():
    words = (
        "import signal; from retnet_bench import interrupts as i; i.handle()\n"
        "class Wraps:\n"
        "    def __set_name__(self, *_): signal.raise_signal(signal.SIGINT)\n"
        "with i.reporting(['bundle']): type('C', (), {'a': Wraps()})"
    )
    run = python(words)
    assert run.communicate(timeout=10)[1] == "interrupted: no archive was written\n"
    assert run.returncode == 128 + signal.SIGINT


def test_a_process_that_never_hears_is_ended_all_the_same():
    deaf = (
        "import signal, time; from retnet_bench import interrupts as i; i.GRACE_S = 0.05\n"
        "i.handle()\n"
        "while True:\n"
        "    try: signal.raise_signal(signal.SIGHUP); time.sleep(20)\n"
        "    except: pass"
    )
    run = python(deaf)
    run.communicate(timeout=10)
    assert run.returncode == 128 + signal.SIGHUP


def test_two_signals_at_once_are_one_interrupt():
    """The second would cut clearing up off."""
    words = (
        "import signal; from retnet_bench import interrupts as i; i.handle()\n"
        "with i.reporting([]):\n"
        "    try: signal.raise_signal(signal.SIGTERM)\n"
        "    finally: signal.raise_signal(signal.SIGHUP); print('cleared up')\n"
    )
    run = python(words)
    assert run.communicate(timeout=10) == ("cleared up\n", "interrupted: nothing was changed\n")
    assert run.returncode == 128 + signal.SIGTERM


def test_nohup_still_means_no_hang_up():
    words = (
        "import signal; from retnet_bench import interrupts as i\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); i.handle()\n"
        "signal.raise_signal(signal.SIGHUP); print('on')"
    )
    assert python(words).communicate(timeout=10)[0] == "on\n"


def test_held_signals_wait_and_a_process_started_meanwhile_is_deaf():
    words = (
        "import signal, subprocess, sys; from retnet_bench import interrupts as i; i.handle()\n"
        "child = 'import signal, os; os.kill(os.getpid(), signal.SIGTERM); print(1, flush=True)'\n"
        "try:\n"
        "    with i.deferred():\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        subprocess.run([sys.executable, '-c', child]); print(2, flush=True)\n"
        "    print(3, flush=True)\n"
        "except i.Interrupted: print(4)"
    )
    assert python(words).communicate(timeout=10)[0] == "1\n2\n4\n"


def test_every_verb_that_writes_says_what_is_left_and_no_other():
    verbs = set(get_command(cli.app).commands)
    assert interrupts.LEAVES.keys() <= verbs
    unchanging = verbs - interrupts.LEAVES.keys()
    assert unchanging == {"plan", "show", "status", "watch", "list", "env", "init", "report"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "gate"], "finished cells are kept, the same command resumes"),
        (["check", "gate", "--against", "main"], "no verdict; the same command measures anew"),
        (["bundle", "quickstart"], "no archive was written"),
        (["eval", "x", "--tasks", "piqa"], "scores of finished tasks are kept"),
        (["data", "get", "sotu"], "texts that were whole are kept"),
        (["--debug", "show", "runs"], "nothing was changed"),
    ],
)
def test_what_is_said_is_true_of_the_verb(arguments, said):
    assert re.match(f"interrupted: {said}", interrupts.words(arguments))
