"""The cost model's points stand in the paper's panel and can't be taken for anyone's points."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench import paper
from retnet_bench.figures import FIGURES

NAMES = {  # what the caption and the legend call the points
    "fig6a": "weights and state",
    "fig6b": "bandwidth ceiling",
    "fig6c": "bandwidth floor at length 8192",
    "table4": "compute ceiling",
}


@pytest.fixture(scope="module")
def drawn(records: pd.DataFrame) -> dict[str, Figure]:
    return {name: FIGURES[name](records) for name in NAMES}


def predicted(ax: Axes) -> dict[str, Line2D]:
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    return {k.removeprefix("predicted "): v for k, v in lines.items() if k.startswith("predicted")}


@pytest.mark.parametrize("name", NAMES)
def test_only_the_paper_s_panel_has_them_open_and_dotted(drawn, name: str) -> None:
    panels = drawn[name].axes
    assert [len(predicted(ax)) for ax in panels] == [0, 2, 0, 0][: len(panels)]
    for line in predicted(panels[1]).values():
        assert line.get_markerfacecolor() == "none"
        assert line.get_linestyle() == ":"


@pytest.mark.parametrize("name", NAMES)
def test_legend_and_caption_say_so(drawn, name: str) -> None:
    legend = [text.get_text() for text in drawn[name].legends[0].get_texts()]
    assert {f"{arm}, predicted {NAMES[name]}" for arm in ("retnet", "transformer")} < set(legend)
    caption = " ".join(drawn[name].texts[1].get_text().split())
    assert f"Open markers right: {NAMES[name]} predicted by our cost model" in caption
    assert "for the paper's machine; not measured." in caption


@pytest.mark.parametrize(("name", "x"), [("fig6a", "length"), ("fig6b", "length")])
def test_the_points_are_those_of_the_file(drawn, name: str, x: str) -> None:
    frame = paper.predicted(name)
    for arm, line in predicted(drawn[name].axes[1]).items():
        mine = frame[frame["arm"] == arm]
        assert list(line.get_xdata()) == list(mine[x])
        assert list(line.get_ydata()) == list(mine["value"])


def test_fig6c_shows_the_floor_of_the_longest(drawn) -> None:
    lines = predicted(drawn["fig6c"].axes[1])
    assert list(lines["transformer"].get_xdata()) == list(range(1, 9))
    assert lines["transformer"].get_ydata()[-1] == pytest.approx(23.4, abs=0.1)
    assert lines["retnet"].get_ydata()[-1] == pytest.approx(7.6, abs=0.1)


def test_table4_s_ceilings_stand_at_the_paper_s_sizes(drawn) -> None:
    ax = drawn["table4"].axes[1]
    sizes = sorted(paper.load("table4").frame["n_params"].unique())
    for line in predicted(ax).values():
        assert list(line.get_xdata()) == sizes
        assert ax.get_ylim()[1] > max(line.get_ydata())


@pytest.mark.parametrize("name", NAMES)
def test_they_are_inside_the_panel(drawn, name: str) -> None:
    ax = drawn[name].axes[1]
    low, high = ax.get_ylim()
    for line in predicted(ax).values():
        assert all(low < y < high for y in line.get_ydata())
