"""Mixers and kernels that installed packages bring along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
SOFT = """
from retnet_bench.models.mixers.attention import Attention

class Twin(Attention):
    \"\"\"Attention by another name.\"\"\"
"""


def package(folder: Path, group: str, name: str, code: str = SOFT) -> Path:
    """A package `mine` as pip installs it, with one entry point."""
    (folder / "mine.py").write_text(code)
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = mine:Twin\n")
    return folder


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(TREE)])
    command = [sys.executable, "-m", "retnet_bench", *words]
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)


def test_a_package_s_mixer_is_planned_like_those_that_come_with_us(tmp_path):
    package(tmp_path, "retnet_bench.mixers", "twin")
    study = (
        "name: mine\nquestion: does it run?\nfixed: {size: 0.1M, corpus: random, "
        "tokenizer: 'random:64', length: 64}\nworkloads: [{workload: train}]\n"
        "arms:\n  twin: {mixer: twin, kernel: math}\n  transformer: {mixer: attention}\n"
    )
    (tmp_path / "s.yaml").write_text(study)
    done = call(tmp_path, "plan", "s.yaml", "--on", "h100-80gb")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if "0.1M" in line]
    assert any("twin" in row and "math" in row for row in rows)


@pytest.mark.parametrize(
    ("group", "name", "code", "said"),
    [
        (
            "retnet_bench.mixers",
            "twin",
            "import nothing_of_this_name",
            "can't be loaded: No module named 'nothing_of_this_name'; mend or uninstall it",
        ),
        ("retnet_bench.mixers", "attention", SOFT, "there is a mixer of this name already"),
        ("retnet_bench.kernels", "math", SOFT, "there is a kernel of this name already"),
    ],
)
def test_a_package_that_does_not_fit_is_named_in_one_line(tmp_path, group, name, code, said):
    package(tmp_path, group, name, code)
    done = call(tmp_path, "list", "models")
    assert done.returncode == 2
    assert done.stderr == f"retnet-bench: mine, entry point {group}: {name}: {said}\n"
