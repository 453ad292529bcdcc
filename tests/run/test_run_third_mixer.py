"""A mixer of an installed package as the third arm of a study: planned, run, recorded, listed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fakes import causal_mean, cells

from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import read_records

TREE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The package, and a study beside it."""
    folder = tmp_path_factory.mktemp("third")
    causal_mean.package(folder)
    arms = cells.study()["arms"] | {"mean": {"mixer": causal_mean.NAME, "expand": 2}}
    (folder / "s.yaml").write_text(yaml.safe_dump(cells.study(arms=arms), sort_keys=False))
    return folder


def call(folder: Path, *words: str) -> str:
    path = os.pathsep.join(map(str, (folder, TREE / "tests", TREE)))
    command = [sys.executable, "-m", "retnet_bench", *words]
    env = os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_is_run_beside_the_others_and_its_option_is_recorded(folder):
    call(folder, "run", "s.yaml", "--out", "out")
    records = read_records(folder / "out")
    assert set(records["arm"]) == {"retnet", "transformer", "mean"}
    assert {*records["status"]} <= {*OK_STATUSES, "unavailable"}
    mean = records[records["arm"] == "mean"]
    assert {json.loads(cell)["expand"] for cell in mean["cell_json"]} == {2}
    assert {*mean["d_value"]} == {128}
    assert mean[["chunk", "decay", "gate", "head_norm"]].isna().all(axis=None)
    agreements = mean.loc[mean["metric"] == "forms_relative_error", "value"]
    assert len(agreements)
    assert agreements.max() < 1e-4
    assert records.groupby("pair_id")["arm"].nunique().eq(3).all()


def test_its_option_is_listed(folder):
    lines = [
        line
        for line in call(folder, "list", "models").splitlines()
        if "│ mean " in line and "expand" in line
    ]
    assert [line.count("integer above 0, at most 8") for line in lines] == [1]
