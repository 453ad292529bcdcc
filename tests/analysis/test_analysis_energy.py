"""Joules per token against hand-made blocks with known answers."""

from __future__ import annotations

import pytest
from golden.records import frame, record, small_study

from retnet_bench.analysis.tables.curves import energy_per_token
from retnet_bench.report.tables import tables

CPU = {"device": "cpu", "length": 512, "batch": 2, "workload": "train"}
GPU = {**CPU, "device": "cuda"}


def block(metric: str, joules: float, timed_s: float = 4.0, index: int = 0, **fields) -> list:
    """Ten steps that take `timed_s` together, in an energy window of 4 s."""
    at = {**fields, "block": index}
    return [
        record("train_step_s", samples=[timed_s / 10] * 10, **at),
        record(metric, samples=[joules], **at),
        record("energy_window_s", samples=[4.0], **at),
    ]


def only(rows: list) -> dict:
    found = energy_per_token(frame(rows))
    assert len(found) == 1
    return found.iloc[0].to_dict()


def test_joules_of_a_block_over_its_tokens_not_over_its_mean_step():
    """D1: the total over N steps goes with the tokens of N steps."""
    point = only(block("cpu_energy_j", 1024.0, **CPU))
    assert point["estimate"] == pytest.approx(1024.0 / (10 * 2 * 512))
    assert (point["source"], point["n"]) == ("cpu_energy_j", 1)


def test_a_gpu_cell_is_charged_the_gpu_and_the_counter_goes_before_the_integral():
    rows = block("gpu_energy_j", 2048.0, **GPU)
    rows += [
        record("gpu_integrated_energy_j", samples=[9999.0], block=0, **GPU),
        record("cpu_energy_j", samples=[5555.0], block=0, **GPU),
    ]
    assert only(rows)["estimate"] == pytest.approx(0.2)
    integrated = only(block("gpu_integrated_energy_j", 1024.0, **GPU))
    assert integrated["source"] == "gpu_integrated_energy_j"
    assert integrated["estimate"] == pytest.approx(0.1)


def test_a_window_full_of_other_work_gives_no_joules_per_token():
    """Pain 17 and D7: what was not the steps is not charged to them."""
    assert energy_per_token(frame(block("cpu_energy_j", 1024.0, timed_s=3.0, **CPU))).empty


def test_blocks_are_the_unit_and_unmeasured_energy_is_no_zero():
    rows = [r for i in range(4) for r in block("cpu_energy_j", 1000.0 + 8 * i, index=i, **CPU)]
    short = {"status": "unavailable", "reason": "window under 2 s"}
    rows += [record("train_step_s", samples=[0.1], block=4, **CPU)]
    rows += [record("cpu_energy_j", block=4, **short, **CPU)]
    point = only(rows)
    assert point["n"] == 4
    assert point["low"] <= 1012 / 10240 <= point["high"]


def test_shown_only_when_measured():
    without = small_study()
    assert "Training energy" not in [table.title for table in tables(frame(without))]
    titles = [t.title for t in tables(frame([*without, *block("cpu_energy_j", 1024.0, **CPU)]))]
    assert "Training energy" in titles
