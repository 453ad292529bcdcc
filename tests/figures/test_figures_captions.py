"""Captions: what a reader of the picture needs, in a few lines below everything that is drawn."""

from __future__ import annotations

import pandas as pd
import pytest

from retnet_bench.figures import FIGURES
from retnet_bench.figures.decode_position import _as_sure


@pytest.mark.parametrize("name", ["throughput", "fig6a", "fig6b", "fig6c", "decode_position"])
def test_a_caption_is_three_lines_at_most_and_on_the_page(records: pd.DataFrame, name: str) -> None:
    figure = FIGURES[name](records)
    caption = figure.texts[1]
    words = " ".join(caption.get_text().split())
    assert words.startswith("Measured on ")
    exact = name == "fig6a"
    assert ("Bars and bands: 95 % intervals." in words) != exact
    assert ("Memory is peak_tensor_bytes (exact)." in words) == exact
    assert caption.get_text().count("\n") <= 2
    box = caption.get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= min(ax.get_tightbbox().y0 for ax in figure.axes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.292, 0.265, 0.321), "+0.292 [+0.265, +0.321]"),
        ((0.000126, -0.00297, 0.00399), "+0.0001 [-0.0030, +0.0040]"),
        ((3.03, 2.948, 3.151), "+3.03 [+2.95, +3.15]"),
        ((41.4, 20.0, 70.0), "+41.40 [+20.00, +70.00]"),
        ((-0.00938, -0.026, -0.000144), "-0.0094 [-0.0260, -0.0001]"),
    ],
)
def test_a_slope_has_no_more_digits_than_its_interval(values, words) -> None:
    assert _as_sure(*values) == words


def test_a_slope_without_an_interval_says_so() -> None:
    nan = float("nan")
    assert _as_sure(0.5, nan, nan) == "+0.5 [no interval]"
