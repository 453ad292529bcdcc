"""Standard output that cannot be written, in any encoding: the exit code says so, nothing else."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from retnet_bench import streams
from retnet_bench.streams import FaultTolerantStream
from retnet_bench.terminal import Terminal

GOLDEN = Path(__file__).parent / "golden" / "v2_small.parquet"
PYTHON = [sys.executable, "-m", "retnet_bench"]


def shell(command: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` in sh, where "$@" is retnet-bench with `words`."""
    line = ["sh", "-c", command, "sh", *PYTHON, *words]
    env = os.environ | environment
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=env)


@pytest.mark.parametrize(
    ("command", "code"),
    [('"$@" >&-', 70), ('"$@" > /dev/full', 70), ('"$@" 2>&-', 0), ('"$@" <&-', 0)],
)
def test_an_output_that_cannot_be_written_is_70_and_one_line(command, code):
    done = shell(command, "show", str(GOLDEN))
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == (code == 70)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("show", str(GOLDEN)), ("--help",)])
def test_a_reader_that_leaves_is_141_without_a_word(words):
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([*PYTHON, *words], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (141, b"")


def test_a_mistake_stays_a_mistake_whoever_reads():
    done = shell('"$@" > /dev/full', "show", "nowhere")
    assert done.returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_can_show_tables(encoding):
    done = subprocess.run(
        [*PYTHON, "show", str(GOLDEN)],
        capture_output=True,
        timeout=120,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    assert "ms per 1,000 tokens" in done.stdout.decode(encoding)


def test_a_terminal_that_hung_up_does_not_end_the_program():
    master, slave = pty.openpty()
    out = FaultTolerantStream(os.dup(slave), "w")
    os.close(slave)
    os.close(master)
    text = io.TextIOWrapper(io.BufferedWriter(out), "utf-8", line_buffering=True)
    terminal = Terminal(file=text, force_terminal=True)
    terminal.print("a line")
    with terminal.status("working"):
        terminal.print("another")
    assert isinstance(out.error, OSError)


def test_a_slow_reader_that_does_not_block_gets_everything():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = "import sys, time; time.sleep(0.3); print(len(sys.stdin.buffer.read()))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=reader, stdout=subprocess.PIPE, text=True
    ) as process:
        os.close(reader)
        stream = FaultTolerantStream(writer, "w")
        assert stream.write(b"x" * 1_000_000) == 1_000_000
        stream.close()
        read, _ = process.communicate(timeout=60)
    assert (stream.error, int(read)) == (None, 1_000_000)


def test_what_is_complained_of_cannot_command_a_terminal(capsys):
    streams.complain("no arm \x1b]0;T\x07\nsecond line")
    assert capsys.readouterr().err == "retnet-bench: no arm \\x1b]0;T\\x07\\nsecond line\n"


def test_tables_print_names_to_the_letter():
    from rich.table import Table

    shown = io.StringIO()
    table = Table("name\x1b", title="\x07title")
    table.add_row("\x1b]0;T\x07 [bold]x[/bold] \u202e\ufffe")
    Terminal(file=shown, width=140, markup=False, emoji=False).print(table, "\x9bm")
    said = shown.getvalue()
    assert "\\x1b]0;T\\x07 [bold]x[/bold] \\u202e\\ufffe" in said
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\ufffe"} & set(said)
