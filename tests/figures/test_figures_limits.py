"""Axes follow the points: an interval, however wide, neither stretches nor hides them."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from golden.records import blocks, frame
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retnet_bench.figures import FIGURES, axes, style

NAMES = ("ret$net_a$", "a^b_c\\\\frac", "_hidden", "x\x1b]0;T\x07\ufffe")


def bars(low: float, high: float, along: str = "y", scale: str = "linear") -> Axes:
    ax: Axes = Figure().subplots()
    ends = {f"{along}err": [[2.0 - low], [high - 2.0]]}
    ax.errorbar([1.0, 2.0], [2.0, 2.0], yerr=None)
    ax.errorbar([2.0], [2.0], **ends)
    getattr(ax, f"set_{along}scale")(scale)
    axes.by_points(ax, along)  # type: ignore[arg-type]
    return ax


@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_wide_interval_is_cut_and_marked(along, scale):
    ax = bars(1e-12, 1.4e12, along, scale)
    low, high = getattr(ax, f"get_{along}lim")()
    assert -1 < low < 2 < high < 5
    before = len(ax.lines)
    assert axes.mark_cut(ax)
    assert len(ax.lines) == before + (low > 1e-12) + (high < 1.4e12)


def test_an_interval_near_the_points_is_drawn_whole():
    ax = bars(1.5, 2.5)
    low, high = ax.get_ylim()
    assert low < 1.5 < 2.5 < high
    assert not axes.mark_cut(ax)


def test_a_point_without_an_interval_is_drawn_and_said():
    rows = [
        row
        for length, levels in ((512, (0.1, 9.0)), (1024, (0.2, 30.0)))
        for row in blocks("train_step_s", "retnet", levels, length=length)
    ]
    figure = FIGURES["throughput"](frame(rows))
    ours = figure.axes[0]
    assert "Points without a bar have no interval: fewer than 4 blocks or documents." in " ".join(
        text.get_text().replace("\n", " ") for text in figure.texts
    )
    assert ours.get_ylim()[1] < 3 * max(np.nanmax(line.get_ydata()) for line in ours.lines[:1])


def test_names_are_drawn_to_the_letter(tmp_path):
    rows = [row for name in NAMES for row in blocks("train_step_s", name, [0.1] * 4)]
    rows += [row | {"length": 1024} for row in rows]
    figure = FIGURES["throughput"](frame(rows))
    said = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {style.name(name) for name in NAMES} <= said
    path = style.save(figure, tmp_path / "a.svg")
    ElementTree.parse(path)
    style.save(figure, tmp_path / "a.png")
