"""Cells whose records hold impossible values: left out with the reason, all others untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.parts import with_column, written
from golden.records import Row, blocks, decode, document, frame, record

from retnet_bench.analysis.tables import curves, ratios
from retnet_bench.analysis.verdicts import history, judging
from retnet_bench.analysis.verdicts.claims import Claim
from retnet_bench.analysis.verdicts.decision import Policy
from retnet_bench.figures import FIGURES
from retnet_bench.report import gate
from retnet_bench.report.tables import tables
from retnet_bench.results.soundness import sound
from retnet_bench.results.store import Store, read_records


def study(run: str = "run-1") -> list[Row]:
    rows: list[Row] = []
    at = {"run_id": run, "git_revision": run}
    for arm, factor in (("retnet", 1.0), ("transformer", 2.0)):
        for length in (512, 1024):
            rows += blocks("train_step_s", arm, [0.1 * factor] * 4, length=length, **at)
            rows.append(record("peak_tensor_bytes", arm, length=length, samples=[1e6], **at))
        rows += decode(arm, {1: 0.01, 512: 0.01 * factor}, **at)
        rows += [row for i in range(4) for row in document(arm, f"d{i}", 50 * factor + i, **at)]
    return rows


def poison(rows: list[Row], metric: str, sample: float) -> str:
    """Put `sample` into one record of RetNet; returns its cell."""
    row = next(r for r in rows if (r["metric"], r["arm"]) == (metric, "retnet"))
    row["samples"] = [*row["samples"][:-1], sample]
    return row["cell_id"]


IMPOSSIBLE = [
    *(("train_step_s", v) for v in (0.0, -1.0, np.nan, np.inf, -np.inf)),
    ("decode_step_s", 0.0),
    ("peak_tensor_bytes", -1.0),
    ("document_nll_nat", np.inf),
    ("document_bytes", np.nan),
]


def poisoned(folder: Path, metric: str, sample: float) -> str:
    """Records with one impossible value, in `folder`; returns the cell that holds it."""
    rows = study()
    cell = poison(rows, metric, sample)
    Store(folder).append(rows, "all")
    return cell


@pytest.mark.parametrize(("metric", "sample"), IMPOSSIBLE)
def test_the_cell_is_left_out_with_its_reason_and_the_rest_is_as_before(tmp_path, metric, sample):
    cell = poisoned(tmp_path / "bad", metric, sample)
    records = read_records(tmp_path / "bad")
    (lost,) = records[records["cell_id"] == cell].to_dict("records")
    assert (lost["metric"], lost["status"]) == ("outcome", "unavailable")
    assert lost["reason"].startswith(f"{metric} holds ")
    assert lost["reason"].endswith(f"which cannot be ({tmp_path}/bad/records/all.parquet)")
    others = records[records["cell_id"] != cell]
    assert len(others) == sum(row["cell_id"] != cell for row in study())


@pytest.mark.parametrize(
    ("metric", "sample"), [("train_step_s", np.inf), ("document_nll_nat", np.inf)]
)
def test_it_is_shown_drawn_and_judged_without_that_cell(tmp_path, metric, sample):
    poisoned(tmp_path / "bad", metric, sample)
    records = read_records(tmp_path / "bad")
    shown = {table.title: table for table in tables(records)}
    assert shown["Not measured"].row_count == 1
    with np.errstate(all="raise", under="ignore"):
        ratios.pair_ratios(records)
    FIGURES["throughput"](records)
    trained = curves.throughput(records).set_index(["arm", "length"])["estimate"]
    assert trained["transformer", 512] == pytest.approx(2 * 512 / 0.2)
    assert np.isnan(trained["retnet", 512]) == metric.startswith(("train", "peak"))


def test_a_claim_about_it_is_not_measured():
    rows = study()
    poison(rows, "train_step_s", 0.0)
    measure = {"kind": "level", "metric": "train_step_s", "of": "retnet"}
    where = {"workload": "train", "length": 512}
    made = {"name": "c", "says": "so", "source": "me", "at_least": 1}
    stated = Claim.model_validate(made | {"measure": measure, "where": where})
    (found,) = judging.evaluate(sound(frame(rows)), [stated])
    assert found.verdict == "not measured"
    assert found.reason == "retnet unavailable: train_step_s holds 0 s, which cannot be"


@pytest.mark.parametrize(("side", "code"), [("candidate", 3), ("baseline", 0)])
def test_the_gate_calls_it_neither_a_regression_nor_a_pass(tmp_path, side, code):
    good, bad = study(), study("run-2")
    poison(bad, "train_step_s", -1.0)
    folders = {name: tmp_path / name for name in ("good", "bad")}
    Store(folders["good"]).append(good, "all")
    Store(folders["bad"]).append(bad, "all")
    mine, theirs = ("bad", "good") if side == "candidate" else ("good", "bad")
    report = gate.check(folders[mine], folders[theirs], Policy())
    assert report.exit_code == code
    (row,) = [row for row in report.rows if "which cannot be" in row.remark]
    assert row.verdict == "not comparable"


def test_a_history_goes_on_without_it(tmp_path):
    for i in range(3):
        rows = study(f"run-{i}")
        if i == 1:
            poison(rows, "train_step_s", 0.0)
        Store(tmp_path / str(i)).append(rows, "all")
    lines = history.lines(history.read([tmp_path]))
    about = {(x.about["arm"], x.about["metric"], x.about["length"]): len(x.points) for x in lines}
    assert about["retnet", "train_step_s", 512] == 2
    assert about["transformer", "train_step_s", 512] == 3


def test_a_value_that_cannot_be_counts_though_its_samples_could(tmp_path):
    rows = study()
    row = next(r for r in rows if (r["metric"], r["arm"]) == ("document_nll_nat", "retnet"))
    row["value"] = np.inf
    found = sound(frame(rows))
    (lost,) = found[found["cell_id"] == row["cell_id"]].to_dict("records")
    assert lost["reason"] == "document_nll_nat holds inf nat, which cannot be"


@pytest.mark.parametrize("name", ["length", "batch"])
def test_a_value_of_no_recorded_shape_leaves_its_cell_out(name):
    rows = study()
    row = next(r for r in rows if (r["metric"], r["arm"]) == ("train_step_s", "retnet"))
    row[name] = None
    found = sound(frame(rows))
    (lost,) = found[found["cell_id"] == row["cell_id"]].to_dict("records")
    assert lost["reason"] == f"its {name} is not recorded"


def test_a_later_good_run_of_the_cell_counts():
    rows = [*study("run-1"), *study("run-2")]
    poison(rows, "train_step_s", 0.0)
    table = curves.throughput(sound(frame(rows)))
    assert table["estimate"].notna().all()


def test_zero_is_a_count_and_a_document_may_have_no_words():
    rows = [record("state_bytes", samples=[0.0])]
    rows += [row for i in range(4) for row in document("retnet", f"d{i}", 50.0)]
    next(row for row in rows if row["metric"] == "document_words")["samples"] = [0.0]
    records = frame(rows)
    assert sound(records) is records
    assert curves.perplexities(records, per="word")["n"].tolist() == [3]


CONTRADICTED = [
    ({"value": 0.05}, "train_step_s is 0.05 s, but the median of its samples is 0.1"),
    ({"samples": [0.1, 0.3], "value": 0.1}, "train_step_s is 0.1 s, but the median of its sample"),
    ({"samples": None, "value": None}, "train_step_s is ok, but has no value"),
    ({"cell_json": '{"length":256}'}, "its length is 512, but its cell_json says 256"),
    ({"cell_json": '{"batch":1}'}, "its batch is 2, but its cell_json says 1"),
    ({"cell_json": '{"size":"25M"}'}, "its size is 1m, but its cell_json says 25M"),
    ({"cell_json": '{"workload":"prefill"}'}, "its workload is train, but its cell_json says p"),
    ({"cell_json": '{"arm":"transformer"}'}, "its arm is retnet, but its cell_json says transf"),
    ({"cell_id": "0" * 16}, "its cell_json is not that of cell 0000000000000000"),
]


@pytest.mark.parametrize(("changes", "why"), CONTRADICTED)
def test_a_row_that_contradicts_itself_leaves_its_cell_out(changes, why):
    rows = study()
    row = next(r for r in rows if (r["metric"], r["arm"]) == ("train_step_s", "retnet"))
    row.update({"value": 0.1} | changes)
    found = sound(frame(rows))
    (lost,) = found[found["cell_id"] == row["cell_id"]].to_dict("records")
    assert (lost["metric"], lost["status"]) == ("outcome", "unavailable")
    assert lost["reason"].startswith(why)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_the_median_of_the_samples_is_the_value(n):
    samples = [0.1 + 0.07 * (i * 5 % n) for i in range(n)]
    rows = [record("train_step_s", samples=samples, value=float(np.median(samples)))]
    assert sound(frame(rows))["metric"].tolist() == ["train_step_s"]


def test_the_largest_numbers_are_compared_without_a_warning():
    rows = [record("peak_tensor_bytes", samples=[1e308], value=1e308)]
    rows += [record("train_step_s", samples=[1e308, 1.1e308], value=1.05e308)]
    with np.errstate(over="ignore"):
        records = frame(rows)
    with np.errstate(all="raise"):
        assert set(sound(records)["metric"]) == {"peak_tensor_bytes", "train_step_s"}


def test_every_reference_result_is_sound():
    for folder in (Path(__file__).parents[2] / "results").iterdir():
        if (folder / "records").is_dir():
            reasons = read_records(folder)["reason"].dropna()
            assert not reasons.str.contains("but the median|cell_json").any(), folder


def test_rows_of_an_unknown_metric_are_reported_once(tmp_path, caplog):
    Store(tmp_path).append(study(), "all")
    part = tmp_path / "records" / "all.parquet"
    table = pq.read_table(part)
    metrics = table["metric"].to_pylist()
    metrics[0], units = "train_step", table["unit"].to_pylist()
    table = with_column(table, "metric", pa.array(metrics))
    part.write_bytes(written(with_column(table, "unit", pa.array(units))))
    read_records(tmp_path)
    read_records(tmp_path)
    (said,) = caplog.messages
    assert said == (
        f'1 rows of the unknown metric "train_step" are not shown, such as in {part}; did you mean '
        '"train_step_s"?'
    )
