"""Summaries of hand-made records whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from golden.records import blocks, decode, document, failure, frame, record, small_study

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import baselines, captions, curves, ratios
from retnet_bench.analysis.tables.ratios import sides, verdict
from retnet_bench.base import UserError
from retnet_bench.results.store import Store, read_records


def only(table: pd.DataFrame) -> pd.Series:
    assert len(table) == 1
    return table.iloc[0]


def test_a_tenth_of_a_second_for_2_times_512_tokens_is_10240_tokens_a_second():
    row = only(curves.throughput(frame(blocks("train_step_s", "retnet", [0.1]))))
    assert (row["arm"], row["length"], row["n"]) == ("retnet", 512, 1)
    assert row["estimate"] == 10240.0
    assert np.isnan([row["low"], row["high"]]).all()
    assert row["reason"] == "no interval from 1 block, needs 4"


def test_columns_are_arm_x_separators_summary():
    table = curves.throughput(frame(small_study()))
    assert list(table.columns) == ["arm", "length", *curves.SUMMARY]
    assert curves.separators(table) == []
    table = curves.decode_throughput(frame(small_study()))
    assert curves.separators(table) == ["batch"]


def test_throughput_of_blocks_is_their_median_with_an_interval():
    row = only(curves.throughput(frame(blocks("train_step_s", "retnet", [0.1, 0.2, 0.2, 0.4]))))
    assert row["estimate"] == 1024 / 0.2
    assert row["low"] < 1024 / 0.2 < row["high"]


def test_contracts_are_never_mixed_in_a_point():
    rows = blocks("train_step_s", "retnet", [0.1, 0.1])
    rows += blocks("train_step_s", "retnet", [0.4, 0.4], dtype="bf16")
    rows += blocks("train_step_s", "retnet", [0.2, 0.2], batch=4)
    table = curves.throughput(frame(rows))
    assert curves.separators(table) == ["batch", "dtype"]
    assert table["estimate"].tolist() == pytest.approx([1024 / 0.4, 10240, 10240])


def test_a_batch_that_only_follows_length_does_not_separate():
    rows = blocks("train_step_s", "retnet", [0.1]) + blocks(
        "train_step_s", "retnet", [0.1], length=1024, batch=1
    )
    assert curves.throughput(frame(rows))["estimate"].tolist() == [10240.0, 10240.0]


def test_failed_cells_are_rows_with_status_and_reason():
    table = curves.throughput(frame(small_study()))
    lost = only(table[table["length"] == 2048])
    assert (lost["arm"], lost["status"], lost["n"]) == ("transformer", "oom", 0)
    assert lost["reason"] == "it ended in oom"
    assert np.isnan(lost["estimate"])


def test_failures_of_other_workloads_are_not_shown():
    assert set(curves.latency_by_position(frame(small_study()))["status"]) == {"ok"}


def test_a_cell_that_succeeded_later_has_not_failed():
    rows = [failure("retnet", "train", "timeout", run_id="run-0")]
    rows += blocks("train_step_s", "retnet", [0.1])
    assert only(curves.throughput(frame(rows)))["status"] == "ok"


def test_only_failures_make_a_curve_too():
    rows = [failure("retnet", "train", "oom", length=n) for n in (512, 1024)]
    table = curves.throughput(frame(rows))
    assert table["status"].tolist() == ["oom", "oom"]


@pytest.mark.parametrize(
    "summary",
    [
        curves.throughput,
        curves.decode_throughput,
        curves.final_latency,
        curves.latency_by_position,
        curves.slopes,
        ratios.crossovers,
        curves.perplexities,
        ratios.pair_ratios,
        curves.exponents,
    ],
)
def test_no_rows_give_an_empty_table(summary):
    other = frame([record("peak_rss_bytes", phase="prefill", workload="prefill", value=None)])
    assert summary(other).empty
    assert "estimate" in summary(frame([]))


def test_impure_blocks_count_and_are_flagged():
    rows = blocks("train_step_s", "retnet", [0.1, 0.2, 0.3])
    rows[1] |= {"status": "impure", "reason": "a recompile"}
    row = only(curves.throughput(frame(rows)))
    assert (row["status"], row["reason"], row["n"]) == ("impure", "a recompile", 3)


def test_processes_of_two_runs_are_different_processes():
    rows = blocks("train_step_s", "retnet", [0.1]) + blocks(
        "train_step_s", "retnet", [0.3], run_id="run-2"
    )
    assert only(curves.throughput(frame(rows)))["n"] == 2


def test_decode_throughput_integrates_over_uneven_positions():
    # 1 ms + 1 us a position is 3 ms on average over 0 ... 4000.
    at = {p: 1e-3 + 1e-6 * p for p in (0, 10, 100, 1000, 4000)}
    row = only(curves.decode_throughput(frame(decode("transformer", at, batch=6))))
    assert row["estimate"] == pytest.approx(6 / 3e-3)
    assert (row["length"], row["batch"], row["n"]) == (4000, 6, 4)


def test_final_latency_is_that_of_the_last_position():
    rows = decode("retnet", {1: 0.1, 64: 0.2}) + decode("retnet", {1: 0.1, 128: 0.3}, batch=4)
    table = curves.final_latency(frame(rows))
    assert list(table.columns[:3]) == ["arm", "batch", "length"]
    assert table[["batch", "length", "estimate"]].to_numpy().tolist() == [
        [2.0, 64.0, 0.2],
        [4.0, 128.0, 0.3],
    ]


def test_latency_by_position_and_a_failed_cell_at_its_length():
    rows = decode("retnet", {1: 0.1, 64: 0.2})
    rows.append(failure("transformer", "decode", "oom", length=64))
    table = curves.latency_by_position(frame(rows))
    assert table[["arm", "position", "status"]].to_numpy().tolist() == [
        ["retnet", 1, "ok"],
        ["retnet", 64, "ok"],
        ["transformer", 64, "oom"],
    ]


def test_memory_is_read_once_a_cell_whole_before_last_position():
    at = {"workload": "decode", "length": 64}
    rows = [record("state_bytes", position=p, value=10.0 * p, **at) for p in (1, 64)]
    read = only(curves.memory_by_length(frame(rows), "decode", "state_bytes"))
    assert (read["length"], read["estimate"], read["n"]) == (64, 640.0, 1)
    rows.append(record("state_bytes", value=700.0, **at))
    rows += [row | {"arm": "transformer", "cell_id": "t", "mixer": "attention"} for row in rows]
    read = curves.memory_by_length(frame(rows), "decode", "state_bytes")
    assert read["estimate"].tolist() == [700.0, 700.0]
    ratio = only(ratios.pair_ratios(frame(rows)))
    assert (ratio["n"], ratio["verdict"]) == (1, "equal (exact)")


def test_unavailable_memory_says_why():
    unread = {"status": "unavailable", "reason": "no CUDA device"}
    rows = [record("cuda_peak_allocated_bytes", **unread)]
    lost = only(curves.memory_by_length(frame(rows), "train", "cuda_peak_allocated_bytes"))
    assert (lost["status"], lost["reason"]) == ("unavailable", "no CUDA device")
    assert np.isnan(lost["estimate"])


def test_memory_of_another_phase_is_not_taken():
    rows = [record("peak_tensor_bytes", value=v, phase=p) for p, v in (("train", 1), ("decode", 2))]
    assert only(curves.memory_by_length(frame(rows), "train", "peak_tensor_bytes"))["estimate"] == 1
    both = curves.curve(frame(rows), "peak_tensor_bytes", "length")
    assert curves.separators(both) == ["phase"]
    assert both["estimate"].tolist() == [2, 1]


def test_slopes_are_seconds_a_position():
    rows = decode("retnet", dict.fromkeys((1, 512, 1024), 0.005))
    rows += decode("transformer", {p: 0.002 + 3e-6 * p for p in (1, 512, 1024)})
    table = curves.slopes(frame(rows)).set_index("arm")
    assert table.loc["retnet", "estimate"] == 0.0
    assert table.loc["transformer", ["estimate", "low", "high"]].tolist() == pytest.approx(
        [3e-6] * 3
    )
    assert table["includes_zero"].tolist() == [True, False]
    assert table["n"].tolist() == [4, 4]


def test_a_slope_needs_two_positions_and_an_interval_two_blocks():
    rows = decode("retnet", {512: 0.005})
    rows += decode("transformer", {1: 0.1, 512: 0.2}, n_blocks=1)
    rows.append(failure("other", "decode", "crash"))
    table = curves.slopes(frame(rows)).set_index("arm")
    assert table["estimate"].isna().tolist() == [True, True, False]
    assert table["includes_zero"].isna().all()
    assert table.loc["other", "status"] == "crash"
    assert table.loc["retnet", "reason"] == "no block reached two positions"


def train_pair(b_exponent=2.0, at=1000.0):
    rows = []
    for length in (256, 512, 2048, 4096):
        for arm, exponent in (("retnet", 1.0), ("transformer", b_exponent)):
            level = 0.1 * (length / at) ** exponent
            rows += blocks(
                "train_step_s", arm, [level, 1.2 * level, 0.8 * level, level], length=length
            )
    return rows


def costs(arm: str, power: float, batch: int = 2, lengths=(256, 512, 1024)) -> list:
    """Time of a step, memory and state that grow as length^power; 4 blocks 1 % apart."""
    rows = []
    for length in lengths:
        cost, at = batch * 1e-6 * length**power, {"length": length, "batch": batch}
        levels = [cost * noise for noise in (0.99, 1.0, 1.0, 1.01)]
        rows += blocks("train_step_s", arm, levels, **at) + blocks("prefill_s", arm, levels, **at)
        rows += decode(arm, {1: 1e-3, length: cost}, **at)
        for workload in ("train", "prefill", "decode"):
            peak = {"samples": [1e9 * cost], "workload": workload, **at}
            rows.append(record("peak_tensor_bytes", arm, **peak))
        rows.append(record("state_bytes", arm, samples=[1e12 * cost], workload="decode", **at))
    return rows


def test_exponents_are_those_of_the_costs():
    table = curves.exponents(frame(costs("retnet", 1.0) + costs("transformer", 2.0)))
    keys = ["arm", "workload", "what", "size", "batch"]
    assert list(table.columns) == [*keys, *curves.SUMMARY, "shortest", "longest"]
    assert set(table["shortest"]) == {256}
    assert set(table["longest"]) == {1024}
    found = table.set_index(["workload", "what", "arm"])
    costs_of = [*((w, c) for w in ("train", "prefill", "decode") for c in ("time", "memory"))]
    for workload, what in (*costs_of, ("decode", "state")):
        for arm, power in (("retnet", 1.0), ("transformer", 2.0)):
            row = found.loc[(workload, what, arm)]
            assert list(row[["estimate", "low", "high"]]) == pytest.approx([power] * 3), row
            assert row["n"] == (4 if what == "time" else 1)
            assert (row["reason"] == "counted") == (what != "time")
    assert len(table) == 14


def test_an_exponent_of_noisy_times_has_an_interval_and_of_one_block_none():
    noise = {256: (1.0, 1.1, 0.9, 1), 512: (1.1, 0.9, 1.0, 1), 1024: (0.9, 1.0, 1.2, 1)}
    rows = [
        row
        for length, levels in noise.items()
        for row in blocks("train_step_s", "retnet", [length * n for n in levels], length=length)
    ]
    row = only(curves.exponents(frame(rows)))
    assert row["low"] < row["estimate"] < row["high"]
    alone = only(curves.exponents(frame([row for row in rows if row["block"] == 0])))
    assert alone["estimate"] == pytest.approx(np.log(0.9 * 4) / np.log(4), abs=0.15)
    assert np.isnan([alone["low"], alone["high"]]).all()
    assert alone["reason"] == "no interval from 1 block, needs 4"


def test_of_constant_tokens_a_step_the_time_is_of_a_sequence_and_bytes_do_not_compare():
    """A step of 1024 tokens takes as long at any length, so a sequence's time is linear."""
    rows = [
        row
        for length in (256, 512, 1024)
        for row in costs("retnet", 1.0, batch=1024 // length, lengths=(length,))
    ]
    rows = [row for row in rows if row["workload"] == "train"]
    time, memory = (
        curves.exponents(frame(rows)).set_index("what").loc[w] for w in ("time", "memory")
    )
    assert time["estimate"] == pytest.approx(1.0)
    assert np.isnan(time["batch"])
    assert np.isnan(memory["estimate"])
    assert memory["reason"] == "fewer than two lengths at one batch"


def test_exponents_of_two_batches_or_dtypes_stand_apart():
    two = curves.exponents(frame(costs("retnet", 1.0, batch=1) + costs("retnet", 2.0, batch=4)))
    found = two.set_index(["workload", "what", "batch"])["estimate"]
    for workload in ("train", "prefill", "decode"):
        assert found[workload, "time", 1] == pytest.approx(1.0)
        assert found[workload, "time", 4] == pytest.approx(2.0)
    half = [row | {"dtype": "bf16", "cell_id": row["cell_id"] + "-b"} for row in costs("retnet", 2)]
    table = curves.exponents(frame(costs("retnet", 1.0) + half))
    assert curves.separators(table) == ["what", "size", "batch", "dtype"]
    times = table[(table["what"] == "time") & (table["workload"] == "train")]
    assert times.set_index("dtype")["estimate"].to_dict() == pytest.approx({"bf16": 2, "fp32": 1})


def test_exponents_say_what_failed():
    lost = failure("transformer", "train", "oom", length=2048)
    rows = [row for row in costs("transformer", 2.0) if row["workload"] == "train"]
    table = curves.exponents(frame([*rows, lost])).set_index("what")
    assert table.loc["time", "reason"] == "without 1 that failed: oom"
    assert table.loc["time", "estimate"] == pytest.approx(2.0)
    gone = curves.exponents(frame([lost]))
    assert set(gone["status"]) == {"oom"}
    assert gone["estimate"].isna().all()


def test_crossover_of_training_and_of_decoding():
    rows = train_pair()
    rows += decode("retnet", dict.fromkeys((1, 100, 10000), 0.01))
    rows += decode("transformer", {1: 0.001, 100: 0.01 / 10, 10000: 0.01 * 10})
    table = ratios.crossovers(frame(rows)).set_index("workload")
    assert list(table.columns) == [
        *("a", "b", "x", "length", "batch", "estimate", "low", "high", "n", "fraction", "reason"),
    ]
    train = table.loc["train"]
    assert (train["a"], train["b"], train["x"], train["n"]) == (
        "retnet",
        "transformer",
        "length",
        4,
    )
    assert train[["estimate", "low", "high"]].tolist() == pytest.approx([1000.0] * 3)
    # From 0.1 to 10 in ratio over two decades of position: 1 in the middle.
    assert table.loc["decode", "estimate"] == pytest.approx(1000.0)


def test_no_crossover_says_who_is_ahead_and_one_length_says_so():
    row = only(ratios.crossovers(frame(train_pair(at=10.0))))
    assert np.isnan(row["estimate"])
    assert row["reason"].startswith("none in range: retnet is ahead throughout")
    row = only(ratios.crossovers(frame(train_pair()[:6])))
    assert row["reason"] == "fewer than two values of length with both arms"


def test_ratios_stay_inside_a_pair():
    rows = blocks("train_step_s", "retnet", [0.1, 0.2, 0.3, 0.4])
    rows += blocks("train_step_s", "transformer", [0.2, 0.4, 0.6, 0.8])
    rows += blocks("train_step_s", "transformer", [9.0, 9.0, 9.0, 9.0], batch=4)
    row = only(ratios.pair_ratios(frame(rows)))
    assert row[["estimate", "low", "high"]].tolist() == pytest.approx([0.5] * 3)
    assert (row["a"], row["b"], row["n"], row["batch"]) == ("retnet", "transformer", 4, 2)
    assert row["verdict"] == "retnet 2 x faster than transformer"


def test_blocks_are_paired_by_process_and_block_whatever_the_order_of_rows():
    rows = blocks("train_step_s", "retnet", [1.0, 10.0, 100.0, 1000.0])
    rows += blocks("train_step_s", "transformer", [2.0, 20.0, 200.0, 2000.0])[::-1]
    row = only(ratios.pair_ratios(frame(rows)))
    assert row[["low", "high"]].tolist() == pytest.approx([0.5, 0.5])


def test_arms_of_different_runs_are_not_compared():
    rows = blocks("train_step_s", "retnet", [0.1, 0.1])
    rows += blocks("train_step_s", "transformer", [0.2, 0.2], run_id="run-2")
    row = only(ratios.pair_ratios(frame(rows)))
    assert np.isnan(row["estimate"])
    assert row["verdict"] == "no comparison: the arms were not measured side by side"


def test_two_cells_of_one_arm_in_a_pair_are_refused():
    rows = blocks("train_step_s", "retnet", [0.1]) + blocks("train_step_s", "transformer", [0.1])
    rows += blocks("train_step_s", "retnet", [0.1], chunk=64, cell_id="other")
    with pytest.raises(UserError, match=r'arm "retnet" has 2 cells in pair .*names of their own'):
        ratios.pair_ratios(frame(rows))


@pytest.mark.parametrize(
    ("metric", "ratio", "words"),
    [
        ("train_step_s", 1 / 1.05, "a 5 % faster than b"),
        ("train_step_s", 1.05, "a 5 % slower than b"),
        ("peak_tensor_bytes", 0.92, "a 8 % less than b"),
        ("peak_tensor_bytes", 0.5, "a 2 x less than b"),
        ("perplexity_per_byte", 0.927, "a 7.3 % better than b"),
        ("perplexity_per_byte", 1.016, "a 1.6 % worse than b"),
    ],
)
def test_a_ratio_in_words(metric, ratio, words):
    """Speed goes by the inverse of time; of bytes and perplexity it is the share itself."""
    assert verdict(metric, "a", "b", Interval(ratio, ratio, ratio, 3)) == words


def test_ratios_of_the_small_study():
    table = ratios.pair_ratios(frame(small_study())).set_index(["metric", "length"])["verdict"]
    assert table["train_step_s", 512] == "retnet 2 x faster than transformer"
    assert table["decode_step_s", 1024] == "retnet 1.1 x faster than transformer"
    assert table["peak_tensor_bytes", 512] == ("retnet 2 x less than transformer (exact)")
    assert table["perplexity_per_byte", 512] == ("retnet 1.82 x better than transformer (one seed)")
    assert table["outcome", 2048] == "no comparison: transformer oom"


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (Interval(0.5, 0.4, 0.6, 6), "a 2 x faster than b"),
        (Interval(1.05, 1.02, 1.08, 6), "a 5 % slower than b"),
        (Interval(1.05, 0.98, 1.08, 6), "no difference shown"),
        (
            Interval(2.0, np.nan, np.nan, 1),
            "a 2 x slower than b (no interval from 1 block, needs 4)",
        ),
        (Interval(1.0, np.nan, np.nan, 1), "equal (no interval from 1 block, needs 4)"),
        (Interval(np.nan, np.nan, np.nan, 0), "no comparison"),
    ],
)
def test_verdict_in_words(ratio, words):
    assert verdict("train_step_s", "a", "b", ratio) == words


def test_every_arm_is_compared_with_each_transformer():
    arms = ("retnet", "retnet_parallel", "transformer", "flash")
    rows = [record("train_step_s", arm) for arm in arms]
    assert sides(frame(rows)) == [
        ("retnet", "flash"),
        ("retnet", "transformer"),
        ("retnet_parallel", "flash"),
        ("retnet_parallel", "transformer"),
    ]
    assert sides(frame(rows[:2])) == [("retnet", "retnet_parallel")]
    assert sides(frame(rows[:1])) == []
    assert sides(frame(rows[2:])) == [("flash", "transformer")]


def test_the_baseline_that_counts_is_the_newest_one_of_each_study():
    """A study that was resumed under another baseline has rows with both names."""
    arms = ("mamba", "retnet", "transformer")
    old = [record("train_step_s", arm, baseline="transformer") for arm in arms[:2]]
    new = [record("train_step_s", arm, baseline="retnet") for arm in arms]
    later = pd.Timestamp("2030-01-01", tz="UTC")
    table = frame(new + old)
    table["recorded_at"] = [later] * 3 + [later - pd.Timedelta("1h")] * 2
    assert sides(table) == [("mamba", "retnet"), ("transformer", "retnet")]
    other = frame([record("train_step_s", arm, study="other") for arm in ("x", "y")])
    assert sides(pd.concat([table, other])) == [*sides(table), ("x", "y")]


def test_a_study_file_that_names_another_baseline_is_followed(tmp_path):
    arms = ("mamba", "retnet", "transformer")
    table = frame([record("train_step_s", arm, baseline="transformer") for arm in arms])
    study = tmp_path / "study.yaml"
    for text, expected in (
        ("name: {}\nbaseline: retnet", [("mamba", "retnet"), ("transformer", "retnet")]),
        ("name: {}", sides(table.assign(baseline=None))),
        ("name: another\nbaseline: retnet", sides(table)),
    ):
        study.write_text(text.format(table["study"].iloc[0]))
        assert sides(baselines.as_studies_say(table, [tmp_path])) == expected
    study.write_text(f"name: {table['study'].iloc[0]}")
    assert baselines.as_studies_say(table, [tmp_path])["baseline"].isna().all()
    study.write_text("name: x\nbaseline: [retnet]")
    with pytest.raises(
        UserError, match=r"study\.yaml: baseline must be the name of an arm, is \['r"
    ):
        baselines.as_studies_say(table, [tmp_path])


def test_every_arm_is_compared_with_the_baseline_that_a_study_names():
    arms = ("retnet", "mamba", "transformer", "windowed")
    rows = [record("train_step_s", arm, baseline="windowed") for arm in arms]
    assert sides(frame(rows)) == [(a, "windowed") for a in ("mamba", "retnet", "transformer")]
    rows = [record("train_step_s", arm, baseline="retnet") for arm in arms]
    found = ratios.pair_ratios(frame([row | {"block": 0, "samples": [0.1]} for row in rows]))
    assert found[["a", "b"]].to_numpy().tolist() == [
        ["mamba", "retnet"],
        ["transformer", "retnet"],
        ["windowed", "retnet"],
    ]


def test_records_without_a_length_have_no_crossover():
    rows = [
        *blocks("train_step_s", "retnet", [1.0] * 4, length=None),
        *blocks("train_step_s", "transformer", [2.0] * 4, length=None),
    ]
    (found,) = ratios.crossovers(frame(rows)).to_dict("records")
    assert found["reason"] == "fewer than two values of length with both arms"


def test_a_third_mixer_has_its_ratio_to_the_transformer_beside_the_others():
    """Beside RetNet and a Transformer, linear attention once was compared with RetNet alone."""
    rows = [
        *blocks("train_step_s", "retnet", [1.0] * 4),
        *blocks("train_step_s", "linear", [3.0] * 4, mixer="linear_attention"),
        *blocks("train_step_s", "transformer", [2.0] * 4),
    ]
    found = ratios.pair_ratios(frame(rows)).set_index(["a", "b"])["estimate"]
    assert found.to_dict() == pytest.approx(
        {
            ("linear", "transformer"): 1.5,
            ("retnet", "transformer"): 0.5,
        }
    )


def test_perplexities_per_unit_and_bits_per_byte():
    rows = document("retnet", "a", 50.0, 100) + document("retnet", "b", 100.0, 200)
    table = only(curves.perplexities(frame(rows)))
    assert (table["n_params"], table["size"], table["n"]) == (1_000_000, "1m", 2)
    assert table["estimate"] == pytest.approx(np.exp(0.5))
    assert table["bits_per_byte"] == pytest.approx(0.5 / np.log(2))
    assert only(curves.perplexities(frame(rows), per="token"))["estimate"] == pytest.approx(np.e**2)
    assert only(curves.perplexities(frame(rows), per="word"))["estimate"] == pytest.approx(
        np.e**2.5
    )
    with pytest.raises(UserError, match=r'"letter".*choose from byte, token, word'):
        curves.perplexities(frame(rows), per="letter")


def test_perplexity_of_a_failed_cell_and_of_a_document_scored_twice():
    rows = document("retnet", "a", 99.0) + document("retnet", "a", 50.0, run_id="run-2")
    for row in rows[4:]:
        row["recorded_at"] += pd.Timedelta("1h")
    rows.append(failure("transformer", "perplexity", "nan"))
    table = curves.perplexities(frame(rows)).set_index("arm")
    assert table.loc["retnet", "estimate"] == pytest.approx(np.exp(0.5))
    assert table.loc["transformer", "status"] == "nan"
    assert np.isnan(table.loc["transformer", "bits_per_byte"])


def test_the_caption_says_what_the_records_say():
    text = captions.contract_text(frame(small_study()))
    assert text == (
        "Test CPU; threads 2; fp32, eager; retnet: chunkwise; transformer: sdpa; "
        "size 1m (arms matched by params within 0.2 %); torch 2.0; 4 blocks a cell; "
        "one seed (perplexity's intervals are of documents only)"
    )


def test_a_figure_s_caption_has_what_a_reader_of_it_needs():
    assert captions.conditions(frame(small_study())) == (
        "Measured on Test CPU, 2 threads; fp32, eager; retnet: chunkwise; transformer: sdpa; 1m; "
        "batch 2; 4 blocks a cell; one seed (perplexity's intervals are of documents only)"
    )
    crowd = [
        row | {"arm": f"arm{i}", "kernel": f"kernel{i}", "kernel_dispatched": f"op{i}"}
        for i in range(captions.MOST_ARMS + 1)
        for row in blocks("train_step_s", "retnet", [0.1, 0.1])
    ]
    text = captions.conditions(frame(crowd))
    assert "; kernels kernel0, kernel1, kernel2 and kernel3; " in text
    assert "arm0" not in text
    assert captions.conditions(frame([failure("retnet", "train", "oom")])) == "Nothing measured"


def test_a_figure_s_caption_says_what_several_processes_ran_together():
    rows = [row | {"threads": 1, "parallel": "data 2"} for row in small_study()]
    text = captions.conditions(frame(rows))
    assert text.startswith("Measured on Test CPU, 1 thread; ranks: data 2; fp32, eager; ")


def test_the_caption_says_how_often_trainings_read_their_corpus():
    rows = small_study()
    assert "epochs" not in captions.contract_text(frame(rows))
    scored = next(row for row in rows if row["metric"] == "document_nll_nat")
    of = scored | {"metric": "epochs", "unit": "epochs", "document": None, "phase": "train"}
    two = [of | {"value": value, "samples": [value]} for value in (0.254, 3.5)]
    text = captions.contract_text(frame(rows + two))
    assert text.endswith("; trained for 0.25 to 3.5 epochs")
    assert captions.contract_text(frame(rows + two[:1])).endswith("; trained for 0.25 epochs")


def test_a_caption_shortens_what_is_long_and_counts_what_is_many():
    """A machine's name of 100,000 characters once took a figure four seconds."""
    rows = [row | {"machine": "x" * 1000, "torch_version": "2.0"} for row in small_study()]
    text = captions.contract_text(frame(rows))
    assert text.startswith(f"{'x' * 77}...; threads")
    many = [row | {"machine": f"m{i:02}"} for i in range(20) for row in small_study()]
    text = captions.contract_text(frame(many))
    assert text.startswith("m00, m01, ")
    assert ", m11 and 8 more; threads" in text


def test_the_caption_counts_processes_where_there_are_several():
    rows = blocks("train_step_s", "retnet", [0.1, 0.1])
    rows += blocks("train_step_s", "retnet", [0.1, 0.1], process=1)
    assert captions.contract_text(frame(rows)).endswith("4 blocks in 2 processes a cell")


def test_the_caption_lists_what_is_mixed_and_invents_nothing():
    rows = blocks("train_step_s", "retnet", [0.1, 0.1], size="4m", n_params=4_000_000)
    rows += blocks("train_step_s", "retnet", [0.1], size="16m", n_params=16_000_000, dtype="bf16")
    for row in rows:
        row |= {"kernel_dispatched": None, "mismatch": None}
    rows[0] |= {"status": "impure", "reason": "GC"}
    text = captions.contract_text(frame(rows))
    assert "bf16 and fp32" in text
    assert "size 4m and 16m;" in text
    assert "retnet: kernel not recorded" in text
    assert text.endswith("1 to 2 blocks a cell, 1 of 3 blocks impure")
    assert captions.contract_text(frame([failure("retnet", "train", "oom")])) == "nothing measured"


@pytest.mark.parametrize("key", ["kernel", "chunk"])
@pytest.mark.parametrize(
    ("tried", "how"),
    [
        ([0.01, 0.02], "chosen by measurement"),
        ([None], "the only candidate, not timed"),
        ([], "auto"),
    ],
)
def test_a_caption_says_whose_kernel_was_chosen_and_how(key, tried, how):
    rows = [row | {"cell_json": "{}"} for row in small_study()]
    rows += [
        record(
            *("candidate_step_s", "retnet"),
            value=value,
            status="unavailable" if value is None else "ok",
            candidate=f"c{i}",
            cell_json="{}",
        )
        for i, value in enumerate(tried)
    ]
    for row in rows:
        if row["arm"] == "retnet":
            row["cell_json"] = f'{{"{key}":"auto"}}'
    text = captions.contract_text(frame(rows))
    assert f"retnet: chunkwise ({how}); transformer: sdpa;" in text


def test_records_from_the_store_give_the_same_tables(tmp_path):
    stored = read_records(Store(tmp_path).append(small_study(), "all"))
    for summary in (curves.throughput, curves.slopes, curves.perplexities, ratios.pair_ratios):
        pd.testing.assert_frame_equal(
            summary(stored), summary(frame(small_study())), check_dtype=False
        )
    assert captions.contract_text(stored) == captions.contract_text(frame(small_study()))
    assert pd.api.types.is_integer_dtype(curves.throughput(stored)["length"])
