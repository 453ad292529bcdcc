"""The history's table: values in readable units, steps, and why none was looked for."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from retnet_bench.analysis.verdicts.history import Line, Run, Step
from retnet_bench.cli.main import app
from retnet_bench.report.history import history_table, steps_text, summary


def line(
    metric: str, values: list[float], *steps: Step, fingerprint="f00d", cell_json="{}"
) -> Line:
    about = dict.fromkeys(("size", "length", "batch"), pd.NA)
    about |= {"workload": "train", "metric": metric, "arm": "retnet"}
    about |= {"machine": "CPU [x]", "fingerprint": fingerprint, "cell_json": cell_json}
    points = pd.DataFrame({"run": range(len(values)), "estimate": values})
    return Line(about, points, 0.021, steps)


def test_values_are_in_units_and_steps_in_percent():
    lines = [
        line("train_step_s", [0.1, 0.1, 0.112, 0.112], Step(2, "abc1234", 1.12)),
        line("peak_tensor_bytes", [1e6, 2e6], Step(1, "def5678", 2.0), fingerprint="beef"),
    ]
    text = io.StringIO()
    Console(file=text, width=200, markup=False).print(history_table(lines))
    rows = [row.strip("│").split("│") for row in text.getvalue().splitlines() if row[0] == "│"]
    memory, time = ([cell.strip() for cell in row] for row in rows)
    assert time[-5:] == ["4", "100.0 ms", "112.0 ms", "2.1 %", "abc1234 +12 %"]
    assert memory[-5:] == ["2", "1.000 MB", "2.000 MB", "exact", "def5678 +100 %"]
    told = summary([Run("abc1234", pd.DataFrame())] * 2, lines)
    assert "2 machines, never compared with each other: f00d (CPU [x]), beef (CPU [x])" in told


def test_lines_that_look_alike_have_the_settings_in_which_they_differ():
    cells = ['{"seed": 0, "arm": "a", "steps": 9}', '{"seed": 1, "arm": "a", "steps": 9}']
    lines = [line("perplexity_per_byte", [2.0, 2.0], cell_json=cell) for cell in cells]
    table = history_table([*lines, line("train_step_s", [0.1, 0.1])])
    at = [column.header for column in table.columns].index("setting")
    assert sorted(table.columns[at].cells) == ["", "seed 0", "seed 1"]


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (line("train_step_s", [1.0, 2.0]), "needs 4 runs"),
        (line("train_step_s", [1.0] * 4), "none"),
        (line("weight_bytes", [1.0, 1.0]), "none"),
    ],
)
def test_no_steps_has_its_reason(made, text):
    assert steps_text(made) == text


def test_the_verb_has_an_example():
    done = CliRunner().invoke(app, ["history", "--help"])
    assert "Example: retnet-bench history" in done.output
