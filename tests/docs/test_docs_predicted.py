"""The page of predicted beside measured: what is counted, and what is written of records."""

from __future__ import annotations

from pathlib import Path

import flop_counts as counted
import predicted_page as predicted
import pytest
from fakes.cells import cell
from golden.records import blocks, frame, record

from retnet_bench.base import UserError
from retnet_bench.measure import environment
from retnet_bench.measure.devices import Rates
from retnet_bench.predict import prediction, targets
from retnet_bench.predict.targets import Target
from retnet_bench.results.store import Store


@pytest.fixture(scope="module")
def flops():
    return counted.flops_table(40)


def test_every_pass_of_every_plain_kernel_is_counted(flops):
    kernels = {"chunkwise", "parallel", "recurrent", "sdpa", "math"}
    assert len(flops) == 2 * len(kernels) * 4
    assert set(flops["kernel"]) == kernels
    assert set(flops["family"]) == {"paper", "modern"}


def test_closed_forms_equal_the_count_but_for_the_parallel_prompt(flops):
    """It meets an empty state, which the closed form leaves out."""
    unlike = flops[flops["predicted"] != flops["counted"]]
    assert set(zip(unlike["kernel"], unlike["pass"], strict=True)) == {("parallel", "prefill")}
    assert (unlike["difference"] < 0).all()


def test_what_counts_for_utilisation_is_never_more_than_what_is_executed(flops):
    training = flops[flops["pass"] == "training step"].set_index(["family", "kernel"])
    assert (training["utilisation"] <= 1.01).all()  # a last chunk's state reaches no output
    assert flops.loc[flops["pass"] != "training step", "utilisation"].isna().all()


def results(folder: Path) -> Path:
    known = {"predicted": 0.1, "roofline_s": 0.05, "bound": "compute"}
    rows = blocks("train_step_s", "retnet", [0.2, 0.2], **known)
    rows.append(record("peak_tensor_bytes", "retnet", samples=[1000.0], predicted=1010.0))
    rows.append(record("weight_bytes", "retnet", samples=[4_000_000.0]))
    rows += blocks("train_step_s", "transformer", [0.3, 0.3])
    Store(folder).append(rows, "part")
    return folder


def test_the_page_has_the_numbers_the_machine_and_what_was_left_out(tmp_path):
    folder = results(tmp_path / "mine")
    text = predicted.page([folder])
    assert f"- `{folder}`: Test CPU; threads 2; fp32, eager; " in text
    assert "rates were not kept): golden: 1.\n" in text
    model = "| 1m | paper | retnet | chunkwise |"
    where = "| golden | train | 1m | paper | retnet | chunkwise | 512 | 2 |"
    assert f"{where} peak_tensor_bytes | 1,010 | 1,000 | +1 % |\n" in text
    assert "Of 1 numbers 0 are equal to the byte; without sign they are 1 % off in the" in text
    assert "at most 1 % (train 1m retnet length 512)" in text
    assert f"{model} weight_bytes | 4,000,000 | 4,000,000 | 0 % |\n" in text
    assert f"{where} 100.0 | 200.0 | 2.000 | 50.00 | compute | 25 % |\n" in text
    assert "| train | chunkwise | 1 | 2.000 | 2.000 | 2.000 |\n" in text
    assert "less than their floor" not in text
    assert "38 of 40 are equal to the FLOP." in text


def here(arm: str = "retnet", **fields) -> dict:
    """A time of a cell that was measured on this very machine, without a prediction."""
    fingerprint = environment.fingerprint(environment.capture("cpu"))
    about = {"fingerprint": fingerprint, "cell_json": cell().canonical(), "length": 32} | fields
    return record("train_step_s", arm, samples=[0.1], block=0, **about)


def test_a_time_of_this_machine_gets_its_floor_by_rates_that_were_kept_later(monkeypatch):
    rates = Rates("this", {"fp32": 1e12}, 1e12, 1e-6, None, "the test")
    target = Target(rates, "cpu", None)
    monkeypatch.setattr(targets, "target_of_records", lambda _: target)
    other = [here(fingerprint="f00d", arm="elsewhere"), here(cell_json="{}", arm="older")]
    found = predicted.with_floors(frame([here(), *other])).set_index("arm")
    planned = predicted.Planned(cell(), predicted.Protocol(), None)
    assert found.loc["retnet", "predicted"] == prediction.predict(planned, target).step_s
    assert found.loc["retnet", "bound"] in ("compute", "bandwidth", "launch")
    assert found.loc[["elsewhere", "older"], "predicted"].isna().all()


def test_a_step_below_its_floor_refutes_the_rates(tmp_path):
    Store(tmp_path).append(blocks("train_step_s", "retnet", [0.2, 0.2], predicted=0.5), "part")
    text = predicted.page([tmp_path])
    assert "1 of 1 steps took less than their floor, so the rates behind it are too low" in text


def test_records_without_predictions_leave_the_tables_out(tmp_path):
    Store(tmp_path).append(blocks("train_step_s", "transformer", [0.3, 0.3]), "part")
    assert predicted.page([tmp_path]).count("No record has both.") == 3


def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys):
    assert predicted.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no results in results/"):
        predicted._all_results()
