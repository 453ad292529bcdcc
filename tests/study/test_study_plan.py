"""Predictions: exact where they are said to be exact, and never falling with length."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.cells import QUICK, cell
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.measure.protocol import Protocol
from retnet_bench.study import plan
from retnet_bench.study.plan import Planned, Rates, predict
from retnet_bench.workloads import Cell

RATES = Rates(flops_per_s=1e9, bytes_per_s=1e9)
FAST = Rates(flops_per_s=1e15, bytes_per_s=1e15)
# 2 layers of 12 d^2 matrix weights, d = 64, and an embedding of 64 ids; norms come on top.
MATRICES = 2 * 12 * 64**2 + 64 * 64


def predicted(found: Cell, protocol: Protocol = QUICK, rates: Rates = RATES) -> plan.Cost:
    return predict(Planned(found, protocol, None), rates)


def test_least_bytes_of_training_are_four_fp32_copies_of_the_weights():
    """Weights, gradients and AdamW's two moments, 16 bytes a parameter whatever the dtype."""
    cost = predicted(cell(mixer="attention", dtype="bf16"))
    norms = cost.least_bytes / 16 - MATRICES
    assert norms == int(norms)
    assert 0 < norms < 0.02 * MATRICES


@pytest.mark.parametrize("workload", ["decode", "prefill"])
def test_least_bytes_of_inference_are_weights_and_state(workload):
    def least(mixer: str, length: int) -> int:
        return predicted(cell(workload, mixer, length=length)).least_bytes

    assert least("retention", 1000) == least("retention", 100)
    # keys and values, 2 layers, batch 2, width 64, fp32
    assert least("attention", 1000) - least("attention", 100) == 900 * 2 * 2 * 2 * 64 * 4
    weights = predicted(cell("train", "attention")).least_bytes // 4
    assert least("attention", 100) == weights + 100 * 2 * 2 * 2 * 64 * 4


def test_a_training_step_is_predicted_from_flops():
    long = cell(mixer="attention", length=512, batch=4)
    cost = predicted(long)
    floor = 6 * 2 * 12 * 64**2 * 512 * 4  # 6 FLOPs a body weight and token
    assert floor < cost.flops < 2 * floor
    assert cost.step_s == cost.flops / (plan.EFFICIENCY * 1e9)
    assert predicted(replace(long, batch=8)).flops == 2 * cost.flops


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["train", "prefill", "decode"]),
    st.sampled_from(["retention", "attention"]),
    st.integers(17, 4000),
    st.integers(1, 4000),
)
def test_predictions_never_fall_with_length(workload, mixer, length, more):
    short, long = (predicted(cell(workload, mixer, length=n)) for n in (length, length + more))
    assert long.least_bytes >= short.least_bytes
    assert long.step_s >= short.step_s
    assert long.cell_s >= short.cell_s


def test_time_and_memory_are_charged_only_where_they_are_taken():
    def seconds(protocol: Protocol = QUICK, measure: tuple[str, ...] = ("time", "memory")) -> float:
        return predicted(cell(measure=measure), protocol, FAST).cell_s

    assert seconds(measure=("memory",)) < seconds(measure=("time",)) < seconds()
    more = replace(QUICK, blocks=QUICK.blocks + 3)
    assert seconds(more) - seconds() == pytest.approx(3 * QUICK.block_s)
    assert seconds(replace(QUICK, processes=2)) == pytest.approx(2 * seconds())


def test_costs_follow_the_plan_and_say_none_for_what_cannot_run():
    pair = [Planned(cell(), QUICK, None), Planned(cell(mixer="attention"), QUICK, "no such GPU")]
    (first, cost), (second, nothing) = plan.costs([pair], RATES)
    assert (first, second) == tuple(pair)
    assert cost == predicted(cell())
    assert nothing is None


def test_rates_of_this_machine_are_plausible():
    rates = plan.measure_rates([[Planned(cell(), QUICK, None)]])
    assert 1e8 < rates.flops_per_s < 1e14
    assert 1e8 < rates.bytes_per_s < 1e13
