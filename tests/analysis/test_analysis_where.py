"""`--where` and `--columns`: rows by what they say, and one line for what says nothing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from golden.records import blocks, failure, frame, record

from retnet_bench.analysis.tables import values, where
from retnet_bench.base import UserError


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    rows = []
    for length in (512, 1024, 4096):
        for arm, factor in (("retnet", 1.0), ("transformer", 2.0)):
            settings = json.dumps({"arm": arm, "length": length, "positions": length // 512})
            levels = [factor * length * (1 + 0.01 * i) for i in range(4)]
            rows += blocks("train_step_s", arm, levels, length=length, cell_json=settings)
    rows.append(failure("transformer", "train", "oom", length=8192))
    rows.append(record("peak_tensor_bytes", "retnet", samples=[2.0**20], git_dirty=True))
    return frame(rows)


def chosen(records: pd.DataFrame, *words: str) -> pd.DataFrame:
    return where.chosen(records, where.conditions(words))


def test_conditions_hold_together_whether_in_one_word_or_several(records):
    found = chosen(records, "arm=retnet,length>=1024")
    assert set(found["length"]) == {1024, 4096}
    assert set(found["arm"]) == {"retnet"}
    assert len(chosen(records, "arm=retnet", "length>=1024")) == len(found)


@pytest.mark.parametrize(
    ("word", "lengths"),
    [
        ("length<1024", {512}),
        ("length<=1024", {512, 1024}),
        ("length>1024", {4096, 8192}),
        ("length!=512", {1024, 4096, 8192}),
        ("length!=512|1024", {4096, 8192}),
        ("length=512|4096", {512, 4096}),
        ("status=oom", {8192}),
        ("positions=8", {4096}),  # a setting of the cell that has no column
        ("positions>=2", {1024, 4096}),
        ("git_dirty=true", {512}),
        ("recorded_at>=2026-01-01", {512, 1024, 4096, 8192}),
    ],
)
def test_each_way_to_compare(records, word, lengths):
    assert set(chosen(records, word)["length"]) == lengths


def test_a_row_without_a_value_fits_only_what_it_differs_from(records):
    assert len(chosen(records, "git_dirty!=true")) == len(records) - 1
    assert len(chosen(records, "reason!=x")) == len(records)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("arm=retnt", 'no row fits; did you mean "retnet"?'),
        ("lenght>=4096", 'unknown key "lenght"; did you mean "length"?'),
        ("length>=4k", "length is a number, 4k is none"),
        ("arm>retnet", "arm is no number: take = or !="),
        ("length>9000", "no row fits; length is"),
        ("arm", '"arm" is no condition'),
        ("arm=", '"arm=" is no condition'),
        ("=retnet", "is no condition"),
        ("length>=1|2", "takes one value"),
        ("tokens_seen>1", "tokens_seen is empty in all of them"),
        ("", "is no condition"),
        ("value>0.1", "value says which block it was, or how it came out"),
        ("samples=3", "samples says which block it was, or how it came out"),
        ("block>1", "block says which block it was, or how it came out"),
        ("arm==retnet", "give one =: arm=retnet"),
    ],
)
def test_what_is_no_condition_is_one_line(records, word, said):
    with pytest.raises(UserError) as refusal:
        chosen(records, word)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


# --- values ---------------------------------------------------------------------------------------


def test_a_value_is_the_median_of_its_blocks_with_its_interval(records):
    found = values.values(records)
    row = found[(found["arm"] == "retnet") & (found["length"] == 1024)].iloc[0]
    assert row["estimate"] == pytest.approx(1024 * 1.015)
    assert row["low"] < row["estimate"] < row["high"]
    assert row["blocks"] == 4
    lost = found[found["status"] == "oom"].iloc[0]
    assert np.isnan(lost["estimate"])
    assert lost["reason"]
    assert len(found) == 6 + 1 + 1


def test_columns_are_known_ones():
    assert values.columns_of(["arm, length", "arm"]) == ["arm", "length"]
    with pytest.raises(UserError, match='unknown column "lenght"; did you mean "length"'):
        values.columns_of(["lenght"])
    with pytest.raises(UserError, match="of single blocks"):
        values.columns_of(["samples"])
    with pytest.raises(UserError, match="names none"):
        values.columns_of([" , "])


def test_two_results_stand_side_by_side_and_what_one_lacks_is_missing(records):
    slower = records.assign(machine="Other CPU", device="cuda:0")
    slower = slower[slower["length"] != 4096]
    both = values.side_by_side(records, slower)
    known = both[both["metric"] == "train_step_s"].set_index(["arm", "length"])
    assert known.loc[("retnet", 512), "estimate 1"] == known.loc[("retnet", 512), "estimate 2"]
    assert np.isnan(known.loc[("retnet", 4096), "estimate 2"])
    assert not [name for name in both if "ratio" in name]


def test_ratios_side_by_side_are_each_of_their_own_pairs(records):
    twice = records.copy()
    of_retnet = twice["arm"] == "retnet"
    twice["samples"] = [
        [2 * v for v in s] if two and s is not None else s
        for s, two in zip(twice["samples"], of_retnet, strict=True)
    ]
    both = values.ratios_side_by_side(records, twice.assign(machine="Other CPU"))
    steps = both[both["metric"] == "train_step_s"]
    assert steps["estimate 1"].to_numpy() == pytest.approx([0.5] * 3)
    assert steps["estimate 2"].to_numpy() == pytest.approx([1.0] * 3)
