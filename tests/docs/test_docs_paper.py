"""The cost model against the paper's published numbers (reference values from its text)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import paper_model as proof
import paper_page as page
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "paper.md"
CSV = ROOT / "retnet_bench" / "paper" / "predicted.csv"


def test_fig6a_weights_and_slope_within_one_percent_and_retnet_flat():
    found = {row.what: row for row in proof.fig6a()}
    slope = found["Transformer, a token"]
    flat = found["RetNet, length 8192 over 2048"]
    assert slope.predicted == proof.BATCH * 524288
    assert flat.predicted == flat.published == 1.0
    assert found["weights"].agrees
    assert slope.agrees
    assert flat.agrees


def test_fig6a_s_disagreements():
    """RetNet's points hold 3 fp16 states, not 8; the Transformer's line starts too low."""
    found = {row.what: row for row in proof.fig6a()}
    fp16, fp32 = (row for what, row in found.items() if what.startswith("RetNet above"))
    assert fp16.predicted == pytest.approx(1.0737, abs=1e-4)
    assert fp16.published / (fp16.predicted / 8) == pytest.approx(3, abs=0.02)
    assert fp32.predicted == 2 * fp16.predicted
    assert not fp16.agrees
    assert not fp32.agrees
    short, longest = (found[f"Transformer, length {length}"] for length in (2048, 8192))
    assert short.difference == pytest.approx(0.028, abs=0.001)
    assert longest.difference == pytest.approx(0.0102, abs=0.0005)


@pytest.mark.parametrize(
    ("rule", "predicted", "published", "agrees"),
    [
        ("within 1 %", 1.0099, 1.0, True),
        ("within 1 %", 0.989, 1.0, False),
        ("same side of 1", 0.5, 0.999, True),
        ("same side of 1", 1.2, 0.9, False),
        ("same side of 1", 1.002, 0.9, False),
        ("same side of 1", 1.002, 0.995, True),
        ("at most the bound", 3.06, 15.6, False),
        ("at most the bound", 1.0, 1.0, True),
        ("at least the floor", 7.6, 24.2, True),
        ("at least the floor", 7.6, 7.5, False),
    ],
)
def test_the_rules(rule, predicted, published, agrees):
    row = proof.Comparison("w", predicted, published, "x", "c", rule)
    assert row.agrees == agrees


def test_the_headlines_exceed_what_two_arms_at_their_bounds_allow():
    late, first, throughput, short, memory = proof.headlines()
    assert (late.published, late.predicted) == pytest.approx((15.6, 3.06), abs=0.02)
    assert (first.published, first.predicted) == pytest.approx((4.12, 1.29), abs=0.01)
    assert (throughput.published, throughput.predicted) == pytest.approx((8.45, 1.96), abs=0.01)
    assert short.published == pytest.approx(3.43, abs=0.01)
    assert not any(row.agrees for row in (late, first, throughput, short, memory))
    assert (memory.published, memory.predicted) == pytest.approx((3.41, 3.30), abs=0.01)


def test_table4_utilisation_reads_as_eight_gpus():
    mfu = proof.table4_utilisation().groupby("arm")["mfu"].agg(["min", "max"])
    assert 0.04 < mfu.loc["transformer", "min"] < mfu.loc["transformer", "max"] < 0.055
    assert 0.25 < mfu.loc["transformer_flash", "min"] < mfu.loc["transformer_flash", "max"] < 0.31
    assert 0.25 < mfu.loc["retnet", "min"] < mfu.loc["retnet", "max"] < 0.30
    assert mfu["min"].min() * proof.GPUS < 1 < mfu["max"].max() * proof.GPUS  # not one GPU's


@pytest.mark.parametrize(
    ("batch", "length", "element", "ratio"),
    [
        (8, 8192, 2, 3.06),
        (8, 8192, 4, 2.69),
        (8, 2048, 2, 1.41),
        (1, 8192, 2, 1.29),
        (1, 2048, 2, 1.06),
    ],
)
def test_a_tuned_cache_bounds_the_decode_ratio(batch, length, element, ratio):
    assert proof.largest_decode_ratio(batch, length, element) == pytest.approx(ratio, abs=0.015)


def test_fig6_stands_far_above_its_floor():
    last = proof.fig6c().set_index(["arm", "length", "batch"])["times_floor"]
    assert last["transformer", 8192, 8] == pytest.approx(16, rel=0.02)
    assert last["retnet", 8192, 8] == pytest.approx(3.2, rel=0.02)
    share = proof.fig6b().set_index(["arm", "length"])["share"]
    assert share["transformer", 8192] < 0.07 < 0.29 < share["retnet", 8192] < 0.31


@pytest.mark.slow
def test_table4_memory_order_with_and_without_checkpointing():
    """Agrees with the paper on the unfused Transformer; on RetNet against fused attention it does
    not: ours needs more without checkpointing, and as much with it."""
    plain, kept = (
        proof.table4_memory(checkpointed).set_index(["arm", "size"])["memory_gb"]
        for checkpointed in (False, True)
    )
    for size in ("1.3B", "2.7B", "6.7B"):
        for memory in (plain, kept):
            assert memory["retnet", size] < memory["transformer", size]
        assert plain["retnet", size] > plain["transformer_flash", size]
        assert kept["retnet", size] == pytest.approx(kept["transformer_flash", size], rel=0.01)


def test_table4_ratios_agree_on_unfused_attention():
    rows = {row.what: row for row in proof.table4_ratios(checkpointed=False)}
    assert len(rows) == 8
    for size in proof.TRAINED:
        assert rows[f"RetNet over transformer, {size}"].agrees
        assert not rows[f"RetNet over transformer_flash, {size}"].agrees


def test_the_ceiling_of_training_is_at_full_utilisation():
    row = proof.table4_utilisation().iloc[0]
    ceiling = proof.train_ceiling(row["arm"], row["size"], 8192)
    assert ceiling == pytest.approx(row["value"] / row["mfu"])
    flops = 8 * 312e12 / ceiling
    assert flops == pytest.approx(6 * 1.339e9 + 6 * 24 * 8192 * 2048, rel=0.01)  # scores: 6 L T d


def test_the_committed_predictions_are_those_of_the_cost_model():
    assert CSV.read_text("utf-8") == page.write_predicted(), (
        "run: python docs/build/paper_page.py predicted > retnet_bench/paper/predicted.csv"
    )


def test_the_committed_page_is_what_the_command_prints():
    assert PAGE.read_text("utf-8") == page.write_page(), (
        "run: python docs/build/paper_page.py > docs/paper.md"
    )


def test_the_predicted_points_are_the_paper_s():
    points = proof.predicted()
    assert not points.duplicated(["figure", "arm", "size", "length", "batch"]).any()
    counts = points.groupby("figure").size().to_dict()
    assert counts == {"fig6a": 14, "fig6b": 14, "fig6c": 40, "table4": 8}
    keys = zip(points["figure"], points["arm"], points["length"], points["batch"], strict=True)
    values = dict(zip(keys, points["value"], strict=True))
    assert values["fig6c", "transformer", 8192, 8] == pytest.approx(23.4, abs=0.1)
    assert values["fig6a", "retnet", 8192, 8] == pytest.approx(13.41 + 1.07, abs=0.01)
    assert values["fig6b", "retnet", 2048, 8] == pytest.approx(8 / 7.63e-3, rel=0.01)


def test_an_unknown_word_is_one_line():
    done = subprocess.run(
        [sys.executable, "docs/build/paper_page.py", "predictd"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert done.stderr == 'unknown word "predictd"; did you mean "predicted"?\n'
