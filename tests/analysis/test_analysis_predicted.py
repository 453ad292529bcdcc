"""Predicted beside measured on hand-made records."""

from __future__ import annotations

import pandas as pd
import pytest
from golden.records import Row, blocks, frame, record

from retnet_bench.analysis.tables import predicted


def cells() -> list[Row]:
    """A training cell with a prediction, a decode cell at two positions, a cell without one."""
    train = {"length": 512, "roofline_s": 0.05, "bound": "compute", "flops_utilisation": 0.25}
    known = {"predicted": 0.1, **train, "bandwidth_utilisation": 0.1}
    rows = blocks("train_step_s", "retnet", [0.19, 0.2, 0.4], **known)
    rows.append(record("peak_tensor_bytes", "retnet", samples=[1000.0], predicted=990.0))
    rows += blocks("train_step_s", "transformer", [0.3, 0.3])  # of an earlier version
    for position, floor in ((256, 1e-3), (500, 2e-3)):
        at = {"position": position, "predicted": floor, "length": 516, "n_params": 1000}
        rows += blocks("decode_step_s", "transformer", [4e-3, 4e-3], **at)
    return rows


def test_a_time_stands_beside_its_floor_and_its_roofline():
    found = predicted.times(frame(cells())).set_index("workload")
    assert list(found.index) == ["decode", "train"]
    train = found.loc["train"]
    assert (train["predicted"], train["measured"]) == (0.1, 0.2)
    assert train["ratio"] == pytest.approx(2.0)
    assert (train["roofline_s"], train["bound"]) == (0.05, "compute")
    assert train["roofline_share"] == train["flops_utilisation"] == pytest.approx(0.25)


def test_decode_stands_at_its_last_position():
    found = predicted.times(frame(cells())).set_index("workload").loc["decode"]
    assert (found["predicted"], found["ratio"]) == (2e-3, 2.0)
    assert pd.isna(found["roofline_s"])


def test_a_peak_is_off_relative_to_what_was_measured():
    (peak,) = predicted.peaks(frame(cells())).itertuples()
    assert (peak.arm, peak.length, peak.predicted, peak.measured) == ("retnet", 512, 990, 1000)
    assert peak.difference == pytest.approx(-0.01)


@pytest.mark.parametrize(
    ("workload", "dtype", "element"),
    [("train", "fp32", 4), ("train", "bf16", 4), ("train", "fp64", 8), ("decode", "bf16", 2)],
)
def test_weights_are_parameters_in_the_dtype_they_are_kept_in(workload, dtype, element):
    about = {"workload": workload, "dtype": dtype, "n_params": 1000, "phase": workload}
    row = record("weight_bytes", samples=[1001.0 * element], **about)
    (found,) = predicted.weights_and_states(frame([row])).itertuples()
    assert (found.predicted, found.measured) == (1000 * element, 1001 * element)


def test_states_are_those_at_the_whole_length_not_closed_forms_on_the_way():
    about = {"workload": "decode", "length": 512, "state_bytes": 4096}
    rows = [
        record("state_bytes", "transformer", samples=[float(at * 8)], position=at, **about)
        for at in (128, 512)
    ]
    rows.append(record("state_bytes", samples=[4000.0], **(about | {"workload": "prefill"})))
    found = predicted.weights_and_states(frame(rows)).set_index("workload")
    assert list(found.index) == ["decode", "prefill"]
    assert (found.loc["decode", "predicted"], found.loc["decode", "measured"]) == (4096, 4096)
    assert found.loc["prefill", "difference"] == pytest.approx(0.024)


def test_cells_without_a_prediction_are_counted():
    assert predicted.without(frame(cells()), predicted.STEPS) == 1
    assert predicted.without(frame(cells()[:3]), predicted.STEPS) == 0
    assert predicted.without(frame(cells()), predicted.PEAKS) == 0


def test_failed_and_unread_cells_are_in_no_table():
    unread = {"status": "unavailable", "reason": "no CUDA device", "predicted": 10.0}
    rows = [record("cuda_peak_allocated_bytes", **unread)]
    assert predicted.peaks(frame(rows)).empty
    assert predicted.times(frame(rows)).empty
    assert predicted.weights_and_states(frame(rows)).empty
    assert predicted.without(frame(rows), predicted.PEAKS) == 0
