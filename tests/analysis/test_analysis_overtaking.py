"""Exponents, and where one arm overtakes another, against answers that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.analysis.statistics.crossings import last_crossover
from retnet_bench.analysis.statistics.estimates import exponent
from retnet_bench.analysis.statistics.replication import Scores, perplexity_last_crossover

LENGTHS = np.array([250.0, 500, 1000, 2000, 4000])
positive = st.floats(1e-3, 1e3)


@settings(max_examples=30)
@given(p=st.floats(-3, 3), scale=positive, unit=positive)
def test_the_exponent_of_a_power_law_is_exact_in_any_unit(p, scale, unit):
    costs = scale * np.array([LENGTHS**p, 1.1 * LENGTHS**p, 0.9 * LENGTHS**p, LENGTHS**p])
    assert exponent(unit * LENGTHS, costs)[:3] == pytest.approx([p] * 3, abs=1e-8)


def test_the_exponent_s_interval_covers_under_noise():
    random, hits = np.random.default_rng(0), 0
    for _ in range(200):
        noise = random.lognormal(sigma=0.05, size=(8, len(LENGTHS)))
        found = exponent(LENGTHS, LENGTHS**1.5 * noise, n_resamples=300)
        hits += found.low <= 1.5 <= found.high
    assert 0.90 <= hits / 200 <= 1.0


def test_an_exponent_of_nothing_or_less_is_refused():
    with pytest.raises(AssertionError, match="positive"):
        exponent(LENGTHS, [[0.0, 1, 2, 3, 4]])


def law(at, n=4):
    """Costs of a (linear) and b (quadratic), equal at x = `at`; a is ahead above."""
    drift = np.linspace(0.9, 1.1, n)[:, None]
    return (LENGTHS / at) * drift, (LENGTHS / at) ** 2 * drift


@settings(max_examples=30)
@given(at=st.floats(260, 3900))
def test_the_overtaking_of_power_laws_is_where_they_are_equal(at):
    assert last_crossover(LENGTHS, *law(at))[:3] == pytest.approx([at] * 3)


def test_outside_the_range_only_the_side_is_known():
    assert last_crossover(LENGTHS, *law(100.0))[:3] == (0.0, 0.0, 250.0)
    assert last_crossover(LENGTHS, *law(9000.0))[:3] == pytest.approx((np.inf, 4000.0, np.inf))
    a, b = law(1000.0)
    assert last_crossover(LENGTHS, b, a)[0] == np.inf  # ahead below 1000, behind from there on


def test_equal_arms_do_not_overtake():
    a, _ = law(1000.0)
    assert last_crossover(LENGTHS, a, a)[0] == np.inf


def test_one_block_says_where_but_not_how_surely():
    found = last_crossover(LENGTHS, *law(1000.0, n=1))
    assert found.estimate == pytest.approx(1000)
    assert np.isnan([found.low, found.high]).all()


def test_an_end_that_reaches_the_range_is_open():
    noise = np.random.default_rng(1).lognormal(sigma=0.5, size=(6, len(LENGTHS)))
    a, b = law(3500.0, n=6)
    found = last_crossover(LENGTHS, a * noise, b)
    assert found.high == np.inf
    assert found.low < 3500


def test_perplexities_cross_where_the_mean_log_ratio_is_zero():
    sizes, units = [1e6, 4e6], np.full(5, 100.0)
    gaps = [sign * np.linspace(8.0, 12.0, 5)[None] for sign in (1, -1)]
    a, b = ([Scores(200 + part, units) for part in parts] for parts in (gaps, [0 * gaps[0]] * 2))
    found = perplexity_last_crossover(sizes, a, b)
    assert found[:3] == pytest.approx([2e6] * 3)
    assert found.n == 5
