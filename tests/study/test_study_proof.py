"""The cost model against the paper's published numbers (reference values from its text)."""

from __future__ import annotations

import pytest

from retnet_bench.study import proof


def test_fig6a_weights_and_slope_within_one_percent_and_retnet_flat():
    weights, slope, flat, above = proof.fig6a()
    assert abs(weights.difference) < 0.01
    assert slope.predicted == proof.BATCH * 524288
    assert abs(slope.difference) < 0.01
    assert flat.predicted == flat.published == 1.0
    assert above.difference > 3  # a disagreement: the paper's points hold 3 fp16 states, not 8


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
