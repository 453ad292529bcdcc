"""The gate's verdicts, refusals and exit codes on hand-made records."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from golden.records import blocks, decode, document, failure, frame, record
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import floor
from retnet_bench.analysis.tables.floor import Floor
from retnet_bench.analysis.verdicts import gate
from retnet_bench.analysis.verdicts.decision import Policy, bounds, decide
from retnet_bench.analysis.verdicts.gate_report import Report, Row
from retnet_bench.base import UserError

UNKNOWN = floor.unknown("no self-test in runs/x/selftest")


def timed(factor: float, run: str, n: int = 12, seed: int = 0, **fields) -> list[dict]:
    """Blocks around 0.1 s times `factor`, 1 % apart."""
    levels = 0.1 * factor * np.random.default_rng(seed).lognormal(sigma=0.01, size=n)
    return blocks("train_step_s", "retnet", levels, run_id=run, **fields)


def check(mine: list[dict], theirs: list[dict], floors=UNKNOWN, **policy) -> Report:
    return gate.compare(frame(mine), frame(theirs), floors, Policy(**policy))


def only(report: Report, kind: str = "timed") -> Row:
    (row,) = [row for row in report.rows if row.kind == kind]
    return row


def figure(report: Report, start: str) -> Row:
    (row,) = [row for row in report.rows if row.figure.startswith(start)]
    return row


@pytest.mark.parametrize("run", ["one", "two"])  # interleaved, and apart
@pytest.mark.parametrize(
    ("factor", "verdict", "code"),
    [(1.0, "pass", 0), (1.15, "regression", 1), (0.85, "improvement", 0)],
)
def test_verdict_and_exit_code_of_a_timed_figure(run, factor, verdict, code):
    report = check(timed(factor, "one"), timed(1.0, run, seed=1))
    row = only(report)
    assert (row.verdict, report.exit_code, row.paired) == (verdict, code, run == "one")
    assert row.ratio == pytest.approx(factor, rel=0.02)


def test_a_noisy_figure_is_inconclusive_and_says_how_many_blocks_it_takes():
    random = np.random.default_rng(0)
    mine, theirs = (
        blocks("train_step_s", "retnet", 0.1 * random.lognormal(sigma=0.1, size=6)) for _ in "ab"
    )
    report = check(mine, theirs)
    row = only(report)
    assert (row.verdict, report.exit_code) == ("inconclusive", 3)
    assert row.blocks_needed > 50
    assert f"{row.blocks_needed} blocks would settle it, there are 6" in row.remark
    assert row.detectable > 0.1


def test_blocks_of_one_run_are_paired_so_that_drift_cancels():
    """D11: an interval called paired, over samples that were taken one set after the other."""
    drift = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    paired = check(
        blocks("train_step_s", "retnet", [1.001 * d for d in drift]),
        blocks("train_step_s", "retnet", drift),
    )
    assert only(paired).verdict == "pass"
    apart = check(
        blocks("train_step_s", "retnet", [1.001 * d for d in drift], run_id="later"),
        blocks("train_step_s", "retnet", drift),
    )
    assert only(apart).verdict == "inconclusive"
    assert "not interleaved" in only(apart).remark


def test_one_block_a_side_is_never_a_verdict():
    report = check(timed(2.0, "a", n=1), timed(1.0, "a", n=1, seed=1))
    assert only(report).verdict == "inconclusive"
    assert only(report).low is None
    assert "no interval from 1 block, needs 4" in only(report).remark


def test_unequal_numbers_of_blocks_are_compared_and_not_called_different():
    """pyperf calls any two benchmarks with unequal counts significant (D2)."""
    for n, m in ((6, 5), (12, 7), (2, 9)):
        report = check(timed(1.0, "a", n=n), timed(1.0, "b", n=m, seed=1))
        assert only(report).verdict != "regression"
    assert only(check(timed(1.0, "a", n=1), timed(1.0, "b", n=1, seed=2))).verdict == "inconclusive"


@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 7), (4, 9)])
def test_twice_as_slow_is_seen_where_asv_is_blind(n, m):
    """asv says "not different" of a doubled time at 6 v 6, 5 v 7 and 4 v 9 samples (D3)."""
    assert only(check(timed(2.0, "a", n=n), timed(1.0, "b", n=m, seed=1))).verdict == "regression"


def test_the_noise_floor_is_the_lower_threshold():
    floors = {"train_step_s": Floor(0.2, 9)}
    report = check(timed(1.15, "one"), timed(1.0, "one", seed=1), floors)
    row = only(report)
    assert (row.verdict, row.tau, row.limit) == ("pass", 0.2, 0.4)
    assert "limit 5.0% is within the noise: 40.0% is used" in row.remark
    assert (
        "noise floor unknown (no self-test"
        in only(check(timed(1, "a"), timed(1, "a", 12, 1))).remark
    )


def test_decode_is_compared_by_its_mean_over_positions():
    at = {1: 0.1, 100: 0.1, 1000: 0.3}
    report = check(decode("retnet", at), decode("retnet", {p: s / 2 for p, s in at.items()}))
    assert only(report).ratio == pytest.approx(2.0)
    assert (only(report).baseline, only(report).candidate) == ("95.05 ms", "190.1 ms")
    assert only(report).verdict == "regression"


def test_impure_blocks_are_kept_and_counted():
    rows = timed(1.0, "a")
    rows[3] |= {"status": "impure", "reason": "a recompile"}
    row = only(check(rows, timed(1.0, "a", seed=1)))
    assert row.blocks == 12
    assert "1 impure blocks kept" in row.remark


EXACT = [
    ("n_params", {"n_params": 1_000_001}, "regression", 1),
    ("flops_per_token", {"flops_per_token": 3.0}, "regression", 1),
    ("state_bytes", {"state_bytes": 9}, "regression", 1),
    ("kernel_dispatched", {"kernel_dispatched": "math"}, "regression", 1),
]
BASE = {"flops_per_token": 2.0, "state_bytes": 8}


@pytest.mark.parametrize(("name", "change", "verdict", "code"), EXACT)
def test_exact_columns_are_compared_exactly(name, change, verdict, code):
    report = check(
        timed(1.0, "a", **(BASE | change)), timed(1.0, "b", seed=1, **BASE), exact_only=True
    )
    assert (figure(report, name).verdict, report.exit_code) == (verdict, code)
    assert [row for row in report.rows if row.verdict == "regression"] == [figure(report, name)]


@pytest.mark.parametrize(
    ("metric", "value", "verdict"),
    [
        ("peak_tensor_bytes", 1000.0, "pass"),
        ("peak_tensor_bytes", 1001.0, "regression"),
        ("peak_tensor_bytes", 999.0, "improvement"),
        ("weight_bytes", 999.0, "regression"),
        ("loss_after_steps_nat", np.nextafter(1000.0, 2000.0), "regression"),
    ],
)
def test_exact_metrics_are_compared_to_the_last_bit(metric, value, verdict):
    mine, theirs = (
        [record(metric, value=v, samples=[v], step=3, run_id=run)]
        for v, run in ((value, "a"), (1000.0, "b"))
    )
    assert figure(check(mine, theirs), metric).verdict == verdict


def test_forms_agreement_is_an_exact_figure():
    def side(error, run):
        return [
            record("forms_relative_error", phase="check", check="fp64", samples=[error], run_id=run)
        ]

    assert figure(check(side(1e-14, "a"), side(1e-15, "b")), "forms").verdict == "pass"
    assert figure(check(side(1e-9, "a"), side(1e-15, "b")), "forms").verdict == "regression"
    assert figure(check(side(np.nan, "a"), side(1e-15, "b")), "forms").verdict == "regression"


def test_a_baseline_that_disagrees_with_itself_proves_nothing():
    theirs = [
        record("peak_tensor_bytes", value=v, process=p, run_id="b") for p, v in enumerate((1, 2))
    ]
    mine = [record("peak_tensor_bytes", value=1.0, run_id="a")]
    assert figure(check(mine, theirs), "peak").verdict == "not comparable"


def test_another_machine_compares_what_does_not_depend_on_it_and_never_passes_on_time():
    other = {"machine": "Other CPU", "fingerprint": "beef"}
    report = check(timed(1.0, "a"), timed(1.0, "b", seed=1, **other))
    assert (only(report).verdict, report.exit_code) == ("not comparable", 4)
    assert only(report).remark == "machine differs: Test CPU against Other CPU"
    assert figure(report, "n_params").verdict == "pass"
    assert figure(report, "kernel_dispatched").verdict == "not comparable"
    exact = check(timed(1.0, "a"), timed(1.0, "b", seed=1, **other), exact_only=True)
    assert exact.exit_code == 0


def test_a_fingerprint_that_differs_names_the_field_behind_it():
    environment = {"cpu": {"model": "A", "frequency_mhz": 1.0}, "git": {"revision": "x"}}
    mine = timed(1.0, "a", environment_json=json.dumps(environment))
    environment = {"cpu": {"model": "B", "frequency_mhz": 2.0}, "git": {"revision": "y"}}
    theirs = timed(1.0, "b", environment_json=json.dumps(environment), fingerprint="beef")
    assert only(check(mine, theirs)).remark == (
        "fingerprint differs: f00d against beef (cpu.model A against B)"
    )


@pytest.mark.parametrize(
    ("there", "remark"),
    [
        ({"cpu_capability": "AVX2"}, "torch.cpu_capability differs: AVX512 against AVX2"),
        ({"cpu_capability": "AVX512"}, ""),
        ({}, ""),  # not recorded by an older version
    ],
)
def test_other_instructions_behind_one_fingerprint_are_another_machine(there, remark):
    mine = timed(1.0, "a", environment_json=json.dumps({"torch": {"cpu_capability": "AVX512"}}))
    theirs = timed(1.0, "b", seed=1, environment_json=json.dumps({"torch": there}))
    exact = check(mine, theirs, exact_only=True)
    assert figure(exact, "n_params").verdict == "pass"
    dispatched = figure(exact, "kernel_dispatched")
    assert dispatched.remark == remark
    assert dispatched.verdict == ("not comparable" if remark else "pass")


def cell(threads: int) -> dict:
    about = {"workload": "train", "arm": "retnet", "threads": threads}
    return {"threads": threads, "cell_id": f"cell-{threads}", "cell_json": json.dumps(about)}


def test_no_overlapping_cells_is_nothing_measured_and_names_the_field():
    report = check(timed(1.0, "a", **cell(2)), timed(1.0, "b", **cell(8)))
    assert (report.outcome, report.exit_code) == ("nothing measured", 4)
    remarks = [row.remark for row in report.rows]
    assert (
        "not in the candidate; the nearest cell there differs in threads (8 here, 2 there)"
        in remarks
    )
    assert (
        "not in the baseline; the nearest cell there differs in threads (2 here, 8 there)"
        in remarks
    )


def test_a_cell_that_the_candidate_lost_is_no_pass_and_a_new_one_does_not_matter():
    both = timed(1.0, "b", seed=1) + timed(1.0, "b", length=1024)
    assert check(timed(1.0, "a"), both).exit_code == 3
    assert "1 of the baseline's are missing" in check(timed(1.0, "a"), both).summary
    both = timed(1.0, "a") + timed(1.0, "a", length=1024)
    assert check(both, timed(1.0, "b", seed=1)).exit_code == 0


def test_failed_cells():
    lost = failure("retnet", "train", "oom", run_id="a")
    report = check([lost], timed(1.0, "b"))
    assert (report.outcome, report.exit_code) == ("regression", 1)
    assert only(report, "cell").remark == "failed in the candidate (oom: it ended in oom)"
    report = check(timed(1.0, "a"), [lost])
    assert (only(report, "cell").verdict, report.exit_code) == ("not comparable", 4)
    report = check([lost], [lost | {"run_id": "b"}])
    assert report.exit_code == 4
    assert "candidate too" in only(report, "cell").remark


def test_no_records_is_a_usage_error():
    with pytest.raises(UserError, match="the baseline has no records"):
        check(timed(1.0, "a"), [])
    with pytest.raises(UserError, match="the candidate has no records"):
        check([], timed(1.0, "a"))


def test_records_carried_over_are_not_compared_with_themselves():
    report = check(timed(1.0, "a"), timed(1.0, "a"))
    assert report.exit_code == 4
    assert all("very same records" in row.remark for row in report.rows)


def test_records_without_gated_figures_are_nothing_measured_when_time_was_asked():
    bare = {"n_params": None, "kernel_dispatched": None}
    mine, theirs = (document("retnet", "1901", 50.0, run_id=run, **bare) for run in "ab")
    assert check(mine, theirs).exit_code == 4


def test_a_regression_outranks_everything():
    theirs = timed(1.0, "b", seed=1) + timed(1.0, "b", length=1024)
    assert check(timed(2.0, "a"), theirs).exit_code == 1


def test_rows_stand_worst_first():
    theirs = timed(1.0, "b", seed=1) + timed(1.0, "b", length=1024)
    verdicts = [row.verdict for row in check(timed(2.0, "a"), theirs).rows]
    assert verdicts[0] == "regression"
    assert verdicts[-1] == "pass"


ends = st.floats(0.5, 2.0)


@settings(max_examples=200)
@given(parts=st.tuples(ends, ends, ends), tau=st.floats(0.001, 0.3), n=st.integers(4, 40))
def test_a_pass_always_excludes_the_limit_and_a_regression_always_lies_above_the_floor(
    parts, tau, n
):
    low, estimate, high = sorted(parts)
    within = bounds(Floor(tau, 5), True, Policy())
    (made,) = decide([Interval(estimate, low, high, n)], [within], Policy())
    assert within.limit > within.tau >= tau
    if made.verdict in ("pass", "improvement"):
        assert high < 1 + within.limit
    if made.verdict == "regression":
        assert low > 1 + within.tau
        assert high >= 1 + within.limit
    if made.verdict == "inconclusive" and high > low:
        assert made.blocks is not None


def test_nothing_gated_means_nothing_measured():
    assert Report([], Policy()).exit_code == 4
    assert pd.isna(
        decide([Interval(1, np.nan, np.nan, 1)], [bounds(None, True, Policy())], Policy())[0].p
    )
