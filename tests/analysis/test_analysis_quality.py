"""Seeds as replicas in curves and ratios; ablations; quality joined to speed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import scored
from golden.records import document, failure, frame, record

from retnet_bench.analysis.tables import captions, curves, quality, ratios
from retnet_bench.base import UserError


def test_seeds_are_one_point_and_budgets_are_two():
    table = curves.perplexities(frame(scored.scaling(budgets=(250_000, 1_000_000), sizes=("a",))))
    assert curves.separators(table) == ["size", "token_budget"]
    assert len(table) == 4
    assert set(table["seeds"]) == {3}
    assert set(table["n"]) == {scored.DOCUMENTS}
    assert table["reason"].isna().all()
    row = table[(table["arm"] == "transformer") & (table["token_budget"] == 250_000)].iloc[0]
    truth = scored.law(2e5, 250_000) * scored.TOKENS / scored.BYTES / np.log(2)
    assert row["bits_per_byte"] == pytest.approx(truth, rel=0.05)
    assert row["bits_low"] < row["bits_per_byte"] < row["bits_high"]
    assert np.log2(row["low"]) == pytest.approx(row["bits_low"])


def test_one_seed_says_that_its_interval_is_of_documents_only():
    records = frame(scored.scaling(seeds=1, sizes=("a",)))
    assert set(curves.perplexities(records)["reason"]) == {"one seed: interval of documents only"}
    assert "one seed (perplexity's intervals are of documents only)" in captions.contract_text(
        records
    )
    assert captions.contract_text(frame(scored.scaling(sizes=("a",)))).endswith("3 seeds a point")


def test_a_seed_that_failed_is_told():
    rows = list(scored.scaling(seeds=2, sizes=("a",)))
    about = scored.model("retnet", "a", 2)
    fields = {k: v for k, v in about.items() if k not in ("arm", "workload")}
    rows.append(failure("retnet", "perplexity", "nan", **fields))
    table = curves.perplexities(frame(rows)).set_index("arm")
    assert table.loc["retnet", "seeds"] == 2
    assert table.loc["retnet", "reason"] == "without 1 that failed: nan"


def test_ratios_average_over_seeds_and_pair_documents():
    rows = ratios.pair_ratios(frame(scored.scaling(sizes=("a", "e"))))
    assert rows["metric"].tolist() == ["perplexity_per_byte"] * 2
    table = rows.set_index("size")
    assert table.loc["a", "verdict"].startswith("retnet")
    assert "worse than transformer" in table.loc["a", "verdict"]
    assert "better than transformer" in table.loc["e", "verdict"]
    truth = np.exp(-0.08 * np.log(3.3) * scored.TOKENS / scored.BYTES)
    assert table.loc["e", "low"] < truth < table.loc["e", "high"]


def test_two_cells_of_one_seed_are_no_replicas():
    rows = document("retnet", "x", 50.0) + document("retnet", "x", 60.0, cell_id="other")
    with pytest.raises(UserError, match='arm "retnet" has 2 cells of one size and seed'):
        curves.perplexities(frame(rows))


def test_context_and_position_are_curves_over_seeds():
    records = frame(scored.contexts({"retnet": 0.05, "transformer": 0.08}))
    table = curves.by_context(records)
    table = table[table["arm"] == "retnet"].set_index("context_length")
    assert table.loc[1024, "estimate"] == pytest.approx(np.exp(2.5 - 0.2), rel=0.1)
    assert (table["low"] < table["estimate"]).all()
    assert set(table["seeds"]) == {3}
    places = curves.by_position(records)
    assert sorted(set(places["position"])) == [64, 128, 256, 512, 1024, 2048, 4096]
    assert set(places["length"]) == {512}


def test_what_context_adds_is_surer_than_the_curves():
    """The same models score the same tokens: what they share drops out of the differences."""
    arms = {"retnet": 0.05, "transformer": 0.08}
    table = quality.contexts(frame(scored.contexts(arms))).set_index(["arm", "context_length"])
    for arm, gain in arms.items():
        assert np.isnan(table.loc[(arm, 64), "gain"])  # there is no shorter one
        row = table.loc[(arm, 512)]
        assert row["gain_low"] < np.expm1(-gain) < row["gain_high"]
        alone = (row["high"] - row["low"]) / row["estimate"]
        assert row["gain_high"] - row["gain_low"] < alone / 5
    row = table.loc[("retnet", 1024)]
    assert row["over_arm"] == "transformer"
    assert row["over_low"] < np.expm1(4 * 0.03) < row["over_high"]
    assert np.isnan(table.loc[("transformer", 1024), "over"])


def test_ar_hits_and_other_tokens_are_compared_with_the_baseline_each_on_its_own():
    found = quality.ar_hits(frame(scored.ar_hits({"retnet": 1.1, "transformer": 1.0})))
    assert list(found["part"]) == ["AR hits", "other tokens"] * 2
    assert set(found["share"]) == {0.25, 0.75}
    assert set(found["tokens"]) == {0.25 * 12_000, 0.75 * 12_000}
    table = found.set_index(["arm", "part"])
    for arm, loss in (("retnet", 1.1), ("transformer", 1.0)):
        row = table.loc[(arm, "AR hits")]
        assert row["low"] < np.exp(loss) < row["high"]
        assert (row["n"], row["seeds"]) == (12, 3)
    hits, others = (table.loc[("retnet", part)] for part in ("AR hits", "other tokens"))
    assert hits["over_arm"] == "transformer"
    assert hits["over_low"] < np.expm1(0.1) < hits["over_high"]
    assert others["over_low"] < 0 < others["over_high"]
    assert table.loc[("transformer", "AR hits"), "over"] != hits["over"]


def test_a_document_without_a_hit_counts_for_nothing():
    rows = list(scored.ar_hits({"retnet": 1.1}))
    for row in rows:
        if row["document"] == "year-0" and row["metric"].startswith("ar_hit"):
            row["value"] = 0.0
    found = quality.ar_hits(frame(rows)).set_index("part")
    assert found["n"].to_dict() == {"AR hits": 11, "other tokens": 12}


def test_a_context_that_scored_other_tokens_is_no_comparison():
    rows = list(scored.contexts({"retnet": 0.05}))
    longer = [r for r in rows if (r["metric"], r.get("context_length")) == ("context_tokens", 1024)]
    assert longer
    for row in longer:
        row["value"] *= 2
    table = quality.contexts(frame(rows)).set_index("context_length")
    assert np.isnan(table.loc[1024, "gain"])
    assert table.loc[512, "gain"] < 0
    assert table["over_arm"].isna().all()


def test_scores_without_a_document_are_one_document():
    about = scored.model("retnet", "a", 0) | {"context_length": 64}
    rows = list(scored.scored(2.0, about, kind="context", n=1))
    table = curves.by_context(frame([row | {"document": None} for row in rows]))
    assert table["n"].tolist() == [1]
    assert np.isnan(table["low"]).all()


def test_the_loss_curve_is_the_mean_over_seeds():
    table = curves.loss_curve(frame(scored.curves()))
    row = table[(table["tokens_seen"] == 10_000) & (table["size"] == "c")].iloc[0]
    assert row["estimate"] == pytest.approx(scored.law(1e6, 10_000) + 0.02)
    assert (row["n"], row["seeds"]) == (3, 3)
    assert row["low"] < row["estimate"] < row["high"]


def test_the_full_model_is_the_baseline_or_sets_least():
    def row(arm: str, mixer: str, **said: object) -> dict:
        cell = json.dumps({"arm": arm, "mixer": mixer} | said)
        return record("document_nll_nat", arm, mixer=mixer, cell_json=cell)

    rows = [
        row("transformer", "attention"),
        row("no_gate", "retention", gate=False),
        row("mine", "retention"),
        row("windowed", "attention"),
        row("other", "attention"),
    ]
    assert quality.reference(frame(rows)) == "mine"
    assert quality.reference(frame(rows[:2])) == "no_gate"
    assert quality.reference(frame(rows[:1])) is None
    assert quality.reference(frame([*rows, row("twin", "retention")])) is None
    stated = [r | {"baseline": "transformer"} for r in rows]
    assert quality.reference(frame(stated)) == "transformer"


def test_ablations_are_differences_to_the_full_model():
    rows = list(scored.ablations())
    about = scored.model("no_gate", "c", 0)
    fields = {k: v for k, v in about.items() if k not in ("arm", "workload")}
    rows.append(failure("no_gate", "perplexity", "nan", **fields))
    table = quality.ablations(frame(rows)).set_index("arm")
    assert "retnet" not in table.index
    level = scored.law(1e6, 1e6)
    for arm in ("no_decay", "modern_family"):
        more = scored.ABLATIONS[arm] * level
        bits = more * scored.TOKENS / scored.BYTES / np.log(2)
        assert table.loc[arm, "low"] < bits < table.loc[arm, "high"]
        assert table.loc[arm, "relative"] == pytest.approx(np.expm1(more), abs=0.03)
    assert (table.loc["no_gate", "status"], table.loc["no_gate", "seeds"]) == ("nan", 0)
    assert np.isnan(table.loc["no_gate", "estimate"])


def test_ablations_need_the_full_model():
    rows = [row for row in scored.ablations() if row["arm"] != "retnet"]
    assert quality.ablations(frame(rows)).empty


def test_speed_of_another_study_is_joined_by_arm_size_and_family():
    found = quality.joined(frame([*scored.scaling(), *scored.speeds()]))
    table = found.frame.set_index(["arm", "size"])
    assert len(table) == 10
    row = table.loc[("transformer", "c")]
    # 4 x 2048 tokens in 2 * 1e-8 * 1e6 * 4 s
    assert row["tokens_per_s"] == pytest.approx(8192 / 0.08, rel=0.04)
    assert row["decode_s"] == pytest.approx(2 * (1e-3 + 1e-4), rel=0.03)
    assert row["decode_s_low"] <= row["decode_s"] <= row["decode_s_high"]
    assert row["memory_bytes"] == 1e7
    assert row["bits_low"] < row["bits_per_byte"] < row["bits_high"]
    assert found.notes["tokens_per_s"] == "training, length 2,048, batch 4"
    assert found.notes["bits_per_byte"] == "token budget 1,000,000"


def test_another_family_is_another_model():
    fast = [row | {"block_family": "modern"} for row in scored.speeds()]
    assert quality.joined(frame([*scored.scaling(), *fast])).frame.empty


def test_of_several_settings_the_one_most_models_have_is_shown():
    rows = [row for row in scored.speeds() if row["length"] == 512 or row["size"] == "a"]
    found = quality.joined(frame([*scored.scaling(), *rows]))
    assert found.notes["tokens_per_s"] == "training, length 512, batch 4"
    assert found.frame["tokens_per_s"].notna().all()


def test_models_of_one_number_of_tokens_a_parameter_are_joined_at_every_size():
    """As `scaling` has them: no budget is that of two sizes."""
    found = [
        row
        for size in ("a", "c", "e")
        for ratio in (5, 20)
        for row in scored.scaling(sizes=(size,), budgets=(int(ratio * scored.SIZES[size]),))
    ]
    records = frame([*found, *scored.speeds()])
    records = records.assign(n_body_params=records["n_params"])
    joined = quality.joined(records)
    assert joined.notes["bits_per_byte"] == "20 tokens a body parameter"
    of_retnet = joined.frame[joined.frame["arm"] == "retnet"].set_index("size")
    assert [*of_retnet.index] == ["a", "c", "e"]
    sizes = np.array([scored.SIZES[size] for size in of_retnet.index])
    truth = scored.crossing_law(sizes, 20 * sizes) * scored.TOKENS / scored.BYTES / np.log(2)
    assert of_retnet["bits_per_byte"].to_numpy() == pytest.approx(truth, rel=0.05)


def test_quality_alone_or_speed_alone_join_to_nothing():
    assert quality.joined(frame(scored.scaling())).frame.empty
    assert quality.joined(frame(scored.speeds())).frame.empty
    assert quality.joined(frame([])).frame.empty
