"""What docs/cli.md shows of the committed results is what the command prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retnet_bench.cli import main as cli

ROOT = Path(__file__).parents[2]
SHOWN = re.findall(
    r"^\$ retnet-bench (show results/.*)\n((?:.*\n)*?)```",
    (ROOT / "docs" / "cli.md").read_text(),
    re.MULTILINE,
)


def test_there_is_one():
    assert SHOWN


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_the_output_is_what_the_command_prints(monkeypatch, command, output):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(cli.app, shlex.split(command))
    assert done.exit_code == 0
    assert done.stdout == output
