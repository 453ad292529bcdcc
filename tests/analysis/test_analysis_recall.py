"""Recall: shares over seeds, and a rate that is chosen on validation sequences."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import scored
from golden.records import failure, frame

from retnet_bench.analysis.tables import recall
from retnet_bench.base import UserError

SWEEP = {"retention": {1e-3: 0.3, 3e-3: 0.7, 1e-2: 0.6}, "attention": {1e-3: 0.9, 3e-3: 0.8}}


def test_shares_are_means_over_seeds_at_each_number_of_pairs():
    table = recall.by_pairs(frame(scored.recall(SWEEP)))
    assert len(table) == 5 * 3
    row = table.set_index(["arm", "learning_rate", "pairs"]).loc[("retention", 1e-3, 16)]
    assert row["estimate"] == pytest.approx(0.3)
    reach = 4.303 * 0.01 / np.sqrt(3)  # Student's t of 2 degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx((0.3 - reach, 0.3 + reach), rel=1e-3)
    assert (row["seeds"], row["state_bytes"], row["status"]) == (3, 8192, "ok")
    assert row["validated"] == pytest.approx(np.mean([1 - 0.7 / 4, 1 - 0.7 / 2, 0.3]) - 0.05)


def test_the_best_rate_is_that_of_validation_whatever_the_test_says():
    rows = list(scored.recall(SWEEP))
    table = recall.by_pairs(frame(rows))
    best = table[table["best"]].groupby("arm")[["learning_rate", "at_end"]].first()
    assert best["learning_rate"].to_dict() == {"retention": 3e-3, "attention": 1e-3}
    assert best["at_end"].to_dict() == {"retention": False, "attention": True}
    for row in rows:  # a test on which the lowest rate shines
        if row["phase"] == "score" and row["learning_rate"] == 1e-3:
            row["value"] *= 1.2
    again = recall.by_pairs(frame(rows))
    assert (again["best"] == table["best"]).all()


def test_of_rates_that_are_equally_right_the_one_of_less_loss():
    rows = list(scored.recall({"attention": {1e-3: 0.9, 3e-3: 0.9, 1e-2: 0.9}}))
    for row in rows:
        if row["metric"] == "recall_nll_nat" and row["learning_rate"] != 3e-3:
            row["value"] *= 2
    table = recall.by_pairs(frame(rows))
    assert set(table.loc[table["best"], "learning_rate"]) == {3e-3}


def test_a_seed_that_diverged_got_nothing_right_and_is_told():
    rows = list(scored.recall({"retention": {1e-3: 0.6, 3e-3: 0.7}}))
    lost = [r for r in rows if (r["seed"], r["learning_rate"]) == (2, 3e-3)]
    kept = [r for r in rows if r not in lost]
    about = {k: v for k, v in lost[0].items() if k in scored.model("", "a", 0)}
    about = {k: v for k, v in about.items() if k not in ("arm", "workload")}
    about |= {"cell_id": lost[0]["cell_id"], "learning_rate": 3e-3, "token_budget": None}
    table = recall.by_pairs(frame([*kept, failure("retention", "recall", "diverged", **about)]))
    assert set(table.loc[table["best"], "learning_rate"]) == {1e-3}
    row = table.set_index(["learning_rate", "pairs"]).loc[(3e-3, 16)]
    assert row["seeds"] == 2
    assert row["reason"] == "without 1 that failed: diverged"


def test_an_arm_that_failed_everywhere_keeps_its_rows():
    rows = list(scored.recall({"retention": {1e-3: 0.6}}))
    about = {"size": "a", "seed": 0, "learning_rate": 1e-3, "cell_id": "lost"}
    table = recall.by_pairs(frame([*rows, failure("h3", "recall", "nan", **about)]))
    lost = table[table["arm"] == "h3"]
    assert list(lost["pairs"]) == [4, 8, 16]
    assert set(lost["status"]) == {"nan"}
    assert lost["estimate"].isna().all()


def test_one_seed_has_no_interval_and_says_so():
    table = recall.by_pairs(frame(scored.recall({"retention": {1e-3: 0.6}}, seeds=1)))
    assert table["low"].isna().all()
    assert set(table["reason"]) == {"one seed: no interval"}
    assert not table["at_end"].any(), "one rate is no sweep"


def test_shares_stay_within_their_range():
    table = recall.by_pairs(frame(scored.recall({"attention": {1e-3: 0.995}})))
    assert table["high"].max() <= 1.0


def test_trainings_of_other_settings_are_no_replicas():
    rows = list(scored.recall({"retention": {1e-3: 0.6}}, seeds=1))
    longer = [row | {"cell_id": "longer"} for row in rows]
    with pytest.raises(UserError, match="has 2 cells of one size and seed"):
        recall.by_pairs(frame([*rows, *longer]))


def test_head_dimensions_are_points_of_their_own():
    rows = [
        row
        for key_dim in (16, 32)
        for row in scored.recall(
            {"retention": {1e-3: key_dim / 40}}, state=512 * key_dim, key_dim=key_dim
        )
    ]
    for row in rows:
        row["cell_id"] = f"{row['cell_id']}-{row['key_dim']}"
    table = recall.by_pairs(frame(rows))
    at_16 = table[table["pairs"] == 16].set_index("key_dim")
    assert at_16["state_bytes"].to_dict() == {16: 8192, 32: 16384}
    assert at_16["best"].all()
