"""The settings of training, its schedule, and when it is given up."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from fakes.cells import cell
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.base import UserError
from retnet_bench.workloads import Diverged, NotFinite
from retnet_bench.workloads.divergence import Watch
from retnet_bench.workloads.recipe import RECIPES, Recipe, default_learning_rate

SMALL, PAPER = RECIPES["small"], RECIPES["paper"]


def test_the_paper_s_values():
    """Section 3.1, Tables 2 and 7 of arXiv:2307.08621v4."""
    assert (PAPER.betas, PAPER.weight_decay, PAPER.clip) == ((0.9, 0.98), 0.05, 2.0)
    assert (PAPER.dropout, PAPER.warmup(25_000), PAPER.bos_windows) == (0.1, 375, True)
    assert [PAPER.learning_rate(d) for d in (2048, 2560, 4096)] == [6e-4, 3e-4, 3e-4]
    assert PAPER.rate_factor(374, 25_000) == 1.0
    assert PAPER.rate_factor(25_000, 25_000) == 0.0


def test_small_differs_from_it_in_warm_up_dropout_and_windows_only():
    differing = {f.name for f in fields(Recipe) if getattr(SMALL, f.name) != getattr(PAPER, f.name)}
    assert differing == {"warmup_steps", "dropout", "bos_windows", "learning_rates"}


def test_a_stated_warm_up_wants_more_steps_than_it_has():
    with pytest.raises(UserError, match="warms up over 375 steps, and token_budget makes only 375"):
        PAPER.warmup(375)
    assert PAPER.warmup(376) == 375


def test_schedule_rises_over_a_twentieth_and_falls_to_zero():
    values = [SMALL.rate_factor(i, 100) for i in range(101)]
    assert values[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert values[5] == 1.0
    assert values[52] == pytest.approx(48 / 95)
    assert values[99] == pytest.approx(1 / 95)
    assert values[100] == 0.0
    assert SMALL.rate_factor(0, 1) == 1.0  # one step is all warm-up, at the full rate
    assert SMALL.rate_factor(101, 100) == 0.0


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
def test_the_rate_is_positive_while_there_are_steps(at):
    assert 0 < SMALL.rate_factor(*at) <= 1


def test_default_learning_rate():
    assert default_learning_rate(2048) == 6e-4
    assert default_learning_rate(512) == pytest.approx(1.2e-3)
    assert default_learning_rate(16) == 3e-3


def test_a_cell_s_settings_and_peak_rate():
    assert cell().training_recipe == SMALL
    assert cell().peak_learning_rate() is None
    of = {"workload": "perplexity", "size": "1.3B"}
    assert cell(**of).peak_learning_rate() == 6e-4
    assert cell(**of, learning_rate=0.1).peak_learning_rate() == 0.1
    assert cell(**of, recipe="paper").training_recipe.dropout == 0.1
    assert cell(**of, recipe="paper", dropout=0.0).training_recipe.dropout == 0.0
    assert cell(**of, recipe="paper").matched().config.dropout == 0.1
    assert cell().matched().config.dropout == 0.0
    with pytest.raises(UserError, match='did you mean "paper"'):
        cell(recipe="papr").training_recipe  # noqa: B018


# --- divergence --------------------------------------------------------------------------------


def seen(losses: list[float], recipe: Recipe = SMALL) -> Watch:
    watch = Watch()
    for step, loss in enumerate(losses, 1):
        watch.see(step, loss, recipe)
    return watch


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_at_once(bad):
    with pytest.raises(Diverged) as caught:
        seen([3.0, 2.5, bad])
    words = f"training loss became {bad} at step 3; last good loss 2.5 at step 2"
    assert str(caught.value) == words
    assert (Diverged.status, NotFinite.status) == ("diverged", "nan")


def test_a_loss_that_stays_too_high_ends_it_after_a_while():
    recipe = Recipe(divergence=2.0, patience=3)
    with pytest.raises(Diverged) as caught:
        seen([3.0, 2.0, 4.1, 4.2, 4.3], recipe)
    assert str(caught.value) == (
        "training loss stayed above 2 times its minimum of 2 for 3 steps, up to step 5 (loss 4.3); "
        "last good loss 2 at step 2"
    )


def test_a_spike_or_learning_by_heart_does_not():
    recipe = Recipe(divergence=2.0, patience=3)
    assert seen([3.0, 2.0, 4.1, 4.2, 2.2, 4.1, 4.2, 2.1], recipe).good_loss == 2.1
    assert seen([1e-4, *[0.9] * 50], recipe).high == 0
