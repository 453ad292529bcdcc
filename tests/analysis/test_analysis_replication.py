"""Losses over seeds and documents: what varies is in the interval, what is shared cancels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.analysis.statistics.intervals import student_factor
from retnet_bench.analysis.statistics.replication import Scores, draw, loss, mean, perplexity_ratio

DIFFICULTY = np.random.default_rng(0).uniform(1.0, 3.0, 20)
UNITS = np.random.default_rng(1).uniform(50.0, 150.0, 20)


def scores(*levels: float) -> Scores:
    """A seed per level; seeds differ by a shift, so that documents vary alike in all of them."""
    return Scores(np.array([(DIFFICULTY + level) * UNITS for level in levels]), UNITS)


def test_the_loss_weighs_documents_by_their_units_and_seeds_alike():
    point = Scores(np.array([[10.0, 60.0], [13.0, 63.0]]), np.array([10.0, 20.0]))
    assert loss(point).estimate == pytest.approx((70 / 30 + 76 / 30) / 2)
    assert loss(point).n == 2


def test_of_no_documents_or_one_score_there_is_no_interval():
    assert np.isnan(loss(Scores(np.empty((2, 0)), np.empty(0))).estimate)
    assert np.isnan(loss(Scores(np.array([[3.0]]), np.array([1.0]))).low)


def test_seeds_widen_the_interval():
    def width(found):
        return found.high - found.low

    alone, alike, apart = (loss(scores(*levels)) for levels in ((0,), (0, 0, 0), (-0.5, 0, 0.5)))
    assert width(alike) == pytest.approx(width(alone), rel=0.1)
    assert width(apart) > 2 * width(alone)
    assert apart.estimate == pytest.approx(alone.estimate)


def test_documents_are_paired_and_seeds_are_not():
    found = perplexity_ratio(scores(0.5), scores(0.0))
    assert found[:3] == pytest.approx([np.exp(0.5)] * 3)
    apart = perplexity_ratio(scores(0.4, 0.5, 0.6), scores(-0.1, 0.0, 0.1))
    assert apart.estimate == pytest.approx(np.exp(0.5))
    assert apart.low < np.exp(0.4) < np.exp(0.6) < apart.high


def test_points_must_have_scored_the_same_documents():
    with pytest.raises(AssertionError, match="same documents"):
        draw([scores(0.0), Scores(np.ones((1, 3)), np.ones(3))])


@settings(max_examples=20)
@given(st.integers(2, 6), st.floats(0.001, 0.5))
def test_a_mean_over_seeds_has_student_s_interval(n, sd):
    levels = 2 + sd * np.random.default_rng(n).standard_normal(n)
    found = mean(levels)
    reach = 1.96 * student_factor(n - 1) * levels.std(ddof=1) / np.sqrt(n)
    assert found[:3] == pytest.approx([levels.mean(), levels.mean() - reach, levels.mean() + reach])


def test_one_seed_has_no_interval_of_seeds():
    assert mean(np.array([2.0]))[0] == 2.0
    assert np.isnan(mean(np.array([2.0])).low)


@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_cover_the_truth(seeds):
    """150 data sets whose seeds vary as much as their documents."""
    random, hits = np.random.default_rng(3), 0
    for _ in range(150):
        documents = 2 + 0.05 * random.standard_normal(20)
        luck = 0.01 * np.sqrt(seeds) * random.standard_normal((seeds, 1))
        nll = documents + luck + 0.01 * random.standard_normal((seeds, 20))
        found = draw([Scores(nll, np.ones(20))], 300).interval([1.0])
        hits += found.low <= 2 <= found.high
    assert hits >= 0.9 * 150


def test_one_seed_alone_misses_what_seeds_vary():
    random, hits = np.random.default_rng(3), 0
    for _ in range(100):
        documents = 2 + 0.02 * random.standard_normal(20) + 0.03 * random.standard_normal()
        found = draw([Scores(documents[None], np.ones(20))], 300).interval([1.0])
        hits += found.low <= 2 <= found.high
    assert hits < 50
