"""Lines that are told to a figure stand at the end of its caption, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from retnet_bench import figures
from retnet_bench.figures import FIGURES

NOTE = "Claim faster: at least 8.4 x, ours 5.28 x [4.97, 6.26]: does not hold."


@pytest.mark.parametrize("name", ["fig6b", "decode_position", "fig6a"])
def test_the_caption_ends_with_the_notes(records: pd.DataFrame, name: str) -> None:
    figure = FIGURES[name](records, [NOTE, NOTE])
    assert figure.texts[1].get_text().endswith(f"\n{NOTE}\n{NOTE}")
    box = figure.texts[1].get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= min(ax.get_tightbbox().y0 for ax in figure.axes)


def test_one_figure_s_notes_are_not_the_next_one_s(records: pd.DataFrame) -> None:
    FIGURES["fig6b"](records, [NOTE])
    assert NOTE not in FIGURES["fig6b"](records).texts[1].get_text()


def test_plot_gives_each_figure_its_own(records: pd.DataFrame, tmp_path: Path) -> None:
    names = ["fig5", "throughput"]
    plain = figures.plot(records, names, tmp_path / "a", formats=("svg",))
    noted = figures.plot(
        records, names, tmp_path / "b", formats=("svg",), notes={"throughput": [NOTE]}
    )
    same = [a.read_bytes() == b.read_bytes() for a, b in zip(plain, noted, strict=True)]
    assert same == [True, False]
