"""Results in which no cell of a study gave a number are read by every verb that reads results."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.failed import failed, write
from typer.testing import CliRunner

from retnet_bench.cli import main as cli
from retnet_bench.figures import FIGURES
from retnet_bench.report.page import library
from retnet_bench.results.store import read_records

RESULTS = Path(__file__).parents[2] / "results"


def done(*words: object) -> str:
    """What a verb prints, which ends well."""
    found = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


@pytest.mark.parametrize("status", ["diverged", "unsupported"])
def test_show_and_report_say_that_nothing_was_measured(tmp_path, monkeypatch, status):
    """An unsupported cell has no model, and so no number of parameters to stand at in a chart."""
    monkeypatch.setattr(library, "script", lambda: "")
    folder = write(failed(read_records(RESULTS / "quickstart"), status=status), tmp_path / "r")
    assert "nothing measured" in done("show", folder)
    done("report", folder, "--out", tmp_path / "page.html")


def test_an_arm_of_which_every_cell_failed_keeps_its_row_in_the_figure():
    records = read_records(RESULTS / "contenders")
    lost = records["arm"] == "mamba2"
    figure = FIGURES["published"](failed(records, lost, "unsupported"))
    rows = {text.get_text() for ax in figure.axes for text in ax.get_yticklabels()}
    assert "mamba2" in rows
