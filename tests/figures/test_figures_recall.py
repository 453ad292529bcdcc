"""The figure of recall: twelve arms that can be told apart, and what failed among them."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest
from fakes import scored
from golden.records import failure, frame
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES, style

SHARES = {
    "retention": 0.81,
    "attention": 0.98,
    "attention_window": 0.04,
    "gated_retention": 0.82,
    "mamba2": 0.87,
    "deltanet": 0.98,
    "gated_deltanet": 0.97,
    "gla": 0.77,
    "linear_attention": 0.91,
    "rwkv4": 0.03,
    "h3": 0.04,
    "hyena": 0.02,
}


def rows(seeds: int = 3) -> list:
    return [
        row
        for i, (arm, share) in enumerate(SHARES.items())
        for row in scored.recall(
            {arm: {1e-3: share / 3, 3e-3: share, 1e-2: share * 0.9}}, seeds, state=1000 * (i + 2)
        )
    ]


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return frame(rows())


@pytest.fixture(scope="module")
def drawn(records: pd.DataFrame) -> Figure:
    return FIGURES["recall"](records)


def test_arms_are_told_apart_without_colour():
    looks = style.arm_styles(SHARES).values()
    assert len({look.marker for look in looks}) == len(SHARES)
    lines = {(look.color, look.linestyle) for look in looks}
    assert len(lines) == len(SHARES)


def test_each_arm_is_a_line_at_its_best_rate_with_its_name_beside_it(drawn):
    ax = drawn.axes[0]
    found = {bars.get_label(): bars.lines[0] for bars in ax.containers}
    assert set(found) == set(SHARES)
    for arm, line in found.items():
        assert line.get_xdata().tolist() == [4, 8, 16]
        assert line.get_ydata()[-1] == pytest.approx(100 * SHARES[arm])
    panel = 72 * ax.get_position().height * drawn.get_figheight()
    named = {text.get_text(): text.xy[1] + text.xyann[1] / panel for text in ax.texts}
    assert set(named) == set(SHARES)
    heights = sorted(named.values())
    assert min(b - a for a, b in pairwise(heights)) > 0.04
    assert heights[0] >= -0.05
    assert heights[-1] <= 1.05


def test_the_other_rates_stand_small_and_open_beside_the_state(drawn):
    ax = drawn.axes[1]
    best = {bars.get_label(): bars.lines[0] for bars in ax.containers}
    assert best["attention"].get_xdata().tolist() == [3.0]  # kB
    small = {line.get_label(): line for line in ax.lines}["retention, other rates"]
    assert sorted(small.get_ydata()) == pytest.approx([27.0, 72.9])
    assert to_hex(small.get_markerfacecolor(), keep_alpha=True) == "#00000000"
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert set(legend) == {*SHARES, "other learning rates"}


def test_nothing_is_clipped_or_overlaps(drawn):
    drawn.draw_without_rendering()
    for box in (item.get_window_extent() for item in (*drawn.texts, *drawn.legends)):
        assert 0 <= box.x0 <= box.x1 <= drawn.bbox.x1
        assert 0 <= box.y0 <= box.y1 <= drawn.bbox.y1
    left, right = (ax.get_tightbbox() for ax in drawn.axes)
    assert left.x1 <= right.x0


def test_what_failed_is_an_open_marker(records):
    about = {"size": "a", "seed": 0, "learning_rate": 1e-3, "cell_id": "lost"}
    lost = frame([*rows(), failure("rwkv7", "recall", "diverged", **about)])
    ax = FIGURES["recall"](lost).axes[0]
    assert [t.get_text() for t in ax.texts if "diverged" in t.get_text()] == ["diverged"] * 3


def test_of_several_sizes_of_state_the_right_panel_joins_the_points():
    several = []
    for key_dim in (16, 32):
        arms = {"retention": {3e-3: key_dim / 40}, "gla": {3e-3: key_dim / 50}}
        for row in scored.recall(arms, state=512 * key_dim, key_dim=key_dim):
            several.append(row | {"cell_id": f"{row['cell_id']}-{key_dim}"})
    figure = FIGURES["recall"](frame(several))
    joined = {bars.get_label(): bars.lines[0] for bars in figure.axes[1].containers}
    assert joined["gla"].get_xdata().tolist() == [8.192, 16.384]
    assert len(figure.axes[0].containers) == 2
    assert "Left: key dim 32." in " ".join(
        " ".join(text.get_text() for text in figure.texts).split()
    )


def test_one_seed_and_one_arm_draw():
    FIGURES["recall"](frame(rows(seeds=1)))
    FIGURES["recall"](frame(scored.recall({"gla": {3e-3: 0.5}}, seeds=1)))


def test_what_the_records_lack_is_named():
    with pytest.raises(UserError, match="needs metric recall_correct of workload recall"):
        FIGURES["recall"](frame(scored.sweep()))
