"""Claims on hand-made records whose numbers are known: each kind, each verdict, each reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden.records import blocks, decode, document, failure, frame, record
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.verdicts import claims, judging
from retnet_bench.analysis.verdicts.claims import Claim
from retnet_bench.base import UserError

ARMS = {"of": "retnet", "over": "transformer"}


def claim(kind: str, where: dict[str, Any], metric: str | None = None, **fields: Any) -> Claim:
    two = kind in ("ratio", "crossover")
    measure = {"kind": kind, "metric": metric, "of": "retnet", "over": "transformer"}
    measure |= fields.pop("measure", {})
    if not two:
        measure.pop("over")
    comparison = {} if {"at_most", "between", "includes"} & fields.keys() else {"at_least": 1}
    made = {"name": "c", "says": "so", "source": "me", "measure": measure, "where": where}
    return Claim.model_validate(made | comparison | fields)


def find(rows: list[dict[str, Any]], stated: Claim) -> judging.Finding:
    claims.check([stated])
    (found,) = judging.evaluate(frame(rows), [stated])
    return found


def train(lengths=(512, 1024), **fields: Any) -> list[dict[str, Any]]:
    """RetNet linear, 0.1 s at 512; the Transformer quadratic and equal at 256."""
    rows = []
    for length in lengths:
        for arm, seconds in (("retnet", length / 5120), ("transformer", length**2 / 1310720)):
            levels = [seconds * noise for noise in (0.99, 1.0, 1.0, 1.01)]
            rows += blocks("train_step_s", arm, levels, length=length, **fields)
    return rows


TRAIN = {"workload": "train", "length": "max"}


def test_a_ratio_of_rates_is_that_of_times_upside_down():
    rates = find(train(), claim("ratio", TRAIN, "train_tokens_per_s"))
    times = find(train(), claim("ratio", TRAIN, "train_step_s"))
    assert rates.interval[:3] == pytest.approx([4.0] * 3)
    assert times.interval[:3] == pytest.approx([0.25] * 3)
    assert (rates.verdict, times.verdict) == ("holds", "does not hold")
    assert (rates.at, rates.unit) == ("size 1m, length 1024, batch 2", "x")


def test_the_longest_is_the_longest_that_both_arms_reached():
    rows = [*train(), *blocks("train_step_s", "retnet", [1.0, 1.0], length=4096)]
    rows.append(failure("transformer", "train", "oom", length=4096))
    assert "length 1024" in find(rows, claim("ratio", TRAIN, "train_step_s")).at
    alone = find(rows, claim("level", TRAIN, "train_step_s"))
    assert (alone.at, alone.interval.estimate) == ("size 1m, length 4096, batch 2", 1.0)


def test_a_level_is_in_the_metric_s_unit():
    found = find(train(), claim("level", {"workload": "train", "length": 512}, "train_step_s"))
    assert found.interval.estimate == pytest.approx(0.1)
    assert found.unit == "s"
    rate = find(train(), claim("level", {"workload": "train", "length": 512}, "train_tokens_per_s"))
    assert (rate.interval.estimate, rate.unit) == (pytest.approx(2 * 512 / 0.1), "tokens/s")


def curve(arm: str, at_0: float, per_position: float, **fields: Any) -> list[dict[str, Any]]:
    return decode(arm, {p: at_0 + per_position * p for p in (1, 500, 1000)}, **fields)


def test_decode_is_the_mean_over_positions_unless_one_is_named():
    rows = curve("retnet", 1e-3, 0.0) + curve("transformer", 1e-3, 1e-6)
    base = {"workload": "decode", "length": "max"}
    over = {"of": "transformer", "over": "retnet"}
    for position, ratio in ((None, 1.5005), ("max", 2.0), (500, 1.5), (1, 1.001)):
        where = base | ({"position": position} if position else {})
        found = find(rows, claim("ratio", where, "decode_step_s", measure=over))
        assert found.interval.estimate == pytest.approx(ratio), position
    lacking = find(rows, claim("ratio", base | {"position": 7}, "decode_step_s"))
    assert (lacking.verdict, lacking.reason) == (
        "not measured",
        "no decode_step_s above 0 at position 7",
    )


def test_a_slope_is_in_microseconds_a_position():
    rows = curve("retnet", 1e-3, 0.0) + curve("transformer", 1e-3, 2e-6)
    where = {"workload": "decode", "length": 1000}
    rising = find(rows, claim("slope", where, measure={"of": "transformer"}))
    assert rising.interval[:3] == pytest.approx([2.0] * 3)
    assert (rising.unit, rising.verdict) == ("ms per 1,000 tokens", "holds")
    flat = find(rows, claim("slope", where, includes=0))
    assert (flat.interval.estimate, flat.verdict) == (0.0, "holds")


def test_growth_is_the_slope_over_the_span_as_a_share_of_the_mean_step():
    rows = curve("retnet", 1e-3, 0.0) + curve("transformer", 1e-3, 2e-6)
    where = {"workload": "decode", "length": 1000}
    of = {"of": "transformer"}
    rising = find(rows, claim("growth", where, measure=of, at_most=5))
    mean = 1e-3 + 2e-6 * (1 + 500 + 1000) / 3
    assert rising.interval[:3] == pytest.approx([100 * 2e-6 * 999 / mean] * 3)
    assert (rising.unit, rising.verdict) == ("%", "does not hold")
    flat = find(rows, claim("growth", where, at_most=5))
    assert (flat.interval.estimate, flat.verdict) == (0.0, "holds")
    once = find(decode("retnet", {1: 1e-3}), claim("growth", where | {"length": "max"}))
    assert (once.verdict, once.reason) == ("not measured", "no block reached two positions")


def test_an_exponent_is_the_slope_in_logarithms():
    where = {"workload": "train"}
    of = {"of": "transformer"}
    square = find(train((256, 512, 1024)), claim("exponent", where, "train_step_s", measure=of))
    assert square.interval.estimate == pytest.approx(2.0)
    assert square.verdict == "holds"
    once = find(train((256,)), claim("exponent", where, "train_step_s"))
    assert (once.verdict, once.reason) == ("not measured", "fewer than two lengths")


def test_counted_bytes_need_no_interval_but_sampled_ones_do():
    rows = []
    for length in (512, 1024):
        for metric in ("peak_tensor_bytes", "peak_rss_bytes"):
            rows.append(record(metric, length=length, samples=[1e6]))
            rows.append(record(metric, "transformer", length=length, samples=[1e3 * length]))
    over = {"of": "transformer", "over": "retnet"}
    counted = find(rows, claim("ratio", TRAIN, "peak_tensor_bytes", measure=over))
    assert counted.interval[:3] == pytest.approx([1.024] * 3)
    assert (counted.verdict, counted.reason) == ("holds", "")
    sampled = find(rows, claim("ratio", TRAIN, "peak_rss_bytes", measure=over))
    assert (sampled.verdict, sampled.reason) == (
        "inconclusive",
        "no interval from 1 block, needs 4",
    )
    flat = find(rows, claim("exponent", {"workload": "train"}, "peak_tensor_bytes", includes=0))
    assert (flat.interval.estimate, flat.verdict) == (0.0, "holds")


def test_a_crossover_inside_below_and_beyond_the_range():
    where = {"workload": "train"}
    inside = find(train((128, 512)), claim("crossover", where, at_most=300))
    assert inside.interval.estimate == pytest.approx(256)
    assert (inside.verdict, inside.unit) == ("holds", "tokens")
    below = find(train((512, 1024)), claim("crossover", where, at_most=512))
    assert (below.interval[:3], below.verdict) == ((0.0, 0.0, 512.0), "holds")
    assert find(train((512, 1024)), claim("crossover", where, at_most=500)).verdict == (
        "inconclusive"
    )
    beyond = find(train((64, 128)), claim("crossover", where, at_least=100))
    assert (beyond.interval[:3], beyond.verdict) == (
        pytest.approx((np.inf, 128, np.inf)),
        "holds",
    )
    assert find(train((64, 128)), claim("crossover", where, at_most=100)).verdict == (
        "does not hold"
    )


def test_the_other_arm_s_crossover_is_not_its_own():
    """RetNet passes the Transformer at 256, so the Transformer never passes RetNet for good."""
    swapped = {"of": "transformer", "over": "retnet"}
    found = find(train((128, 512)), claim("crossover", {"workload": "train"}, measure=swapped))
    assert found.interval.estimate == np.inf


def perplexity(worse: float = 0.0, **fields: Any) -> list[dict[str, Any]]:
    rows = []
    for size, n, nll in (("1m", 1_000_000, 110.0), ("4m", 4_000_000, 90.0), ("10k", 10_000, 120)):
        for i, more in enumerate((0, 1, 1, 2)):
            at = {"size": size, "n_params": n, **fields}
            rows += document("retnet", f"d{i}", nll + worse + more, **at)
            rows += document("transformer", f"d{i}", 100.0 + more, **at)
    return rows


def test_perplexities_by_ratio_level_and_crossover():
    where = {"workload": "perplexity", "size": "max"}
    ratio = find(perplexity(), claim("ratio", where, "perplexity_per_byte", at_most=1))
    assert ratio.interval[:3] == pytest.approx([np.exp(-0.1)] * 3)
    assert (ratio.verdict, ratio.at) == ("holds", "size 4m, length 512, batch 2")
    level = find(perplexity(), claim("level", where, "perplexity_per_byte", at_most=3))
    assert level.interval.estimate == pytest.approx(np.exp(0.91))
    crossed = find(perplexity(), claim("crossover", {"workload": "perplexity"}, at_least=1e6))
    assert crossed.interval.estimate == pytest.approx(2e6)
    assert (crossed.verdict, crossed.unit) == ("holds", "parameters")
    several = find(perplexity(), claim("ratio", {"workload": "perplexity"}, "perplexity_per_byte"))
    assert several.reason == "where leaves open: size (10k, 1m, 4m); say which"


def test_trainings_from_several_seeds_are_replicas_of_one_claim():
    """RetNet is 4 nat a document worse from the second seed: the mean of both counts."""
    rows = [*perplexity(seed=0), *perplexity(worse=4.0, seed=1)]
    where = {"workload": "perplexity", "size": "4m"}
    ratio = find(rows, claim("ratio", where, "perplexity_per_byte", at_most=1))
    assert ratio.interval.estimate == pytest.approx(np.exp(-0.08))
    assert ratio.interval.low < ratio.interval.estimate < ratio.interval.high
    crossed = find(rows, claim("crossover", {"workload": "perplexity"}, at_least=1e6))
    assert crossed.interval.estimate == pytest.approx(1e6 * 4 ** (12 / 20))
    one = find(rows, claim("ratio", where | {"seed": 0}, "perplexity_per_byte", at_most=1))
    assert one.interval[:3] == pytest.approx([np.exp(-0.1)] * 3)


# --- why not ------------------------------------------------------------------------------------


def test_what_was_not_measured_says_why():
    stated = claim("ratio", {"workload": "train", "length": 2048}, "train_step_s")
    rows = [*train(), *blocks("train_step_s", "retnet", [1.0], length=2048)]
    assert find(rows, stated).reason == (
        "no train_step_s of transformer at workload train, length 2048"
    )
    rows.append(failure("transformer", "train", "oom", length=2048))
    lost = find(rows, stated)
    assert (lost.verdict, lost.reason) == ("not measured", "transformer oom: it ended in oom")
    assert np.isnan(lost.interval.estimate)


def test_an_unavailable_counter_says_why():
    unread = {"status": "unavailable", "reason": "no CUDA device"}
    rows = [record("cuda_peak_allocated_bytes", arm, **unread) for arm in ("retnet", "transformer")]
    found = find(rows, claim("ratio", {"workload": "train"}, "cuda_peak_allocated_bytes"))
    assert found.reason.endswith("unavailable: no CUDA device")


def test_no_records_at_all():
    assert find([], claim("ratio", TRAIN, "train_step_s")).verdict == "not measured"


def test_several_contracts_are_not_one_number():
    rows = train() + train(dtype="bf16")
    found = find(rows, claim("ratio", {"workload": "train"}, "train_step_s"))
    assert found.reason == "where leaves open: length (512, 1024), dtype (bf16, fp32); say which"
    assert find(rows, claim("ratio", TRAIN | {"dtype": "bf16"}, "train_step_s")).verdict == (
        "does not hold"
    )


def test_arms_of_different_runs_are_no_ratio():
    rows = blocks("train_step_s", "retnet", [0.1, 0.1])
    rows += blocks("train_step_s", "transformer", [0.2, 0.2], run_id="run-2")
    found = find(rows, claim("ratio", TRAIN, "train_step_s"))
    assert found.reason == "the arms were not measured side by side"


# --- verdicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comparison", "verdicts"),
    [  # on [1, 2], [2, 3] and [3, 4]
        ({"at_least": 2.5}, ("does not hold", "inconclusive", "holds")),
        ({"at_most": 2.5}, ("holds", "inconclusive", "does not hold")),
        ({"between": [1.5, 3.5]}, ("inconclusive", "holds", "inconclusive")),
        ({"between": [0, 2.5]}, ("holds", "inconclusive", "does not hold")),
        ({"between": [4.5, 5]}, ("does not hold",) * 3),
        ({"includes": 2.5}, ("does not hold", "holds", "does not hold")),
        ({"at_least": 2}, ("inconclusive", "holds", "holds")),
    ],
)
def test_the_verdict_comes_from_the_ends(comparison, verdicts):
    made = claim("ratio", TRAIN, "train_step_s").model_dump(exclude={"at_least"})
    stated = Claim.model_validate(made | comparison)
    found = [judging.judge(stated, Interval(np.nan, low, low + 1, 5)) for low in (1, 2, 3)]
    assert tuple(found) == verdicts


@given(bound=st.floats(-10, 10), low=st.floats(-10, 10), width=st.floats(0, 5))
def test_at_least_and_at_most_never_both_fail(bound, low, width):
    made = claim("ratio", TRAIN, "train_step_s").model_dump(exclude={"at_least"})
    interval = Interval(low, low, low + width, 5)
    verdicts = [
        judging.judge(Claim.model_validate(made | {name: bound}), interval)
        for name in ("at_least", "at_most")
    ]
    assert verdicts.count("does not hold") <= 1
    if low < bound < low + width:
        assert verdicts == ["inconclusive"] * 2


# --- mistakes -----------------------------------------------------------------------------------

WRONG = [
    ({"at_most": 2}, "claims.c: give one of at_least, at_most, between, includes; at_least and"),
    ({"at_least": None}, "none stand here"),
    ({"at_least": None, "between": [2, 1]}, "claims.c: between: 2 is above 1"),
    ({"measure": {"over": None}}, 'claims.c: measure: a ratio needs "over"'),
    ({"measure": {"over": "retnet"}}, '"of" and "over" are both retnet'),
    ({"measure": {"metric": None}}, "a ratio needs a metric"),
    ({"measure": {"metric": "train_steps_s"}}, 'did you mean "train_step_s"?'),
    ({"measure": {"metric": "decode_step_s"}}, 'train has no "decode_step_s"'),
    ({"measure": {"kind": "slope"}}, "compares no arms"),
    ({"measure": {"kind": "slope", "over": None}}, "a slope is over positions of decode, not of t"),
    ({"measure": {"kind": "growth", "over": None}}, "a growth is over positions of decode, not of"),
    ({"measure": {"kind": "crossover"}}, "is of time, so it has no metric"),
]


@pytest.mark.parametrize(("change", "line"), WRONG, ids=[line[-30:] for _, line in WRONG])
def test_a_claim_that_says_nothing_is_refused(change, line):
    made = claim("ratio", TRAIN, "train_step_s").model_dump(exclude_none=True)
    made |= change | {"measure": made["measure"] | change.get("measure", {})}
    with pytest.raises(UserError) as caught:
        claims.check([Claim.model_validate(made)])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_stands_once():
    with pytest.raises(UserError, match=r"claims\.c: the name is given twice"):
        claims.check([claim("ratio", TRAIN, "train_step_s")] * 2)


def test_claims_stand_beside_the_records(tmp_path):
    assert claims.beside(tmp_path) == []
    path = tmp_path / "study.yaml"
    path.write_text("name: x\n")
    assert claims.beside(tmp_path) == []
    stated = claim("ratio", TRAIN, "train_step_s")
    path.write_text(f"claims: [{stated.model_dump_json(exclude_none=True)}]")
    assert claims.beside(tmp_path) == [stated]
    for text in ("claims: [{name: x}]", "claims: 3", "- a", "claims: [", "\x01"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"study\.yaml: [^\n]+$"):
            claims.beside(tmp_path)
