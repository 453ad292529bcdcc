"""Statistics against known answers, their invariances, and the coverage of their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retnet_bench.analysis.statistics import crossings, estimates, intervals, resampling, testing
from retnet_bench.analysis.statistics.crossings import crossover
from retnet_bench.analysis.statistics.estimates import center, log_ratio, slope
from retnet_bench.analysis.statistics.intervals import small_sample_factor
from retnet_bench.analysis.statistics.resampling import TimedBlock

levels = st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=8)


def blocks(values, processes=None):
    return resampling.of_values(processes or [0] * len(values), values)


def test_center_is_the_median_of_block_medians_not_of_samples():
    found = center(
        [
            TimedBlock(0, np.array([1.0, 1, 1, 1, 1, 1])),
            *resampling.of_values([0] * 3, (5.0, 5.0, 9.0)),
        ]
    )
    assert found.estimate == 5.0
    assert found.n == 4
    assert found.low < 5.0 < found.high


@pytest.mark.parametrize("values", [[2.0], [1.0, 3.0], [1e-3, 2.0, 1e3]])
def test_fewer_than_four_blocks_have_a_value_and_no_interval(values):
    assert intervals.FEWEST == 4
    x, curves = [1.0, 2.0], np.array([[v, v] for v in values])
    for found in (
        center(blocks(values)),
        center(blocks(values, range(len(values)))),
        log_ratio(blocks(values), blocks([1.0] * len(values))),
        slope(x, curves),
        crossings.last_crossover(x, curves, 0.5 * curves),
    ):
        assert np.isnan([found.low, found.high]).all()
        assert found.n == len(values)
    assert center(blocks(values)).estimate == pytest.approx(2.0)
    assert crossover(x, curves, curves[:, ::-1] * [2, 0.5]).interval.n == len(values)


def test_no_blocks_have_no_estimate():
    assert np.isnan(center([]).estimate)
    assert center([]).n == 0


def test_equal_blocks_have_a_zero_interval():
    assert center(blocks([3.0] * 5)) == pytest.approx((3.0, 3.0, 3.0, 5))


@settings(max_examples=30)
@given(values=levels, factor=st.floats(1e-3, 1e3))
def test_center_follows_the_unit(values, factor):
    a, b = center(blocks(values)), center(blocks([factor * v for v in values]))
    assert b[:3] == pytest.approx([factor * part for part in a[:3]], rel=1e-6)
    assert 0 < a.low <= a.estimate * (1 + 1e-12)
    assert a.high >= a.estimate * (1 - 1e-12)


@settings(max_examples=30)
@given(values=levels, ratio=st.floats(0.01, 100))
def test_drift_common_to_a_pair_cancels(values, ratio):
    found = log_ratio(blocks([ratio * v for v in values]), blocks(values))
    assert found[:3] == pytest.approx([ratio] * 3)


@settings(max_examples=30)
@given(values=st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=4, max_size=8))
def test_swapping_the_arms_inverts_the_ratio(values):
    a, b = (blocks(side) for side in zip(*values, strict=True))
    there, back = log_ratio(a, b), log_ratio(b, a)
    assert back.estimate == pytest.approx(1 / there.estimate)
    assert (back.low, back.high) == pytest.approx((1 / there.high, 1 / there.low))


def test_blocks_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="2 blocks cannot be paired with 3"):
        log_ratio(blocks([1, 2]), blocks([1, 2, 3]))


def test_equal_data_give_equal_intervals():
    data = blocks(np.random.default_rng(0).lognormal(size=200))
    assert center(data) == center(data)
    assert center(data) != center(data, seed=1)


def test_slope_of_straight_lines_and_its_robustness():
    x = [1, 1000, 2000, 4000, 8000]
    rising = [[5 + 0.25 * p + noise for p in x] for noise in (0.0, 1.0, -1.0, 0.0)]
    assert slope(x, rising)[:3] == pytest.approx([0.25] * 3)
    rising[0][-1] += 1e6
    assert slope(x, rising).estimate == pytest.approx(0.25)
    assert slope(x, rising).n == 4
    assert slope(x, rising[:1])[0] != slope(x, rising[1:])[0] or np.isnan(slope(x, rising[:1]).low)


def test_a_flat_noisy_curve_has_a_slope_interval_with_zero():
    noise = np.random.default_rng(0).normal(size=(8, 9))
    found = slope(np.arange(9), 5 + noise)
    assert found.low < 0 < found.high


LENGTHS = [250.0, 500, 1000, 2000, 4000]


def costs(exponent_a=1.0, exponent_b=2.0, at=900.0, n=5):
    a, b = (np.array([(x / at) ** e for x in LENGTHS]) for e in (exponent_a, exponent_b))
    drift = np.linspace(0.9, 1.1, n)[:, None]
    return a * drift, b * drift


def test_crossover_of_power_laws_is_exact():
    found = crossover(LENGTHS, *costs(at=900.0))
    assert found.interval[:3] == pytest.approx([900.0] * 3)
    assert found.interval.n == 5
    assert found.fraction == 1.0


@pytest.mark.parametrize(("at", "ahead"), [(100.0, "retnet"), (9000.0, "transformer")])
def test_no_crossover_in_range_says_who_is_ahead(at, ahead):
    found = crossover(LENGTHS, *costs(at=at), names=("retnet", "transformer"))
    assert found.interval is None
    assert found.fraction == 0.0
    assert found.reason == (f"none in range: {ahead} is ahead throughout; 0% of resamples cross")


def test_arms_that_never_differ_do_not_cross():
    a, _ = costs()
    assert crossover(LENGTHS, a, a).reason == "none in range: no difference anywhere"


def test_the_last_of_several_crossings_counts():
    b = np.array([[2.0, 0.5, 0.5, 2.0, 2.0]] * 2)
    found = crossover(LENGTHS, np.ones((2, 5)), b)
    assert found.interval.estimate == pytest.approx(np.sqrt(1000 * 2000))


def test_an_uncertain_crossover_is_cut_at_the_range_and_says_so():
    noise = np.random.default_rng(3).lognormal(sigma=0.4, size=(6, 5))
    a, b = costs(exponent_b=1.2, at=3500.0, n=6)
    found = crossover(LENGTHS, a * noise, b)
    assert 250.0 <= found.interval.low < found.interval.high <= 4000.0
    assert found.fraction < 1
    assert "end is cut at the measured range" in found.reason


def test_costs_must_be_positive():
    with pytest.raises(AssertionError, match="positive"), np.errstate(divide="ignore"):
        crossover([1, 2], [[1.0, 0.0]], [[1.0, 1.0]])


def test_the_small_sample_factor_falls_towards_one():
    factors = [small_sample_factor(n) for n in range(4, 200)]
    assert factors == sorted(factors, reverse=True)
    assert factors[2] == pytest.approx(np.sqrt(6 / 5) * 2.571 / 1.96, rel=1e-3)
    assert 1 < factors[-1] < 1.02


def test_resampling_draws_processes_then_blocks():
    processes = np.array([7, 3, 7, 3, 3, 7])
    rows = resampling.resample(processes, 4000, seed=0)
    drawn = processes[rows]
    places_of_7 = drawn[:, processes == 7]
    assert (places_of_7 == places_of_7[:, :1]).all()
    both = (drawn[:, :1] != drawn).any(axis=1).mean()
    assert both == pytest.approx(0.5, abs=0.03)
    assert np.bincount(rows.ravel(), minlength=6) / rows.size == pytest.approx(1 / 6, abs=0.02)


def test_differences_between_processes_widen_the_interval():
    values = [1.00, 1.01, 1.02, 2.00, 2.01, 2.02]
    apart = center(blocks(values, [0, 0, 0, 1, 1, 1]))
    mixed = center(blocks(values, [0, 1, 2, 3, 4, 5]))
    assert apart.high / apart.low >= mixed.high / mixed.low


@pytest.mark.parametrize("n_processes", [1, 4])
def test_intervals_of_8_lognormal_blocks_cover_the_truth(n_processes):
    random, hits, trials = np.random.default_rng(0), 0, 400
    processes = np.arange(8) % n_processes
    for _ in range(trials):
        shared = random.lognormal(sigma=0.02 if n_processes > 1 else 0, size=n_processes)[processes]
        data = [
            TimedBlock(p, level * random.lognormal(sigma=0.01, size=5))
            for p, level in zip(processes, shared * random.lognormal(sigma=0.03, size=8))
        ]
        found = center(data, n_resamples=500)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 <= hits / trials <= 0.99


@settings(max_examples=30)
@given(
    a=st.lists(st.floats(0.1, 10), min_size=4, max_size=9),
    b=st.lists(st.floats(0.1, 10), min_size=4, max_size=9),
)
def test_swapping_the_sides_of_an_unpaired_ratio_inverts_it(a, b):
    there, back = (
        estimates.unpaired_ratio(blocks(x), blocks(y), n_resamples=300) for x, y in ((a, b), (b, a))
    )
    assert there.low <= there.estimate * (1 + 1e-12)
    assert back.estimate == pytest.approx(1 / there.estimate)
    assert (back.low, back.high) == pytest.approx((1 / there.high, 1 / there.low))
    assert there.n == min(len(a), len(b))


@pytest.mark.parametrize("few", [[2.0], [2.0, 2.1], [2.0, 2.1, 2.2]])
def test_an_unpaired_ratio_to_few_blocks_has_no_interval(few):
    found = estimates.unpaired_ratio(blocks(few), blocks([1.0, 1.1, 1.2, 1.3, 1.4]))
    assert np.isnan(found.low)
    assert found.n == len(few)
    assert np.isnan(testing.p_at_most(found, 1.0))
    assert testing.blocks_needed(found, 0.1) is None


def test_benjamini_hochberg_of_a_known_example():
    """p.adjust(c(0.01, 0.04, 0.03, 0.5), "BH") in R."""
    adjusted = testing.benjamini_hochberg([0.01, 0.04, np.nan, 0.03, 0.5])
    assert adjusted[[0, 1, 3, 4]] == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert np.isnan(adjusted[2])
    assert testing.benjamini_hochberg([]).size == 0


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_p_values_keep_their_order_and_never_fall(p):
    adjusted = testing.benjamini_hochberg(p)
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= -1e-15).all()


def test_p_is_small_only_where_the_interval_lies_above_the_bound():
    ratio = intervals.Interval(1.10, 1.05, 1.16, 8)
    assert testing.p_at_most(ratio, 1.04) < 0.025 < testing.p_at_most(ratio, 1.06)
    assert testing.p_at_most(ratio, 1.10) == pytest.approx(0.5)
    flat = intervals.Interval(1.1, 1.1, 1.1, 8)
    assert testing.p_at_most(flat, 1.0) == 0
    assert testing.p_at_most(flat, 1.2) == 1


def test_blocks_needed_for_half_the_width_are_a_good_four_times_as_many():
    ratio = intervals.Interval(1.0, 1 / 1.1, 1.1, 40)
    assert 145 < testing.blocks_needed(ratio, np.log(1.1) / 2) <= 160
    assert testing.blocks_needed(ratio, np.log(1.1)) == 40


def test_what_is_detectable_falls_with_the_scatter_and_never_below_the_floor():
    found = [
        testing.minimum_detectable(intervals.Interval(1.0, 1 / w, w, 8), 0.01, 0.01)
        for w in (1.0, 1.05, 1.2)
    ]
    assert found == sorted(found)
    assert found[0] == pytest.approx(0.01)


@pytest.mark.parametrize("n", [40, 41])
@pytest.mark.parametrize("n_processes", [1, 3])
def test_medians_of_many_blocks_are_distributed_as_if_resampled(n, n_processes):
    random = np.random.default_rng(0)
    processes = random.integers(n_processes, size=n)
    values = (random.lognormal(size=n) + processes).round(1)  # some are equal
    quick = resampling._order_medians(processes, values, 20_000, 0)
    drawn = np.median(values[resampling.resample(processes, 20_000, 1)], axis=1)
    assert stats.ks_2samp(quick, drawn).statistic < 0.02


def test_a_hundred_thousand_blocks_in_ten_processes_are_resampled_ten_thousand_times():
    values = np.random.default_rng(0).normal(size=100_000)
    drawn = resampling._order_medians(np.arange(100_000) % 10, values, 10_000, 0)
    between = np.var(np.median(values.reshape(-1, 10), axis=0)) / 10
    within = np.pi / 2 / 100_000
    assert drawn.std() == pytest.approx(np.sqrt(between + within), rel=0.05)
    assert drawn.mean() == pytest.approx(np.median(values), abs=np.sqrt(within))


def test_a_hundred_thousand_samples_are_resampled_in_chunks():
    random = np.random.default_rng(0)
    data = [TimedBlock(i % 4, random.lognormal(sigma=0.1, size=100)) for i in range(1000)]
    found = center(data, n_resamples=200)
    assert found.n == 1000
    assert found.low < 1.0 < found.high
    chunks = list(resampling.resamples(np.zeros(100_000, int), 50, 0))
    assert len(chunks) > 1
    assert sum(map(len, chunks)) == 50


def test_processes_that_differ_have_fewer_degrees_of_freedom():
    random = np.random.default_rng(0)
    processes = np.repeat([0, 1, 2], 4)
    alike = np.tile(random.normal(size=4), 3)
    apart = alike + np.array([0.0, 20.0, 40.0])[processes]
    widen = intervals.median_small_sample_factor
    assert widen(processes, alike) < 1.3
    assert widen(processes, apart) > 2
    assert widen(processes, np.ones(12)) == intervals.small_sample_factor(12)


@pytest.mark.parametrize("n_processes", [1, 2, 3, 5])
def test_the_factor_of_medians_falls_with_every_further_block(n_processes):
    """Of processes that do not differ; a table of factors by number once rose from 6 to 7."""
    numbers = range(max(4, n_processes + 1), 60)
    alike = [np.arange(n) % n_processes for n in numbers]
    values = [np.where(np.arange(len(p)) // n_processes % 2, 1.0, -1.0) for p in alike]
    found = [intervals.median_small_sample_factor(p, v) for p, v in zip(alike, values)]
    steps = np.diff(found)
    assert (steps < 0.02).all() if n_processes > 1 else (steps < 0).all()


def test_four_blocks_cover_the_truth():
    random, trials = np.random.default_rng(0), 600
    hits = 0
    for values in np.exp(0.1 * random.normal(size=(trials, 4))):
        found = center(blocks(values), n_resamples=400)
        hits += found.low <= 1.0 <= found.high
    assert 0.93 <= hits / trials <= 0.98
