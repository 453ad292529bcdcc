"""What is shown in words: digits that the numbers bear, and tables that lose nothing."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest
from fakes import scored
from golden.records import blocks, failure, frame, small_study
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from retnet_bench.report import quality
from retnet_bench.report.numbers import interval, quantity, seconds, size_bytes
from retnet_bench.report.tables import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12340, "12,340"),
        (math.pi, "3.142"),
        (0.0123456, "0.01235"),
        (0.99996, "1.0000"),
        (999.96, "1,000.0"),
        (0.00012, "0.00012"),
        (1.5e-7, "1.5e-07"),
        (-2.5, "-2.500"),
        (0, "0"),
        (0.0, "0"),
        (float("nan"), "not measured"),
    ],
)
def test_quantity(value, text):
    assert quantity(value) == text


@given(st.floats(1e-30, 1e15), st.sampled_from([1, -1]))
def test_quantity_keeps_at_least_three_digits(value, sign):
    shown = float(quantity(sign * value).replace(",", ""))
    assert shown == pytest.approx(sign * value, rel=5e-3)


def test_interval_says_when_there_is_none():
    row = pd.Series({"estimate": 2.0, "low": 1.5, "high": 2.5})
    assert interval(row) == "2.000 [1.500, 2.500]"
    assert interval(row, 1e3) == "2,000 [1,500, 2,500]"
    nothing = float("nan")
    assert interval(row.replace(1.5, nothing)) == ("2.000 [no interval]")
    assert interval(row.replace(2.0, nothing)) == "not measured"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.24, "8.2 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_seconds(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_500_000, "1.5 MB"), (80e9, "80 GB")],
)
def test_size_bytes_are_decimal(value, text):
    assert size_bytes(value) == text


def text(table: Table | None) -> str:
    """A table as it is printed."""
    assert table is not None
    file = io.StringIO()
    Console(file=file, width=200, markup=False).print(table)
    return file.getvalue()


def shown(records: pd.DataFrame) -> dict[str, str]:
    """Text of each table, by title."""
    return {str(table.title): text(table) for table in tables(records)}


def rows_of(table: str) -> list[list[str]]:
    lines = (line for line in table.splitlines() if line.startswith("│"))
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_every_kind_of_result_has_its_table():
    found = shown(frame(small_study()))
    assert set(found) == {
        "Training throughput",
        "Decode latency",
        "Peak memory",
        "Perplexity on held-out documents",
        "Quality joined to speed",
        "Inside each pair: first arm / second arm",
        "Crossovers",
        "Not measured",
    }


def test_throughput_is_tokens_over_the_median_step():
    """A batch of 2 x 512 tokens in 0.1 s a step, and in twice that for the Transformer."""
    table = rows_of(shown(frame(small_study()))["Training throughput"])
    found = {(row[0], row[1]): row[2].split()[0] for row in table}
    assert found["retnet", "512"] == "10,240"
    assert found["transformer", "512"] == "5,120"


def test_a_failure_is_shown_with_status_and_reason_as_it_stands():
    lost = failure("[/x]", "train", "oom") | {"reason": "tried [/proc] and [cpu], in vain"}
    records = frame([*blocks("train_step_s", "retnet", [0.1, 0.2, 0.3]), lost])
    (row,) = rows_of(shown(records)["Not measured"])
    assert row[1] == "[/x]"
    assert row[-2:] == ["oom", "tried [/proc] and [cpu], in vain"]


def test_records_without_a_measurement_have_one_table():
    records = frame([failure("retnet", "train", "oom"), failure("transformer", "train", "crash")])
    assert set(shown(records)) == {"Not measured"}


def test_the_tables_of_quality():
    rows = [*scored.scaling(), *scored.contexts({"retnet": 0.05}), *scored.speeds()]
    found = shown(frame(rows))
    assert {
        "Scaling laws: loss = E + A x^-alpha",
        "Perplexity against the length of context",
        "Quality joined to speed",
    } <= set(found)
    laws = rows_of(found["Scaling laws: loss = E + A x^-alpha"])
    assert [row[:3] for row in laws[:1]] == [["parameters", "1,000,000 tokens", "retnet"]]
    assert "0.983M parameters [" in " ".join(found["Scaling laws: loss = E + A x^-alpha"].split())
    context = rows_of(found["Perplexity against the length of context"])
    assert [row[-2] for row in context] == ["", "", "", "13.09", "12.14"]
    (joined,) = [r for r in rows_of(found["Quality joined to speed"]) if r[:2] == ["retnet", "c"]]
    assert joined[-1] == "3"
    assert all("[" in cell for cell in joined[2:6])


def test_ablations_stand_beside_the_paper_s():
    table = {row[0]: row for row in rows_of(text(quality.ablations(frame(scored.ablations()))))}
    assert table["no_decay"][4] == "6.948"  # 27.86 / 26.05
    assert table["eq8_decay"][4] == ""
    assert "retnet" not in table
    pair = [row for row in scored.ablations() if row["arm"] in ("retnet", "transformer")]
    assert quality.ablations(frame(pair)) is None  # a pair has its own table


def test_laws_that_cannot_be_fitted_say_why():
    rows = scored.scaling(seeds=1, sizes=("a", "b", "c", "d"))
    mixed = [row | {"length": 1024} if row["size"] == "a" else row for row in rows]
    (row,) = rows_of(text(quality.scaling_laws(frame(mixed))))
    assert "need one length" in row[0]
