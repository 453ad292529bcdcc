"""The gate's outputs, and the verb `check` as a stranger types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from golden.records import blocks, failure, frame
from rich.console import Console

from retnet_bench.analysis.tables import floor
from retnet_bench.analysis.verdicts import gate, gate_report
from retnet_bench.analysis.verdicts.decision import Policy
from retnet_bench.base import UserError
from retnet_bench.figures import gate as picture
from retnet_bench.report import gate as shown
from retnet_bench.results.store import Store


def side(run: str, factor: float = 1.0, seed: int = 0) -> list[dict]:
    rows: list[dict] = []
    for i, length in enumerate((256, 512)):
        random = np.random.default_rng(seed + i)
        levels = 0.1 * (factor if i else 1.0) * random.lognormal(sigma=0.01, size=12)
        rows += blocks("train_step_s", "retnet", levels, length=length, run_id=run)
    return rows


@pytest.fixture(scope="module")
def report() -> gate_report.Report:
    lost = failure("transformer", "train", "oom") | {"reason": "a | b <c> \x1b[31m"}
    mine = [*side("a", 1.2), lost | {"run_id": "a"}]
    theirs = [*side("a", seed=5), lost]
    floors = floor.unknown("no self-test")
    return gate.compare(frame(mine), frame(theirs), floors, Policy())


def test_junit_counts_what_it_holds(report):
    suite = ElementTree.fromstring(shown.junit(report))
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases) == len(report.rows)
    for name, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert len(suite.findall(f"testcase/{name}")) == int(suite.get(key))
    (failed,) = suite.findall("testcase/failure")
    assert "100.6 ms -> 120.4 ms" in failed.get("message")


def test_markdown_is_a_table_that_reasons_cannot_break(report):
    text = shown.markdown(report)
    assert text.startswith("## Gate: regression\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {len(shown.HEADER) + 1}
    assert "&lt;c>" in text
    assert "Test CPU" in text


def test_json_is_strict_and_whole(report):
    read = json.loads(shown.as_json(report))
    assert (read["outcome"], read["exit_code"]) == ("regression", 1)
    assert len(read["rows"]) == len(report.rows)
    timed = [row for row in read["rows"] if row["figure"] == "train_step_s"]
    assert timed[0]["ratio"] == pytest.approx(1.2, rel=0.02)


def test_the_terminal_table_has_every_row_that_did_not_pass(report):
    console = Console(width=200, record=True, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shown.table(report))
    text = console.export_text()
    assert "regression" in text
    assert "train_step_s" in text
    assert "n_params" not in text  # exact figures that passed are only counted


def test_the_figure_has_a_point_and_a_limit_for_every_ratio(report):
    page = picture.draw(report)
    (ax,) = page.axes
    assert [label.get_text().split()[3:5] for label in ax.get_yticklabels()] == [
        ["length", "256"],
        ["length", "512"],
    ]
    words = " ".join(text.get_text() for text in page.texts)
    assert "Gate: regression" in words
    assert "2 of 2 ratios from interleaved blocks" in words.replace("\n", " ")
    assert picture.draw(gate_report.Report([], Policy())) is None


@pytest.mark.parametrize("limit", [0.0, -1, 1.0, float("nan")])
def test_a_limit_must_make_sense(limit):
    with pytest.raises(UserError, match="must be between 0 and 1"):
        Policy(limit=limit)


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retnet_bench", "check", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_check_writes_its_reports_and_exits_by_the_outcome(tmp_path):
    Store(tmp_path / "mine").append(side("a", 1.2), "x")
    Store(tmp_path / "base").append(side("a", seed=5), "x")
    done = call(tmp_path / "mine", "--baseline", tmp_path / "base", "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "regression: 1 regression" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"gate.md", "gate.xml", "gate.json", "gate.svg", "gate.png"}
    done = call(tmp_path / "mine", "--baseline", tmp_path / "base", "--exact")
    assert done.returncode == 0, done.stderr


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    Store(tmp_path / "mine").append(side("a"), "x")
    (tmp_path / "empty").mkdir()
    for words, said in (
        ((tmp_path / "mine", "--baseline", tmp_path / "nowhere"), "no results at"),
        ((tmp_path / "mine", "--baseline", tmp_path / "empty"), "no records in"),
        ((tmp_path / "mine", "--baseline", tmp_path / "mine"), "nothing would be compared"),
        ((tmp_path / "mine", "--baseline", __file__), Path(__file__).name),
    ):
        with pytest.raises(UserError) as raised:
            shown.check(Path(words[0]), Path(words[2]), Policy())
        assert said in str(raised.value)
        assert "\n" not in str(raised.value)
    done = call(tmp_path / "mine", "--baseline", tmp_path / "mine")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_baseline_of_a_newer_schema_is_refused(tmp_path, monkeypatch):
    from retnet_bench.results import part

    Store(tmp_path / "mine").append(side("a"), "x")
    Store(tmp_path / "base").append(side("b"), "x")
    newer = part.SCHEMA_VERSION - 1
    monkeypatch.setattr(part, "SCHEMA_VERSION", newer)
    with pytest.raises(UserError, match=f"this retnet-bench reads up to {newer}"):
        shown.check(tmp_path / "mine", tmp_path / "base", Policy())
