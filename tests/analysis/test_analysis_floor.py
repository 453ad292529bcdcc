"""The noise floor from a self-test, and the words that use it."""

from __future__ import annotations

import numpy as np
import pytest
from golden.records import blocks, frame

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import ratios
from retnet_bench.analysis.tables.floor import (
    Floor,
    floors,
    log_ratios,
    read_all_floors,
    read_floors,
)
from retnet_bench.analysis.tables.ratios import verdict
from retnet_bench.base import UserError
from retnet_bench.results.store import Store


def twins(*ratios: float, **fields) -> list[dict]:
    """Cells of growing length that come out `ratios` apart from their twins."""
    rows: list[dict] = []
    for i, ratio in enumerate(ratios):
        at = {"length": 2**i, **fields}
        drift = np.array([1.0, 2.0, 4.0])
        rows += blocks("train_step_s", "retnet", ratio * drift, **at)
        rows += blocks("train_step_s", "retnet~again", drift, **at)
    return rows


def test_the_floor_is_t_times_the_root_mean_square_of_the_log_ratios():
    """t(0.975, 4) is 2.776; by hand."""
    found = floors(frame(twins(1.01, 1 / 1.01, 1.03, 1 / 1.03)))["train_step_s"]
    logs = np.log([1.01, 1.01, 1.03, 1.03])
    assert found.value == pytest.approx(np.expm1(2.7764451 * np.sqrt((logs**2).mean())))
    assert (found.n, found.reason) == (4, None)


def test_equal_twins_are_paired_block_by_block():
    assert log_ratios(frame(twins(1.0, 1.02)), "train_step_s") == pytest.approx([0, np.log(1.02)])


def test_a_floor_that_cannot_be_known_says_why():
    lonely = floors(frame(twins(1.01)))
    assert lonely["train_step_s"] == Floor(None, 1, "the self-test has 1 A/A ratios, needs 2")
    assert lonely["decode_step_s"].value is None


def test_the_self_test_lies_beside_the_results_and_is_of_one_machine(tmp_path):
    assert "no self-test in" in read_floors(tmp_path)["train_step_s"].reason
    Store(tmp_path / "selftest").append(twins(1.01, 1.02), "a")
    assert read_floors(tmp_path, {"f00d"})["train_step_s"].n == 2
    other = read_floors(tmp_path, {"beef"})["train_step_s"]
    assert (other.value, "another machine" in other.reason) == (None, True)
    (tmp_path / "selftest" / "records" / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not whole parquet"):
        read_floors(tmp_path)


def test_a_ratio_below_the_floor_shows_no_difference():
    near = Interval(1.015, 1.01, 1.02, 8)
    said = verdict("train_step_s", "a", "b", near, Floor(0.021, 9))
    assert said == "no difference shown (below the noise floor of 2.1 %)"
    faster = verdict("train_step_s", "a", "b", Interval(1 / 1.015, 0.98, 0.99, 8), Floor(0.021, 9))
    assert faster == said
    assert verdict("train_step_s", "a", "b", near, Floor(0.01, 9)) == "a 1.5 % slower than b"
    assert verdict("train_step_s", "a", "b", near, Floor(None, 0, "?")) == "a 1.5 % slower than b"


def test_ratios_of_pairs_use_the_floor_of_their_metric():
    rows = blocks("train_step_s", "retnet", [0.1] * 4) + blocks(
        "train_step_s", "transformer", [0.102] * 4
    )
    shown = ratios.pair_ratios(frame(rows), {"train_step_s": Floor(0.05, 4)})["verdict"].tolist()
    assert shown == ["no difference shown (below the noise floor of 5 %)"]
    assert "faster" in ratios.pair_ratios(frame(rows))["verdict"].iloc[0]


def test_of_several_results_the_largest_known_floor_counts(tmp_path):
    """One folder without a self-test does not hide another's floor."""
    for name, apart in (("quiet", 1.01), ("loud", 1.03)):
        Store(tmp_path / name / "selftest").append(twins(apart, 1 / apart), name)
    folders = [tmp_path / name for name in ("none", "quiet", "loud")]
    machines = {twins(1.0)[0]["fingerprint"]}
    loud = read_floors(folders[-1])["train_step_s"]
    found = read_all_floors(folders, machines)
    assert found["train_step_s"] == loud
    assert found["decode_step_s"].value is None
    assert read_all_floors(folders, {"another"})["train_step_s"].value is None
