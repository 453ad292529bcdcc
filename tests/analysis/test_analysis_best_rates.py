"""Each arm at its own best learning rate, where a study sweeps it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from fakes import scored
from golden.records import Row, failure, frame

from retnet_bench.analysis.tables import best_rates, curves, quality, ratios, rows
from retnet_bench.analysis.verdicts import judging
from retnet_bench.analysis.verdicts.claims import Claim, check
from retnet_bench.base import UserError

RATES = (1e-3, 3e-3, 6e-3)
BEST = {"retnet": 3e-3, "transformer": 1e-3, "h3": 6e-3}
FLOOR = {"retnet": 2.5, "transformer": 2.5, "h3": 2.6}
"""nat per token at the best rate; elsewhere more by a ninth of the distance in ln(rate)."""


def sweep(rates: tuple[float, ...] = RATES, seeds: int = 3) -> Iterator[Row]:
    for arm, best in BEST.items():
        for rate in rates:
            for seed in range(seeds):
                about = scored.model(arm, "c", seed, learning_rate=rate, baseline="retnet")
                about |= {"cell_id": f"{arm}-{seed}-{rate}", "pair_id": f"{seed}-{rate}"}
                loss = FLOOR[arm] + abs(np.log(rate / best)) / 9
                yield from scored.scored(loss, about)


@pytest.fixture(scope="module")
def swept() -> pd.DataFrame:
    return frame(sweep())


def test_the_best_rate_is_that_of_the_least_loss(swept):
    rates = best_rates.swept(swept).set_index("arm")
    assert rates["best"].to_dict() == BEST
    assert set(rates["lowest"]) == {1e-3}
    assert set(rates["highest"]) == {6e-3}
    assert set(rates["rates"]) == {3}


def test_only_the_best_trainings_are_left_and_pair_by_seed(swept):
    left = best_rates.at_best(swept)
    assert {a: set(of["cell_id"]) for a, of in left.groupby("arm")} == {
        arm: {f"{arm}-{seed}-{rate}" for seed in range(3)} for arm, rate in BEST.items()
    }
    assert left["learning_rate"].isna().all()
    pairs = left.groupby("pair_id")
    assert (pairs["arm"].nunique() == 3).all()
    assert (pairs["seed"].nunique() == 1).all()


def test_without_a_sweep_nothing_changes():
    records = frame(scored.scaling())
    assert best_rates.at_best(records) is records
    assert best_rates.said(records) == ""
    by_size = records.assign(learning_rate=records["n_params"] / 1e9)  # a recipe's rate
    assert best_rates.at_best(by_size) is by_size


def test_other_workloads_keep_their_rows(swept):
    both = pd.concat([swept, frame(scored.speeds())], ignore_index=True)
    speed = best_rates.at_best(both)
    assert len(speed) == len(best_rates.at_best(swept)) + len(frame(scored.speeds()))


def test_a_rate_at_which_a_seed_diverged_is_not_the_best(swept):
    lost = (swept["arm"] == "h3") & (swept["learning_rate"] == 6e-3) & (swept["seed"] == 0)
    about = swept[lost].iloc[0][["cell_id", "pair_id", "seed", "size", "learning_rate"]].to_dict()
    more = {"token_budget": 1_000_000, "corpus": "sotu", "tokenizer": "bpe:2048"}
    row = failure("h3", "perplexity", "diverged", **about, **more)
    records = pd.concat([swept[~lost], frame([row])], ignore_index=True)
    rates = best_rates.swept(records).set_index("arm")
    assert rates.loc["h3", "best"] == 3e-3
    assert rates.loc["h3", "highest"] == 6e-3


def test_an_arm_without_any_score_keeps_its_failures(swept):
    about = {"size": "c", "token_budget": 1_000_000, "corpus": "sotu", "tokenizer": "bpe:2048"}
    rows = [
        failure("gla", "perplexity", "nan", **about, learning_rate=rate, cell_id=f"g{rate}")
        for rate in RATES
    ]
    records = pd.concat([swept, frame(rows)], ignore_index=True)
    assert (best_rates.at_best(records)["arm"] == "gla").sum() == 3
    table = quality.ablations(records).set_index("arm")
    assert table.loc["gla", "status"] == "nan"


def test_ablations_compare_arms_at_different_rates(swept):
    table = quality.ablations(swept).set_index("arm")
    assert set(table.index) == {"transformer", "h3"}
    assert table.loc["h3", "relative_low"] < np.expm1(0.1) < table.loc["h3", "relative_high"]
    assert table.loc["transformer", "relative"] == pytest.approx(0, abs=0.03)
    assert set(table["seeds"]) == {3}


def test_what_is_said_names_rates_and_ends(swept):
    assert best_rates.said(swept) == (
        "Each arm at its own best of the learning rates 0.001, 0.003, 0.006, by the same scores: "
        "h3 0.006, retnet 0.003, transformer 0.001. Best at an end of the sweep, so perhaps better "
        "beyond: h3, transformer."
    )


# --- claims -------------------------------------------------------------------------------------


def claim(rate: object, over: str = "h3", workload: str = "perplexity") -> Claim:
    return Claim.model_validate(
        {
            "name": "lower",
            "says": "lower",
            "source": "a test",
            "measure": {
                "kind": "ratio",
                "metric": "perplexity_per_byte",
                "of": "retnet",
                "over": over,
            },
            "where": {"workload": workload} | ({} if rate is None else {"learning_rate": rate}),
            "at_most": 1,
        }
    )


def test_a_claim_at_the_best_rates(swept):
    (found,) = judging.evaluate(swept, [claim("best")])
    assert found.verdict == "holds"
    wanted = np.exp((FLOOR["retnet"] - FLOOR["h3"]) * scored.TOKENS / scored.BYTES)
    assert found.interval.low < wanted < found.interval.high
    assert "each arm's best learning rate" in found.at


def test_a_claim_at_one_rate(swept):
    (found,) = judging.evaluate(swept, [claim(1e-3, "transformer")])
    assert found.verdict == "does not hold"  # the Transformer's own
    assert "learning rate 0.001" in found.at


def test_a_claim_that_leaves_the_rate_open_is_not_measured(swept):
    (found,) = judging.evaluate(swept, [claim(None)])
    assert found.verdict == "not measured"
    assert "learning_rate" in found.reason


def test_a_rate_is_of_perplexity_only():
    with pytest.raises(UserError, match="learning_rate is of perplexity, not of train"):
        check([claim("best", workload="train").model_copy(update={"name": "x"})])


# --- each arm's rate from its own sweep ----------------------------------------------------------


def tuned(arm: str, rate: float, loss: float) -> list[Row]:
    about = scored.model(arm, "c", 0) | {"tuned": "learning_rate", "learning_rate": rate}
    return list(scored.scored(loss, about))


def test_a_pair_whose_arms_have_rates_of_their_own_is_compared():
    records = frame(tuned("retnet", 4e-3, 2.0) + tuned("transformer", 2e-3, 2.1))
    (row,) = ratios.perplexity_ratios(records, "retnet", "transformer")
    assert row["estimate"] == pytest.approx(np.exp(-0.1 * scored.TOKENS / scored.BYTES), rel=0.02)
    apart = records.assign(tuned=None)
    assert list(ratios.perplexity_ratios(apart, "retnet", "transformer")) == []


def test_scores_of_other_documents_are_shown_apart_and_no_sweep():
    """`learning_rate: [tuned, 1e-3]`, as earlier versions scored it."""
    rows_ = []
    for arm, rate, loss in (("retnet", 8e-3, 2.0), ("transformer", 4e-3, 2.2)):
        own = {"tuned": "learning_rate", "learning_rate": rate, "score_split": "test"}
        rows_ += scored.scored(loss, scored.model(arm, "a", 0, **own))
        about = scored.model(arm, "a", 0, learning_rate=1e-3, score_split="valid")
        about |= {"cell_id": f"{arm}-fixed", "pair_id": "fixed"}
        rows_ += scored.scored(1.5 * loss, about)
    records = frame(rows_)
    assert best_rates.swept(records).empty
    assert best_rates.at_best(records) is records
    assert set(curves.perplexities(records)["score_split"]) == {"valid", "test"}
    found = [*ratios.perplexity_ratios(records, "retnet", "transformer")]
    assert [row["score_split"] for row in found] == ["test", "valid"]
    assert [pd.isna(row["learning_rate"]) for row in found] == [True, False]


def test_a_rate_of_the_sweep_and_an_equal_fixed_one_are_two_models():
    rows_ = []
    for own in ({"tuned": "learning_rate", "cell_id": "swept"}, {"cell_id": "fixed"}):
        about = scored.model("retnet", "a", 0, learning_rate=4e-3, score_split="test", **own)
        rows_ += scored.scored(2.0, about)
    assert len(curves.perplexities(frame(rows_))) == 2


def test_what_all_arms_have_in_common_stays():
    records = frame(tuned("retnet", 4e-3, 2.0)).assign(batch=8)
    found = rows.in_common(records)
    assert found["learning_rate"].isna().all()
    assert (found["batch"] == 8).all()
    both = rows.in_common(records.assign(tuned="batch, learning_rate"))
    assert both[["learning_rate", "batch"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(
        rows.in_common(records.assign(tuned=None)), records.assign(tuned=None)
    )
