"""A study of recall from end to end: run, resumed, shown, drawn, and held against a second run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fakes import cells
from typer.testing import CliRunner

from retnet_bench.cli.main import app
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import read_records

TREE = Path(__file__).parents[2]
STUDY = cells.study(
    name="small",
    arms={
        "retention": {"mixer": "retention", "chunk": 8},
        "attention": {"mixer": "attention", "window": 4},
    },
    fixed={
        "size": "0.1M",
        "length": 16,
        "batch": 8,
        "steps": 3,
        "train_pairs": [2, 4],
        "vocabulary": 40,
        "test_sequences": 10,
        "rounds": 1,
        "threads": 1,
    },
    workloads=[{"workload": "recall", "axes": {"seed": [0]}}],
    figures=["recall"],
)


def call(folder: Path, *words: str, code: int = 0) -> str:
    env = os.environ | {"PYTHONPATH": str(TREE), "COLUMNS": "200"}
    command = [sys.executable, "-m", "retnet_bench", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("recall")
    (found / "s.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    lines = call(found, "run", "s.yaml", "--out", "out")
    assert lines.count("right of 2 pairs ") == 2
    assert "Recall (MQAR): % of queries answered right" in lines
    return found


def test_records_and_the_figure_are_there(folder):
    records = read_records(folder / "out")
    assert {*records["status"]} <= {*OK_STATUSES, "unavailable"}
    assert set(records["match"]) == {"none"}
    assert records["mismatch"].isna().all()
    scored = records[records["metric"] == "recall_queries"]
    assert set(scored["pairs"]) == {2, 4}
    assert set(scored["phase"]) == {"validate", "score"}
    assert {arm: set(g["n_layers"]) for arm, g in records.groupby("arm")} == {
        "retention": {2},
        "attention": {2},
    }
    held = records[records["metric"] == "sequence_state_bytes"].groupby("arm")["value"].first()
    assert held["attention"] == 2 * 64 * 4 + 4 * 2 * 64 * 4  # convolution, and a window of 4
    assert (folder / "out" / "figures" / "recall.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_is_there_is_not_run_again(folder):
    assert "right of" not in call(folder, "run", "s.yaml", "--out", "out", "--no-plot")


@pytest.mark.slow
def test_a_second_run_equals_it_exactly(folder, monkeypatch):
    call(folder, "run", "s.yaml", "--out", "second", "--no-plot")
    monkeypatch.chdir(folder)
    checked = CliRunner().invoke(app, ["check", "second", "--baseline", "out", "--exact"])
    assert checked.exit_code == 0
    frames = [read_records(folder / name) for name in ("out", "second")]
    answers = [
        f[f["metric"].str.startswith("recall_")].set_index(
            ["arm", "seed", "phase", "pairs", "metric"]
        )["value"]
        for f in frames
    ]
    assert len(answers[0]) == 2 * 2 * 2 * 3
    assert (answers[0].sort_index() == answers[1].sort_index()).all()


def test_a_study_that_cannot_be_is_one_line_and_exit_code_2(folder):
    """From the shell, for the exit code is `main`'s."""
    study = STUDY | {"fixed": STUDY["fixed"] | {"train_pairs": [5]}}
    (folder / "bad.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    said = call(folder, "run", "bad.yaml", "--out", "bad", code=2)
    assert said.count("\n") == 1
    assert "5 pairs don't fit in length 16: each pair needs 4 tokens" in said
    assert not (folder / "bad").exists()
