"""The schema's declarations, the page written from them, and the golden part of each version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from golden.records import FOLDER
from results_page import write_documentation

from retnet_bench.results.schema import (
    COLUMNS,
    METRICS,
    NAMES,
    OK_STATUSES,
    SCHEMA_VERSION,
    STATUSES,
)
from retnet_bench.results.store import read_records

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
UNITS = ("s", "bytes", "nat", "steps", "tokens", "mhz", "w", "c", "bits", "j")


def test_each_name_is_declared_once_with_a_meaning():
    assert len(set(NAMES)) == len(NAMES)
    assert all(column.meaning for column in COLUMNS)
    assert set(OK_STATUSES) < set(STATUSES)


def test_the_name_of_a_metric_ends_in_its_unit():
    for name, metric in METRICS.items():
        ending = name.rsplit("_", 1)[-1]
        assert metric.unit == (ending if ending in UNITS else metric.unit)


def test_the_page_is_the_generated_one():
    assert PAGE.read_text() == write_documentation(), (
        "run: python docs/build/results_page.py > docs/results.md"
    )


def test_the_page_names_every_column_metric_and_unit():
    text = write_documentation()
    for item in (*COLUMNS, *METRICS.values()):
        assert f"| `{item.name}` |" in text


def test_the_page_is_written_by_its_command():
    command = [sys.executable, "docs/build/results_page.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PAGE.parents[1])
    assert done.stdout == write_documentation()


@pytest.fixture(scope="module", params=range(1, SCHEMA_VERSION + 1))
def snippets(request, tmp_path_factory) -> dict[str, object]:
    """The names left by running the page's snippets, in order, on the golden part of a layout."""
    folder = tmp_path_factory.mktemp("snippets")
    (folder / "results/quickstart/records").mkdir(parents=True)
    golden = FOLDER / f"v{request.param}_small.parquet"
    shutil.copy(golden, folder / "results/quickstart/records")
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
            exec(compile(code, "docs/results.md", "exec"), names)
    return names


def test_the_snippets_run_on_a_study_that_neither_trains_for_time_nor_decodes(monkeypatch, capsys):
    monkeypatch.chdir(PAGE.parents[1])
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(code.replace("quickstart", "table5"), "docs/results.md", "exec"), names)
    assert names["bits_per_byte"].index.get_level_values("arm")[0] == "h3"
    assert names["slope_us"].empty


def test_the_snippets_give_the_known_answers(snippets):
    rates = snippets["tokens_per_s"]
    assert rates.loc[512, "retnet"] == pytest.approx(2 * 512 / 0.1)
    assert rates.loc[1024, "transformer"] == pytest.approx(2 * 1024 / 0.4)
    slopes = snippets["slope_us"]
    assert slopes["retnet", 1024, 2] == pytest.approx(0, abs=1e-9)
    assert slopes["transformer", 1024, 2] == pytest.approx(1.0)
    bits = snippets["bits_per_byte"]
    assert bits["retnet", "1m"] == pytest.approx(120 / np.log(2) / 200)
    failed = snippets["failed"]
    assert failed["status"].tolist() == ["oom"]


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_version_stays_readable_value_by_value(version):
    """If this fails, the schema changed: raise SCHEMA_VERSION and add a migration."""
    table = read_records(FOLDER / f"v{version}_small.parquet")
    assert list(table.columns) == NAMES
    assert len(table) == 50
    steps = table[(table["metric"] == "train_step_s") & (table["arm"] == "transformer")]
    assert steps["value"].tolist() == pytest.approx([0.198, 0.2, 0.202, 0.396, 0.4, 0.404])
    assert steps["samples"].iloc[1].tolist() == [0.2, 0.1, 0.4]
    assert steps["block"].tolist() == [0, 1, 2, 0, 1, 2]
    assert table.loc[table["metric"] == "peak_tensor_bytes", "value"].tolist() == [2.0**40, 2.0**41]
    curve = table[(table["metric"] == "decode_step_s") & (table["arm"] == "transformer")]
    assert curve["position"].tolist() == [1] * 3 + [512] * 3 + [1024] * 3
    assert curve["value"].unique().tolist() == pytest.approx([0.005001, 0.005512, 0.006024])
    nll = table[table["metric"] == "document_nll_nat"]
    assert nll["document"].tolist() == ["2001", "2002"] * 2
    assert nll["value"].tolist() == [50.0, 70.0, 100.0, 140.0]
    lost = table[table["status"] == "oom"].iloc[0]
    assert (lost["arm"], lost["length"], lost["stderr_tail"]) == (
        "transformer",
        2048,
        "the last line",
    )
    assert pd.isna(lost["value"])
    assert lost["recorded_at"] == pd.Timestamp("2026-01-02 03:04:05", tz="UTC")
