"""Scaling laws are found again in synthetic losses whose law is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fakes import scored
from golden.records import document, frame
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from retnet_bench.analysis.statistics import power_law
from retnet_bench.analysis.statistics.power_law import PowerLaw
from retnet_bench.analysis.statistics.replication import Scores, draw
from retnet_bench.analysis.tables import law_crossings, scaling
from retnet_bench.base import UserError

N = np.array([0.2, 0.5, 1, 2, 3.3]) * 1e6
NOTHING = np.empty((0, len(N)))


def fit(x: np.ndarray, loss: np.ndarray, drawn: np.ndarray | None = None, n: int = 20) -> PowerLaw:
    drawn = np.empty((0, len(loss))) if drawn is None else drawn
    return power_law.fit(np.reshape(x, (len(x), -1)), loss, drawn, n)


@pytest.fixture(scope="module")
def budgets() -> pd.DataFrame:
    return frame(scored.scaling(budgets=(250_000, 500_000, 1_000_000, 2_000_000)))


@settings(max_examples=15)
@given(st.floats(0.5, 3.0), st.floats(0.3, 3.0), st.floats(0.1, 0.8))
def test_exact_losses_give_the_law_back(floor, scale, alpha):
    found = fit(N, floor + scale * (N / 1e6) ** -alpha, n=1)
    known = found.coefficients()
    assert known["E"].estimate == pytest.approx(floor, rel=1e-2)
    assert known["alpha"].estimate == pytest.approx(alpha, rel=1e-2)
    assert known["A"].estimate == pytest.approx(scale * 1e6**alpha, rel=0.2)
    assert found.at(np.array([1e7])) == pytest.approx(floor + scale * 10**-alpha, rel=1e-3)
    assert np.isnan(known["E"].low)


def test_losses_that_show_no_floor_have_none():
    """They fall ever faster on logarithmic axes, so the best E is as small as may be."""
    found = fit(N, 3.0 - 0.5 * np.log(N / 1e6), n=1).coefficients()
    assert found["E"].estimate == 0


def test_the_joint_law_is_given_back():
    sizes, tokens = (part.ravel() for part in np.meshgrid(N, np.array([0.25, 0.5, 1, 2]) * 1e6))
    loss = 1.5 + 1.2 * (sizes / 1e6) ** -0.3 + 0.4 * (tokens / 1e6) ** -0.5
    known = fit(np.stack([sizes, tokens], axis=1), loss, n=1).coefficients()
    assert [known[name].estimate for name in ("E", "alpha", "beta")] == pytest.approx(
        [1.5, 0.3, 0.5], rel=1e-3
    )


def test_one_bad_point_hardly_moves_a_robust_fit():
    sizes = np.geomspace(2e5, 2e7, 9)
    loss = 1.5 + 1.2 * (sizes / 1e6) ** -0.3
    bad = loss * np.where(np.arange(9) == 4, 1.2, 1.0)
    assert fit(sizes, bad).at(sizes) == pytest.approx(loss, rel=0.02)


def test_refits_are_scipy_s():
    loss = 1.5 + 1.2 * (N / 1e6) ** -0.3
    drawn = loss * (1 + 0.003 * np.random.default_rng(0).standard_normal((20, 5)))
    logs = np.log(N[:, None] / 1e6)
    start = np.array([0.3, 0.3, 0.3])
    ours = power_law.refit(logs, np.log(drawn), start, np.ones(5))
    for row, theta in zip(np.log(drawn), ours, strict=True):
        args = (logs, row)
        cost = least_squares(
            power_law.residual, start, power_law.slopes, args=args, method="lm"
        ).cost
        assert 0.5 * (power_law.residual(theta, *args) ** 2).sum() == pytest.approx(cost, abs=1e-8)


def test_intervals_cover_the_known_law():
    """40 data sets: documents and seeds vary, the law does not."""
    random = np.random.default_rng(1)
    truth = 1.2 + 0.9 * (N / 1e6) ** -0.25
    hits = dict.fromkeys(("E", "alpha", "between", "beyond"), 0)
    for _ in range(40):
        shared = 0.05 * random.standard_normal(20)
        points = []
        for level in truth:
            luck = 0.004 * random.standard_normal((3, 1)) + 0.01 * random.standard_normal((3, 20))
            points.append(Scores(level * (1 + shared + luck), np.ones(20)))
        draws = draw(points, 200)
        found = fit(N, draws.level, draws.drawn)
        known = found.coefficients()
        hits["E"] += known["E"].low <= 1.2 <= known["E"].high
        hits["alpha"] += known["alpha"].low <= 0.25 <= known["alpha"].high
        for name, x in (("between", 7e5), ("beyond", 1e7)):
            low, high = found.band(np.array([x]))
            hits[name] += bool(low <= 1.2 + 0.9 * (x / 1e6) ** -0.25 <= high)
    assert min(hits.values()) >= 0.87 * 40, hits


def test_bands_are_wider_where_they_are_extrapolated():
    found = scaling.fits(frame(scored.scaling()), variable="parameters").fits[0]
    ends = np.array([found.high, 10 * found.high])
    low, high = found.law.band(ends)
    relative = (high - low) / found.law.at(ends)
    assert relative[1] > relative[0]


def test_all_laws_of_the_records(budgets):
    found = scaling.fits(budgets, "nat per token")
    kinds = [(fit.variable, fit.at) for fit in found.fits if fit.arm == "transformer"]
    assert kinds == [
        *(("parameters", f"{n:,} tokens") for n in (250_000, 500_000, 1_000_000, 2_000_000)),
        *(("tokens", f"size {size}") for size in "abcde"),
        ("compute", "frontier"),
        ("both", "all models"),
    ]
    assert found.missing == []
    joint = next(f for f in found.fits if (f.variable, f.arm) == ("both", "transformer"))
    known = joint.law.coefficients()
    for name, truth in (("E", 1.5), ("alpha", 0.3), ("beta", 0.5)):
        assert known[name].estimate == pytest.approx(truth, rel=0.15)
    assert {f.seeds for f in found.fits} == {3}


def test_joint_laws_of_unlike_trainings_say_so(budgets):
    assert scaling.fits(budgets, variable="both").unlike() == []
    lacking = budgets["arm"].eq("transformer") & budgets["size"].eq("e")
    lacking &= budgets["token_budget"].isin([1_000_000, 2_000_000])
    found = scaling.fits(budgets[~lacking], variable="both")
    assert found.unlike() == [
        "The law of retnet is also of what not all arms have: e at 1M tokens, e at 2M tokens"
    ]
    almost = budgets.assign(
        token_budget=budgets["token_budget"] + 512 * budgets["arm"].eq("retnet")
    )
    assert scaling.fits(almost, variable="both").unlike() == []


def test_nat_per_token_are_bits_per_byte_in_another_unit(budgets):
    nats, bits = (scaling.fits(budgets, u, "compute").fits[0] for u in reversed(scaling.UNITS))
    per_byte = scored.TOKENS / scored.BYTES / np.log(2)
    assert bits.law.loss == pytest.approx(nats.law.loss * per_byte)
    assert bits.nat_per_token * per_byte == pytest.approx(nats.nat_per_token) == pytest.approx(1)


def test_the_frontier_leaves_out_what_costs_more_and_is_worse():
    kept = scaling.frontier(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 2.0, 2.5, 1.0]))
    assert kept.tolist() == [True, True, False, True]


def test_the_crossover_is_found_with_an_interval():
    records = frame(scored.scaling())
    (found,) = law_crossings.crossings(records, scaling.fits(records))
    place = found.inside.interval
    assert place is not None
    assert place.low < 1e6 < place.high
    assert place.estimate == pytest.approx(1e6, rel=0.15)
    assert found.beyond is None
    assert "M parameters [" in found.text
    assert "100% of resamples cross" in found.text


def test_no_crossover_in_range_says_so_and_extrapolates_apart():
    def later(n_params: float, tokens: float) -> float:
        """Meets `law` at 10M, three times past the largest size."""
        return scored.law(n_params, tokens) - 0.08 * np.log(n_params / 1e7)

    records = frame(scored.scaling({"retnet": later, "transformer": scored.law}))
    (found,) = law_crossings.crossings(records, scaling.fits(records))
    assert found.inside.interval is None
    assert "none in range: transformer has the lower loss throughout" in found.text
    assert found.beyond is not None
    assert found.beyond.interval is not None
    assert found.beyond.interval.estimate == pytest.approx(1e7, rel=0.5)
    assert "extrapolated, the fits cross at" in found.text


def test_equal_arms_are_not_said_to_cross_surely():
    records = frame(scored.scaling({"retnet": scored.law, "transformer": scored.law}))
    (found,) = law_crossings.crossings(records, scaling.fits(records))
    place = found.inside.interval
    assert place is None or place.high > 3 * place.low


def test_too_few_sizes_are_named():
    found = scaling.fits(frame(scored.scaling(sizes=("a", "b", "c"))))
    assert found.fits == []
    assert found.missing[0] == (
        "retnet, transformer, parameters, 1,000,000 tokens: 3 values; a fit needs 4"
    )


def test_laws_of_mixed_contracts_are_refused():
    rows = list(scored.scaling(seeds=1))
    rows += [row | {"length": 1024} for row in rows[:4]]
    with pytest.raises(UserError, match="need one length, these records have 512, 1024"):
        scaling.fits(frame(rows))


def test_records_without_perplexity_have_no_laws():
    assert scaling.fits(frame([])).fits == []
    assert scaling.fits(frame(document("retnet", "a", 50.0))).fits == []
