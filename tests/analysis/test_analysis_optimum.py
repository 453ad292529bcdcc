"""What compute buys by a joint law: known answers in closed form, and from records."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fakes import scored
from golden.records import frame
from stats import laws
from stats.laws import Law

from retnet_bench.analysis.statistics import compute_optimal, isoflop, power_law, replication
from retnet_bench.analysis.statistics.replication import Scores
from retnet_bench.analysis.tables import law_crossings, optimum, scaling
from retnet_bench.analysis.verdicts import claims, judging
from retnet_bench.analysis.verdicts.claims import Claim
from retnet_bench.base import UserError

SIZES, TOKENS = (
    part.ravel() for part in np.meshgrid(np.geomspace(1e5, 3e6, 4), np.geomspace(1e6, 6e7, 4))
)
X = np.stack([SIZES, TOKENS], axis=1)
PLANTED = Law(1.2, 0.9, 0.34, 0.35, 0.28)
ENDS = 6e12, 6e14
BUDGETS = (250_000, 500_000, 1_000_000, 2_000_000)


def exact(law: Law, name: str = "a") -> compute_optimal.Frontier:
    """Of the law itself, at 6 N FLOPs a token."""
    fitted = power_law.fit(X, law(SIZES, TOKENS), np.empty((0, len(X))), 1)
    return compute_optimal.frontier(name, fitted, 6 * SIZES, *ENDS)


def best_by_hand(law: Law, compute: float) -> tuple[float, float, float]:
    """N, D and loss of Hoffmann et al., equation 4, for C = 6 N D."""
    known = law.coefficients()
    a, b = law.alpha, law.beta
    g = (a * known["A"] / (b * known["B"])) ** (1 / (a + b))
    size = g * (compute / 6) ** (b / (a + b))
    tokens = compute / 6 / size
    return size, tokens, float(law(np.array(size), np.array(tokens)))


@pytest.mark.parametrize("compute", [1e13, 1e14])
def test_the_frontier_is_hoffmann_s_where_a_token_costs_6_n(compute):
    found = exact(PLANTED)
    values = [found.interval(of, compute).estimate for of in ("size", "tokens", "loss")]
    size, tokens, loss = best_by_hand(PLANTED, compute)
    assert values == pytest.approx([size, tokens, loss], rel=0.02)
    assert values[2] == pytest.approx(loss, rel=1e-4)


def test_what_a_token_costs_beyond_6_n_moves_the_best_size_up():
    """A constant share a token (head, attention) makes small models dearer than their size."""
    fitted = power_law.fit(X, PLANTED(SIZES, TOKENS), np.empty((0, len(X))), 1)
    dear = compute_optimal.frontier("a", fitted, 6 * (SIZES + 1e6), *ENDS)
    assert dear.interval("size", 1e13).estimate > 1.2 * best_by_hand(PLANTED, 1e13)[0]


def test_compute_for_equal_loss_is_the_law_s():
    """The arm whose D counts for 1.5 times as much needs less compute; found by bisection here."""
    better = Law(1.2, 0.9, 0.34, 0.35 * 1.5**-0.28, 0.28)
    low, high = 1e12, 1e14
    for _ in range(60):
        middle = np.sqrt(low * high)
        less = best_by_hand(better, middle)[2] < best_by_hand(PLANTED, 1e14)[2]
        low, high = (low, middle) if less else (middle, high)
    found = compute_optimal.compute_ratio(exact(better), exact(PLANTED), 1e14)
    assert found.estimate == pytest.approx(low / 1e14, rel=0.02)
    assert found.estimate == pytest.approx(1 / 1.5, rel=0.1)
    back = compute_optimal.compute_ratio(exact(PLANTED), exact(better), low)
    assert back.estimate == pytest.approx(1e14 / low, rel=0.02)


def test_a_loss_that_is_never_reached_costs_without_end():
    high_floor = Law(2.5, 0.9, 0.34, 0.35, 0.28)
    found = compute_optimal.compute_ratio(exact(high_floor), exact(PLANTED), 1e14)
    assert found.estimate == np.inf
    assert compute_optimal.compute_ratio(exact(PLANTED), exact(high_floor), 1e14).estimate < 0.1


def test_frontiers_cross_where_their_losses_are_equal():
    """Two laws that differ in B and in E: one is ahead at little compute, the other at much."""
    early, late = Law(1.30, 0.9, 0.34, 0.25, 0.28), Law(1.2, 0.9, 0.34, 0.35, 0.28)
    ahead = [best_by_hand(early, c)[2] < best_by_hand(late, c)[2] for c in (*ENDS, 6e15)]
    assert ahead == [True, False, False] or ahead == [True, True, False]
    grid = np.geomspace(ENDS[0], 6e15, 4000)
    differ = np.array([best_by_hand(early, c)[2] - best_by_hand(late, c)[2] for c in grid])
    truth = grid[np.flatnonzero(np.diff(np.sign(differ)))[0]]
    found = compute_optimal.crossing(exact(early), exact(late, "b"), ENDS[0], 6e15)
    assert found.interval is not None
    assert found.interval.estimate == pytest.approx(truth, rel=0.05)


def test_the_parabola_s_minimum_and_none_beyond_the_sizes():
    sizes = np.geomspace(1e5, 1.6e6, 5)
    loss = 2.0 + 0.05 * np.log(sizes / 5e5) ** 2
    drawn = loss + 0.001 * np.random.default_rng(0).standard_normal((200, 5))
    found = isoflop.fit(sizes, loss, drawn, 20).minimum
    assert found is not None
    assert found.estimate == pytest.approx(5e5, rel=1e-6)
    assert 4.5e5 < found.low < 5e5 < found.high < 5.6e5
    falling = 2.0 + 0.05 * np.log(sizes / 5e6) ** 2
    assert isoflop.fit(sizes, falling, drawn[:0], 1).minimum is None


def test_a_grid_that_does_not_identify_the_law_is_refused():
    together = np.stack([SIZES, 20 * SIZES], axis=1)
    assert "rise together (about 20 tokens a parameter)" in str(power_law.why_not(together))
    assert "2 sizes and 4 budgets in 8 models" in str(
        power_law.why_not(X[np.isin(SIZES, SIZES[:2])])
    )
    assert power_law.why_not(laws.SCALING.x) is None


def test_the_same_numbers_are_fitted_once():
    power_law._fitted.cache_clear()
    for _ in range(3):
        exact(PLANTED)
    assert power_law._fitted.cache_info().misses == 1


@pytest.fixture(scope="module")
def grid() -> pd.DataFrame:
    """Sizes a to e at four budgets; the second arm's loss is 2 % higher everywhere."""
    arms = {"retnet": scored.law, "transformer": lambda n, d: 1.02 * scored.law(n, d)}
    return frame(scored.scaling(arms, budgets=BUDGETS))


def test_from_records_the_better_arm_needs_less_compute_and_nothing_crosses(grid):
    found = scaling.fits(grid, variable=scaling.JOINT)
    best = optimum.optimum(found)
    assert best is not None
    assert (best.low, best.high) == (6 * 0.2e6 * 250_000, 6 * 3.3e6 * 2_000_000)
    rows = {(row.arm, row.compute): row for row in optimum.bought(grid, best)}
    top = rows["retnet", best.levels[-1]]
    assert top.over == "transformer"
    assert top.ratio is not None
    assert top.ratio.high < 1
    assert rows["transformer", best.levels[-1]].ratio is None
    crossings = law_crossings.joint(grid, found, best)
    assert [one.variable for one in crossings] == ["parameters", "tokens", "compute"]
    assert all("none in range: retnet has the lower loss throughout" in c.text for c in crossings)


LOWER = {
    "name": "lower",
    "says": "RetNet's loss is lower at equal compute",
    "source": "us",
    "measure": {"kind": "equal_compute", "of": "retnet", "over": "transformer"},
    "where": {"workload": "perplexity"},
    "at_most": 1,
}


def judged(records: pd.DataFrame, **said: object) -> judging.Finding:
    (found,) = judging.evaluate(records, [Claim.model_validate(LOWER | said)])
    return found


def test_a_claim_about_equal_compute_is_judged_by_the_joint_laws():
    """The planted ratio of the losses at the most compute is 1 / 1.02."""
    inside = Law(1.2, 0.9, 0.34, 1.0, 0.28)
    arms = {"retnet": inside, "transformer": lambda n, d: 1.02 * inside(n, d)}
    records = frame(scored.scaling(arms, budgets=(1_000_000, 3_000_000, 10_000_000, 30_000_000)))
    found = judged(records)
    assert found.verdict == "holds"
    assert found.interval.estimate == pytest.approx(1 / 1.02, abs=0.004)
    assert found.interval.low < 1 / 1.02 < found.interval.high
    assert "its best size by the joint law" in found.at
    assert judged(records, at_most=None, at_least=1).verdict == "does not hold"


def test_a_claim_about_equal_compute_is_not_measured_past_the_models():
    arms = dict.fromkeys(("retnet", "transformer"), scored.parameters_law)
    found = judged(frame(scored.scaling(arms, budgets=BUDGETS)))
    assert found.verdict == "not measured"
    assert "parameters, where 200k to 3.3M were measured" in found.reason
    one = frame(scored.scaling())
    assert "no joint law of both arms" in judged(one).reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": {"kind": "equal_compute", "of": "retnet"}}, 'needs "over"'),
        (
            {"measure": LOWER["measure"] | {"metric": "train_step_s"}},
            "is of the loss, so it has no",
        ),
        ({"where": {"workload": "train"}}, "equal_compute is of perplexity"),
    ],
)
def test_a_wrong_claim_about_equal_compute_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        claims.check([Claim.model_validate(LOWER | change)])


def test_models_of_equal_compute_make_a_parabola():
    """Budgets chosen so that every size takes 6e12 FLOPs."""
    rows = [
        row
        for size, n_params in scored.SIZES.items()
        for row in scored.scaling(budgets=(round(1e12 / n_params),), sizes=(size,))
    ]
    found = optimum.isoflops(frame(rows))
    assert [one.arm for one in found] == ["retnet", "transformer"]
    assert found[0].compute == pytest.approx(6e12, rel=1e-4)
    assert found[1].curve.sizes.tolist() == list(scored.SIZES.values())


def test_sizes_at_one_number_of_tokens_a_parameter_have_a_law():
    rows = [
        row
        for size, n_params in scored.SIZES.items()
        for row in scored.scaling(budgets=(round(20.2 * n_params),), sizes=(size,))
    ]
    found = scaling.fits(frame(rows))
    assert {(f.variable, f.at) for f in found.fits} == {
        ("parameters", "20 tokens a parameter"),
        ("compute", "frontier"),
    }
    assert any("joint law" in why and "rise together" in why for why in found.missing)


def test_a_point_of_one_seed_takes_the_spread_of_those_beside_it():
    random = np.random.default_rng(0)
    several = [
        Scores(2.0 * (1 + 0.01 * random.standard_normal((3, 1)) + np.zeros((3, 20))), np.ones(20))
        for _ in range(20)
    ]
    alone = Scores(np.full((1, 20), 2.0), np.ones(20))
    drawn = replication.draw([*several, alone], 2000).drawn[:, -1]
    assert drawn.std() == pytest.approx(0.02, rel=0.25)
    assert replication.draw([alone], 2000).drawn.std() == 0
