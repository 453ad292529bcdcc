"""Predictions: rooflines by hand, what fits, money, calibration, and columns beside a record."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from fakes.cells import QUICK, cell
from golden.records import frame, record

from retnet_bench.base import UserError
from retnet_bench.measure.devices import Rates
from retnet_bench.models import cost
from retnet_bench.predict import (
    calibration,
    fit,
    prediction,
    prices,
    record_columns,
    rooflines,
    targets,
)
from retnet_bench.predict.footprint import footprint
from retnet_bench.predict.rooflines import Roofline
from retnet_bench.predict.targets import Target
from retnet_bench.results.schema import TIMES
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Sample

RATES = Rates("fake, cpu", {"fp32": 1e9, "bf16": None}, 1e8, 1e-6, None, "a test")
TARGET = Target(RATES, "cpu", 10**9)


def planned(**changes) -> Planned:
    return Planned(cell(**changes), QUICK, None)


def test_the_roofline_names_what_binds():
    assert Roofline(2.0, 1.0, None).bound == "compute"
    assert Roofline(2.0, 3.0, 1.0).bound == "bandwidth"
    assert Roofline(2.0, 3.0, 4.0).seconds == 4.0
    assert Roofline(None, 3.0, 4.0).seconds is None  # it would not be the least
    assert Roofline(None, 3.0, 4.0).bound is None


def test_terms_of_a_decode_step_by_hand():
    it = cell("decode", "attention", length=40)
    cfg = it.matched().config
    line = rooflines.roofline(it, cfg, RATES, 7)
    assert line.compute_s == 2 * cost.step_flops(cfg, 39) / 1e9
    assert line.bandwidth_s == cost.step_bytes(cfg, 2, 40, 4) / 1e8
    assert line.launch_s == 7e-6
    at = rooflines.roofline(it, cfg, RATES, 7, position=9)
    assert at.bandwidth_s == cost.step_bytes(cfg, 2, 10, 4) / 1e8
    assert rooflines.roofline(replace(it, mode="compile"), cfg, RATES, 7).launch_s is None
    assert rooflines.roofline(replace(it, dtype="bf16"), cfg, RATES, 7).compute_s is None


def test_a_cell_of_one_thread_has_half_of_two_threads_rate():
    of_two = replace(RATES, flops_per_s={"fp32": 2e9, "bf16": None}, threads=2)
    target = replace(TARGET, rates=of_two)
    alone = prediction.predict(planned(threads=1), TARGET).roofline
    assert prediction.predict(planned(threads=1), target).roofline == alone
    assert prediction.predict(planned(threads=2), target).roofline.compute_s == alone.compute_s / 2
    assert prediction.predict(planned(threads=4), target).roofline.compute_s == alone.compute_s / 2
    assert of_two.with_threads(1).bytes_per_s == RATES.bytes_per_s
    assert of_two.with_threads(1).flops_per_s == RATES.flops_per_s


def test_operators_take_the_longest_of_their_terms():
    found = footprint(rooflines.step_of(cell(), cell().matched().config, "cpu"))
    slow_launch = replace(RATES, launch_s=1.0)
    assert rooflines.operator_seconds(found, slow_launch, "eager") >= found.launches
    assert rooflines.operator_seconds(found, slow_launch, "cudagraph") < 10
    no_peak = replace(RATES, flops_per_s={})
    assert rooflines.operator_seconds(found, no_peak, "eager") is None


def test_what_does_not_fit_is_marked_with_the_largest_that_would():
    big = planned(batch=64, length=256)
    step = rooflines.step_of(big.cell, big.matched.config, "cpu")
    limit = footprint(replace(step, batch=11)).peak_bytes
    found = prediction.predict(big, replace(TARGET, memory_bytes=limit))
    assert found.fits is False
    assert found.instead == "batch 11 would fit"
    assert prediction.predict(big, replace(TARGET, memory_bytes=limit - 1)).instead.startswith(
        "batch 10 "
    )
    (skipped,), *_ = prediction.skip_oom([[big]], replace(TARGET, memory_bytes=limit))
    assert skipped.unsupported.startswith("predicted to run out of memory: needs ")
    assert prediction.skip_oom([[big]], TARGET) == [[big]]


def test_where_no_batch_fits_a_length_may():
    one = planned(mixer="attention", kernel="math", batch=1, length=1024)
    step = rooflines.step_of(one.cell, one.matched.config, "cpu")
    limit = footprint(replace(step, length=384)).peak_bytes
    assert fit.largest(step, limit) == "length 384 at batch 1 would fit"
    assert fit.largest(step, 1000).startswith("no batch or length would: at least ")


def test_side_by_side_arms_share_the_memory():
    pair = [planned(), planned(mixer="attention")]
    most = max(prediction.predict(p, TARGET).peak_bytes for p in pair)
    target = replace(TARGET, memory_bytes=most)
    assert [p.fits for _, p in prediction.predictions([pair], target)] == [False, False]
    alone = [replace(p, protocol=replace(QUICK, interleave="processes")) for p in pair]
    assert [p.fits for _, p in prediction.predictions([alone], target)] == [True, True]


def test_trainings_for_quality_have_the_memory_to_themselves():
    """They run one after another."""
    pair = [
        Planned(cell("perplexity", mixer, token_budget=640), QUICK, None)
        for mixer in ("retention", "attention")
    ]
    assert prediction.side_by_side(pair) == 1
    assert prediction.side_by_side([planned(), planned(mixer="attention")]) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [("2.50", "no currency"), ("-1USD", "negative"), ("cheap", "no price"), ("2,5USD", "no price")],
)
def test_a_price_must_have_a_currency_and_a_sign(text, words):
    with pytest.raises(UserError, match=words):
        prices.price(text)


def test_a_price_of_seconds():
    assert prices.price("2.50usd").of(7200) == "5.00 USD"


def test_a_plan_for_another_device_forgets_what_this_machine_lacks():
    target = targets.on("h100-80gb")
    here = Planned(cell(kernel="fla", dtype="bf16"), QUICK, "package fla-core is not installed")
    there = targets.retargeted([[here]], target)[0][0]
    assert there.unsupported is None
    assert there.cell.device == "cuda"
    unknown = prediction.predict(there, target)
    assert unknown.memory is None
    assert "not modelled" in unknown.reason


KERNEL_REFUSES = [
    ({"kernel": "sdpa", "dtype": "fp64"}, "kernel sdpa: takes fp32, fp16, bf16, not fp64"),
    (
        {"kernel": "flash_attn_4", "mode": "compile"},
        "kernel flash_attn_4: runs in mode eager, cudagraph, not compile",
    ),
    ({"kernel": "sdpa_flash", "window": 16}, "kernel sdpa_flash: takes no window"),
    (
        {"kernel": "sdpa_cudnn", "head_dim": 4},
        "kernel sdpa_cudnn: key head dimension 4 is no multiple of 8",
    ),
    ({"kernel": "flash_attn_4"}, None),
    ({"kernel": "sdpa_cudnn", "window": 16}, None),
]


@pytest.mark.parametrize(("changes", "reason"), KERNEL_REFUSES)
def test_a_plan_for_another_device_says_what_the_kernel_refuses(changes, reason):
    here = planned(mixer="attention", **({"dtype": "bf16"} | changes))
    assert targets.retargeted([[here]], targets.on("h100-80gb"))[0][0].unsupported == reason


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("a100-80gb", "kernel flash_attn_4: needs compute capability 9.0, not 8.0"),
        ("b200", None),
        ("mi300x", None),  # of no NVIDIA GPU, so it is not known
    ],
)
def test_a_plan_for_another_device_has_that_ones_compute_capability(device, reason):
    here = planned(mixer="attention", kernel="flash_attn_4", dtype="bf16")
    assert targets.retargeted([[here]], targets.on(device))[0][0].unsupported == reason


def test_a_plan_for_another_device_says_what_no_machine_could_run():
    short = planned(workload="decode", length=8)
    found = targets.retargeted([[short]], targets.on("h100-80gb"))[0][0].unsupported
    assert found == "decode needs a length above 16, the steps it takes at the last position"


def test_what_stands_in_for_an_open_kernel_is_what_another_device_refuses():
    left = planned(mixer="attention", kernel="sdpa", open=("kernel",), dtype="fp64")
    found = targets.retargeted([[left]], targets.on("h100-80gb"))[0][0].unsupported
    assert found == "kernel sdpa: takes fp32, fp16, bf16, not fp64"


def timed(it, seconds: float, machine: str = "fake, cpu") -> dict:
    return {
        "metric": TIMES[it.workload],
        "machine": machine,
        "cell_json": it.canonical(),
        "position": pd.NA,
        "value": seconds,
        "samples": [seconds],
    }


def test_calibration_is_the_ratio_on_records_of_the_same_machine():
    cells = [cell(length=n) for n in (16, 32, 48)]
    floors = [
        rooflines.operator_seconds(
            footprint(rooflines.step_of(c, c.matched().config, "cpu")), RATES, "eager"
        )
        for c in cells
    ]
    rows = [timed(c, 2 * f) for c, f in zip(cells, floors, strict=True)]
    rows.append(timed(cell(length=64), 1e6, "another machine"))
    found = calibration.calibrate(pd.DataFrame(rows), TARGET)
    assert found.factor(cells[0]) == pytest.approx(2.0)
    assert found.factor(cell("prefill")) == 1.0
    key = ("train", "chunkwise", "fp32", "eager")
    assert found.error(key) == pytest.approx(1.0)
    assert calibration.Calibration({key: (2.0,)}).error(key) is None
    # each of 1, 2, 4 from the median of the other two: 3, 2.5, 1.5
    off = calibration.Calibration({key: (1.0, 2.0, 4.0)}).error(key)
    assert off == pytest.approx(4 / 1.5)
    calibrated = prediction.predict(planned(length=32), TARGET, calibration=found)
    assert calibrated.step_s == pytest.approx(2 * floors[1])


def test_a_training_s_own_rate_calibrates_those_like_it():
    it = cell("perplexity", token_budget=640)
    floor = rooflines.operator_seconds(
        footprint(rooflines.step_of(it, it.matched().config, "cpu")), RATES, "eager"
    )
    assert floor is not None
    rate = it.batch * it.length / (3 * floor)
    row = timed(cell(), rate) | {"cell_json": it.canonical(), "workload": "perplexity"}
    row |= {"metric": "training_tokens_per_second"}
    found = calibration.calibrate(pd.DataFrame([row]), TARGET)
    assert found.factor(it) == pytest.approx(3.0)


def test_records_of_another_machine_or_without_times_calibrate_nothing():
    elsewhere = timed(cell(), 1.0, "another machine")
    assert calibration.calibrate(pd.DataFrame([elsewhere]), TARGET).ratios == {}
    untimed = pd.DataFrame([elsewhere | {"metric": "outcome"}])
    assert calibration.calibrate(untimed, TARGET).ratios == {}


def test_columns_beside_a_time_and_a_peak():
    it = planned(workload="decode", mixer="attention", length=40)
    cfg = it.matched.config
    sample = Sample("decode_step_s", "s", (0.1, 0.2, 0.4), "decode", {"position": 20})
    found = record_columns.columns(it, TARGET, sample)
    line = rooflines.roofline(it.cell, cfg, RATES, None, 20)
    assert found["roofline_s"] >= line.bandwidth_s
    assert found["bandwidth_utilisation"] == line.bandwidth_s / 0.2
    assert found["flops_utilisation"] == line.compute_s / 0.2
    assert found["predicted"] > 0
    peak = Sample("peak_tensor_bytes", "bytes", (1.0,), "decode")
    assert (
        record_columns.columns(it, TARGET, peak)["predicted"]
        == prediction.predict(it, TARGET).peak_bytes
    )
    assert record_columns.columns(it, TARGET, Sample("warmup_s", "s", (1.0,), "warmup")) == {}
    nothing = Target(Rates("fake", {}, None, None, None, "not measured"), "cpu", None)
    unknown = record_columns.columns(it, nothing, sample)
    assert set(unknown) == {
        *("predicted", "roofline_s", "bound"),
        *("flops_utilisation", "bandwidth_utilisation"),
    }
    assert not any(unknown.values())


def test_a_decode_cell_takes_its_prompt_in_first():
    fast = Target(replace(RATES, bytes_per_s=1e12, launch_s=0.0), "cpu", None)
    made = [planned(workload="decode", length=length, positions=1) for length in (640, 64000)]
    short, long = (prediction.predict(one, fast).cell_s for one in made)
    flops = made[1].cell.batch * cost.prefill_flops(made[1].matched.config, 64000)
    assert long - short == pytest.approx(flops / 1e9, rel=0.02)


def test_power_comes_from_records_with_a_counter_and_gives_energy():
    told = [("cpu_energy_j", 30.0, 0), ("energy_window_s", 2.0, 0)]
    told += [("cpu_energy_j", 60.0, 1), ("energy_window_s", 3.0, 1)]
    rows = [
        record(metric, value=value, samples=[value], block=block, machine=RATES.name)
        for metric, value, block in told
    ]
    assert calibration.calibrate(frame(rows), TARGET).watts == 17.5  # of 15 and 20
    without = [row for row in rows if row["metric"] == "cpu_energy_j"]
    assert calibration.calibrate(frame(without), TARGET).watts is None
    elsewhere = [row | {"machine": "another"} for row in rows]
    assert calibration.calibrate(frame(elsewhere), TARGET).watts is None
