"""Chosen values as table, CSV, JSON and Markdown: what one program writes another reads."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from golden.records import blocks, failure, frame
from rich.console import Console

from retnet_bench.base import UserError
from retnet_bench.report import values


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    rows = [
        row
        for length in (512, 1024)
        for arm, factor in (("retnet", 1e-6), ("transformer", 2e-6))
        for row in blocks("train_step_s", arm, [factor * length] * 4, length=length)
    ]
    rows.append(failure("transformer", "train", "oom", length=4096))
    return frame(rows)


def test_csv_reads_back(records):
    text = values.chosen(records, ["arm,length,metric,estimate,status"], "csv")
    read = pd.read_csv(io.StringIO(str(text)))
    assert list(read) == ["arm", "length", "metric", "estimate", "status"]
    steps = read[read["metric"] == "train_step_s"].set_index(["arm", "length"])["estimate"]
    assert steps["transformer", 1024] == 2e-6 * 1024  # every digit
    assert read["status"].tolist().count("oom") == 1


def test_json_is_a_list_of_objects_with_null_for_what_is_not_there(records):
    rows = json.loads(str(values.chosen(records, ["arm", "length", "estimate"], "json")))
    assert {"arm": "transformer", "length": 4096, "estimate": None} in rows
    assert len(rows) == 5


def test_markdown_is_a_table_whose_cells_escape_its_rules(records):
    odd = records.assign(arm="a|b")
    lines = str(values.chosen(odd, ["arm", "length"], "markdown")).split("\n")
    assert lines[0] == "| arm | length |"
    assert lines[2] == "| a\\|b | 512 |"


def test_without_columns_those_that_tell_values_apart(records):
    text = shown(values.chosen(records, None, "table"))
    assert "value [95 % interval]" in text
    assert "2.048 [2.048, 2.048]" in text
    assert "oom" in text
    header = str(values.chosen(records, None, "csv")).split("\n")[0].split(",")
    assert {"arm", "metric", "length", "estimate", "low", "high", "unit"} <= set(header)
    assert "mixer" not in header


def test_an_unknown_format_suggests():
    with pytest.raises(UserError, match='unknown format "jsn"; did you mean "json"'):
        values.check_format("jsn")


def test_side_by_side_names_both_machines_and_no_ratio_across(records):
    other = records.assign(machine="Other CPU")
    parts = values.compared(("here", "there"), (records, other))
    text = "\n".join(map(shown, parts))
    assert "1: here: Test CPU" in text
    assert "2: there: Other CPU" in text
    assert text.count("0.5000") >= 2
    assert "What was not measured side by side has no ratio." in text


def shown(part: object) -> str:
    said = io.StringIO()
    Console(file=said, width=160).print(part)
    return said.getvalue()
