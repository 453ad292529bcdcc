"""Figures of scaling laws, isoFLOP curves and accuracy: what they draw, and why they do not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from fakes import scored
from golden.records import frame
from matplotlib.figure import Figure

from retnet_bench.analysis.tables import accuracy
from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES

NAMES = ("scaling_law", "isoflop", "accuracy")
BUDGETS = (1_000_000, 3_000_000, 10_000_000, 30_000_000)


def law(n_params: float, tokens: float) -> float:
    return 1.2 + 0.9 * (n_params / 1e6) ** -0.34 + 1.0 * (tokens / 1e7) ** -0.28


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    arms = {"retnet": law, "transformer": lambda n, d: 1.02 * law(n, d)}
    grid = frame(scored.scaling(arms, budgets=BUDGETS))
    return {
        "scaling_law": grid,
        "isoflop": grid,
        "accuracy": frame(scored.answered({"retnet": 0.7, "transformer": 0.8})),
    }


@pytest.fixture(scope="module")
def drawn(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    return {name: FIGURES[name](records) for name, records in tables.items()}


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


@pytest.mark.parametrize("name", NAMES)
def test_captions_come_from_the_records_and_nothing_overlaps(drawn, name) -> None:
    figure = drawn[name]
    assert "Test CPU" in words(figure)
    boxes = [item.get_window_extent() for item in (*figure.texts, *figure.legends)]
    panels = [ax.get_tightbbox() for ax in figure.axes]
    for box in [*boxes, *panels]:
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 <= box.y1 <= figure.bbox.y1
    assert all(a.x1 <= b.x0 for a, b in pairwise(panels))
    assert all(ax.get_xlabel() for ax in figure.axes)


def test_the_frontier_is_solid_where_models_are_and_dashed_beyond(drawn) -> None:
    loss, size, tokens = drawn["scaling_law"].axes
    lines = {line.get_label(): line for line in loss.get_lines()}
    inside, beyond = lines["retnet fit"], lines["retnet extrapolated"]
    most = 6 * 3.3e6 * BUDGETS[-1] / 1e12
    solid = inside.get_xdata()[np.isfinite(inside.get_ydata())]
    assert most / 1.3 < solid[-1] <= 1.1 * most
    assert beyond.get_linestyle() == "--"
    assert beyond.get_xdata()[-1] > 2 * most
    assert np.all(np.diff(beyond.get_ydata()) < 0)
    for ax in (size, tokens):
        (line,) = [one for one in ax.get_lines() if one.get_label() == "retnet extrapolated"]
        assert np.all(np.diff(line.get_ydata()) > 0)
        marks = [one for one in ax.get_lines() if one.get_label() == "retnet best"]
        assert [mark.get_markerfacecolor() for mark in marks][-1] != "white"


def test_a_best_model_that_nobody_measured_the_like_of_is_open_and_dashed() -> None:
    arms = {"transformer": scored.parameters_law}
    records = frame(scored.scaling(arms, budgets=(250_000, 500_000, 1_000_000, 2_000_000)))
    figure = FIGURES["scaling_law"](records)
    (inside,) = [x for x in figure.axes[0].get_lines() if x.get_label() == "transformer fit"]
    assert np.isnan(inside.get_ydata()).all()
    marks = [x for x in figure.axes[1].get_lines() if x.get_label() == "transformer best"]
    assert {mark.get_markerfacecolor() for mark in marks} == {"white"}
    assert "The best transformer for the most compute has" in words(figure)
    slices = FIGURES["isoflop"](records)
    assert "No least loss among the models measured: " in words(slices)


def test_the_caption_has_the_law_the_ratio_and_the_crossing(drawn) -> None:
    text = words(drawn["scaling_law"])
    assert "retnet: E " in text
    assert "retnet needs 0." in text
    assert "times that compute" in text
    assert text.count("none in range: retnet has the lower loss throughout") == 3


def test_without_equal_compute_slices_of_the_law_are_drawn(drawn) -> None:
    assert "No compute was given to three sizes" in words(drawn["isoflop"])
    best = list(drawn["isoflop"].axes[1].containers)
    assert {c.get_label() for c in best} == {"retnet best size", "transformer best size"}
    assert len(best) >= 4


def test_models_of_equal_compute_are_drawn_with_their_parabola() -> None:
    """Six sizes' budgets, chosen so that 2.4e13 FLOPs have their least loss among them."""
    rows = [
        row
        for size, n_params in scored.SIZES.items()
        for row in scored.scaling(
            {"retnet": law, "transformer": law}, budgets=(round(4e12 / n_params),), sizes=(size,)
        )
    ]
    figure = FIGURES["isoflop"](frame(rows))
    assert "Points are models" in words(figure)
    assert "No least loss" not in words(figure)
    ours = figure.axes[0]
    assert [
        len(line.get_xdata()) for line in ours.get_lines() if line.get_linestyle() == "None"
    ] == [5, 5]
    (place,) = {round(c.lines[0].get_ydata()[0] / 1e6, 1) for c in figure.axes[1].containers}
    by_hand = np.geomspace(0.2e6, 3.3e6, 500)
    assert place == pytest.approx(by_hand[law(by_hand, 4e12 / by_hand).argmin()] / 1e6, abs=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_too_little_is_one_line_that_says_what_is_needed(name) -> None:
    with pytest.raises(UserError, match=f'figure "{name}" needs metric') as refused:
        FIGURES[name](frame(scored.scaling(sizes=("a", "b"))))
    assert "\n" not in str(refused.value)


def test_accuracy_has_a_panel_for_each_group_with_both_arms_and_chance(drawn) -> None:
    for ax in drawn["accuracy"].axes:
        lines = {c.get_label(): c.lines[0] for c in ax.containers}
        assert set(lines) == {"retnet", "transformer"}
        assert lines["transformer"].get_xdata() == pytest.approx(
            [6 * 0.2e6 * 2e6 / 1e12, 6 * 3.3e6 * 2e6 / 1e12]
        )
        assert lines["transformer"].get_ydata() == pytest.approx([70, 80], abs=3)
        assert 50 in [line.get_ydata()[0] for line in ax.get_lines()]
        dots = [line for line in ax.get_lines() if line.get_marker() == "."]
        assert [len(line.get_ydata()) for line in dots] == [6, 6], "three seeds of two sizes"
        means = [np.reshape(line.get_ydata(), (2, 3)).mean(axis=1) for line in dots]
        assert list(lines["transformer"].get_ydata()) == pytest.approx(means[1].tolist())
    assert "Dots: each seed by itself." in words(drawn["accuracy"])


def test_accuracy_takes_seeds_as_replicas_and_knows_one_seed(tables) -> None:
    found = accuracy.by_compute(tables["accuracy"])
    assert len(found) == 3 * 2 * 2
    assert set(found["seeds"]) == {3}
    assert ((found["low"] < found["estimate"]) & (found["estimate"] < found["high"])).all()
    alone = frame(scored.answered({"retnet": 0.7}, seeds=1))
    assert set(accuracy.by_compute(alone)["seeds"]) == {1}
    assert "One seed: intervals of items only." in words(FIGURES["accuracy"](alone))


def test_shares_of_unlike_seeds_stay_between_none_and_all() -> None:
    """The seeds' spread is beyond what three of them bound: 46 % [-3, 81] was shown."""
    rows = scored.answered({"retnet": 0.7}, seeds=3)
    for row in rows:
        if row["metric"] == "acc" and row["seed"]:
            row["samples"] = [float(row["seed"] == 1)] * 400
    found = accuracy.by_task(frame(rows))
    assert len(found) == 6
    assert ((found["low"] >= 0) & (found["high"] <= 1)).all()
    assert ((found["low"] == 0) | (found["high"] == 1)).any()


def test_tasks_from_elsewhere_are_in_no_group() -> None:
    assert accuracy.group_of("hellaswag") is None
    assert accuracy.group_of("grammar_verb_form") == "structure"
    assert accuracy.group_of("names_bound_far") == "names"


def test_checkpoints_that_do_not_say_their_tokens_are_left_out() -> None:
    rows = [row for row in scored.answered({"retnet": 0.7}) if row["metric"] == "acc"]
    assert accuracy.by_compute(frame(rows)).empty
