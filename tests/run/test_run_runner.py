"""The runner with real worker processes: order, records, and every way a worker can fail."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import faults
from fakes.cells import QUICK, cell, texts

from retnet_bench.base import UserError
from retnet_bench.files import NotWritten
from retnet_bench.measure.protocol import Protocol
from retnet_bench.measure.telemetry import Telemetry
from retnet_bench.models.mixers.retention import RetentionOptions
from retnet_bench.results.schema import METRICS, OK_STATUSES
from retnet_bench.results.store import Store, read_records
from retnet_bench.run import wire, worker
from retnet_bench.run.launchers import base, local
from retnet_bench.run.launchers.local import LocalLauncher
from retnet_bench.run.runner import Finished, Runner
from retnet_bench.run.worker_handle import WorkerHandle
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Cell


@pytest.fixture
def faulty(monkeypatch):
    """Let arms named in faults.FAULTS have their fault."""
    monkeypatch.setattr(local, "serve", faults.serve)


def measure(folder: Path, cells: list[Cell], protocol: Protocol = QUICK) -> list[Finished]:
    pair = [Planned(c, protocol, None) for c in cells]
    return list(Runner("tiny", "run-1", Store(folder)).run(pair))


def alive(process: base.Process) -> bool:
    return process.wait(0) is None


def pair_of(*arms: str, **changes: Any) -> list[Cell]:
    return [cell(arm=arm, **changes) for arm in arms]


BOTH = [cell(), cell(mixer="attention")]


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> pd.DataFrame:
    """One train pair, measured."""
    folder = tmp_path_factory.mktemp("pair")
    finished = measure(folder, BOTH)
    assert {f.status for f in finished} <= set(OK_STATUSES)  # impure on busy cores
    assert [p.name for p in (folder / "records").iterdir()] == [f"{BOTH[0].pair_id}.parquet"]
    return read_records(folder)


# --- a pair that works -------------------------------------------------------------------------


def test_blocks_of_the_arms_are_interleaved_abba(records):
    steps = records[records["metric"] == "train_step_s"].sort_values("order")
    assert list(steps["order"]) == [0, 1, 2, 3]
    assert list(steps["arm"]) == ["retnet", "transformer", "transformer", "retnet"]
    assert list(steps["block"]) == [0, 0, 1, 1]
    assert set(steps["process"]) == {0}


def test_samples_are_kept_raw_with_their_median(records):
    steps = records[records["metric"] == "train_step_s"]
    for samples, value in zip(steps["samples"], steps["value"], strict=True):
        assert 2 <= len(samples) <= 3
        assert all(0 < s < 5 for s in samples)
        assert value == pytest.approx(pd.Series(samples).median())


def test_every_row_says_what_was_run_on_what(records):
    assert set(records["status"]) <= {*OK_STATUSES, "unavailable"}
    assert records.loc[records["status"] == "unavailable", "reason"].notna().all()
    assert records.loc[records["status"] == "unavailable", "value"].isna().all()
    for (arm,), rows in records.groupby(["arm"]):
        found = BOTH[arm == "transformer"]
        assert set(rows["cell_id"]) == {found.cell_id}
        assert set(rows["cell_json"]) == {found.canonical()}
        assert set(rows["kernel"]) == {found.kernel}
        assert set(rows["kernel_dispatched"]) == {
            "chunkwise / baddbmm / bmm"
            if arm == "retnet"
            else "sdpa / _scaled_dot_product_flash_attention_for_cpu"
        }
        assert set(rows["chunk"].dropna()) == ({16} if arm == "retnet" else set())
        assert set(rows["gate"].dropna()) == ({True} if arm == "retnet" else set())
    assert records["pair_id"].nunique() == records["run_id"].nunique() == 1
    assert set(records["mismatch"].abs() <= 0.01) == {True}
    env = json.loads(records["environment_json"].iloc[0])
    assert env["threads"]["intra_op"] == 1
    assert env["torch"]["version"] == records["torch_version"].iloc[0]
    assert json.loads(records["protocol_json"].iloc[0])["blocks"] == 2
    assert all(METRICS[m].unit == u for m, u in zip(records["metric"], records["unit"]))


def test_a_block_keeps_every_reason_why_it_is_impure(tmp_path, monkeypatch):
    """What the worker counted and what the GPU reported: the second once was lost."""
    ask = WorkerHandle.ask

    def impure(self, name, *arguments, **named):
        answer = ask(self, name, *arguments, **named)
        return replace(answer, impure="GC ran") if name == "block" else answer

    monkeypatch.setattr(WorkerHandle, "ask", impure)
    monkeypatch.setattr(Telemetry, "judge", lambda self: "GPU throttled: power")
    measure(tmp_path, BOTH[:1])
    rows = read_records(tmp_path)
    steps = rows[rows["metric"] == "train_step_s"]
    assert set(steps["status"]) == {"impure"}
    assert set(steps["reason"]) == {"GC ran; GPU throttled: power"}
    assert set(rows.loc[rows["metric"] == "warmup_s", "status"]) == {"ok"}


def test_warm_up_and_agreement_are_recorded_apart(records):
    for _, rows in records.groupby("arm"):
        once = rows[rows["phase"] == "warmup"].set_index("metric")["value"]
        assert set(once.index) == {"first_step_s", "warmup_s", "warmup_steps"}
        assert 0 < once["first_step_s"] <= once["warmup_s"]
        assert once["warmup_steps"] >= 2
        forms = rows[rows["metric"] == "forms_relative_error"].set_index("check")["value"]
        assert set(forms.index) == {"fp64", "fp32"}
        assert forms["fp64"] < 1e-10
        assert 0 < forms["fp32"] < 1e-4


def test_memory_comes_after_the_blocks_with_weights_and_peak(records):
    for _, rows in records.groupby("arm"):
        values = rows[rows["phase"] == "train"].groupby("metric")["value"].first()
        assert values["peak_tensor_bytes"] > 4 * 0.99 * values["weight_bytes"]
        assert rows[rows["metric"] == "peak_tensor_bytes"]["block"].isna().all()


# --- protocols ---------------------------------------------------------------------------------


def test_two_processes_side_by_side(tmp_path):
    """The second begins with the other arm, and repeats no memory and no facts."""
    measure(tmp_path, BOTH, replace(QUICK, processes=2, blocks=1))
    records = read_records(tmp_path)
    steps = records.query("metric == 'train_step_s'").set_index(["arm", "process"])
    assert steps["order"].to_dict() == {
        ("retnet", 0): 0,
        ("transformer", 0): 1,
        ("transformer", 1): 0,
        ("retnet", 1): 1,
    }
    once = records[records["metric"].isin(["peak_tensor_bytes", "weight_bytes"])]
    assert set(once["process"]) == {0}


def test_processes_interleave_one_at_a_time(tmp_path, monkeypatch):
    """A B B A over processes, and never two alive: for cells that need the whole machine."""
    started, order = [], []
    start = WorkerHandle.__init__

    def watched(self, planned, launcher, output):
        start(self, planned, launcher, output)
        order.append(planned.cell.arm)
        started.append(self.started.process)
        assert sum(alive(process) for process in started) == 1

    monkeypatch.setattr(WorkerHandle, "__init__", watched)
    time_only = [replace(c, measure=("time",)) for c in BOTH]
    measure(tmp_path, time_only, replace(QUICK, processes=2, interleave="processes"))
    assert order == ["retnet", "transformer", "transformer", "retnet"]
    steps = read_records(tmp_path).query("metric == 'train_step_s'")
    assert steps.groupby(["arm", "process"]).size().tolist() == [2, 2, 2, 2]


def test_measure_memory_only_takes_no_time_samples(tmp_path):
    measure(tmp_path, [replace(cell(), measure=("memory",))])
    found = set(read_records(tmp_path)["metric"])
    assert "peak_tensor_bytes" in found
    assert not found & {"train_step_s", "warmup_s", "first_step_s"}


def test_perplexity_arms_run_one_after_another_and_are_stored_one_by_one(tmp_path):
    text = {"corpus": str(texts(tmp_path / "texts")), "tokenizer": "byte", "vocab_size": 257}
    settings = text | {"token_budget": 256, "documents": 1, "measure": ("time",), "length": 32}
    arms = [cell("perplexity", mixer, **settings) for mixer in ("retention", "attention")]
    pair = [Planned(c, QUICK, None) for c in arms]
    turns = Runner("tiny", "run-1", Store(tmp_path / "out")).run(pair)
    next(turns)
    first = read_records(tmp_path / "out")
    assert set(first["arm"]) == {"retnet"}
    list(turns)
    both = read_records(tmp_path / "out")
    assert {p.stem for p in (tmp_path / "out/records").iterdir()} == {c.cell_id for c in arms}
    nll = both[both["metric"] == "document_nll_nat"]
    assert nll.groupby("document")["arm"].nunique().tolist() == [2]
    assert not (both["metric"] == "train_step_s").any()


# --- failures ----------------------------------------------------------------------------------

FAILURES = {
    "raises": ("error", "KeyError: 'lost'"),
    "segfaults": ("crash", "the worker died: signal SIGSEGV (Segmentation fault)"),
    "realtime": ("crash", "the worker died: signal "),
    "exits": ("crash", "the worker died: exit code 7"),
    "killed": ("killed", "killed by signal 9 from outside"),
    "hogs": ("oom", "memory"),
    "nan": ("nan", "training loss became nan"),
    "incorrect": ("incorrect", "forms disagree: fp32: forward at length 3 differs"),
    "miscompiled": ("incorrect", "mode compile differs from eager by 1.0e-02 (limit 1e-04)"),
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> tuple[dict[str, Finished], pd.DataFrame]:
    """All the failures at once, in one pair with a sound arm at either end."""
    folder = tmp_path_factory.mktemp("failures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "serve", faults.serve)
        arms = pair_of("first", *FAILURES, "last", measure=("time",))
        own = {
            "miscompiled": {"mode": "compile"},  # nothing is: the fault stands in for the compiler
            # A model like the first arm's would not be checked again.
            "incorrect": {"options": RetentionOptions(chunk=8)},
        }
        arms = [replace(c, **own.get(c.arm, {})) for c in arms]
        finished = measure(folder, arms)
    return {f.planned.cell.arm: f for f in finished}, read_records(folder)


@pytest.mark.parametrize("arm", FAILURES)
def test_a_failing_worker_is_one_row_with_status_and_reason(failed, arm):
    status, reason = FAILURES[arm]
    finished, table = failed
    rows = table[table["arm"] == arm]
    assert len(rows) == 1
    row = rows.iloc[0]
    assert (row["metric"], row["unit"], row["status"]) == ("outcome", "", status)
    assert reason in row["reason"]
    assert "\n" not in row["reason"]
    assert pd.isna(row["value"])
    assert row["samples"] is None
    assert (finished[arm].status, finished[arm].reason) == (status, row["reason"])


def test_the_tail_of_stderr_is_kept(failed):
    _, table = failed
    tail = table.loc[table["arm"] == "raises", "stderr_tail"].item()
    assert "last words on stderr" in tail
    assert "Traceback" in tail
    assert tail.rstrip().endswith("KeyError: 'lost'")


@pytest.mark.parametrize("arm", ["first", "last"])
def test_the_sound_arms_beside_failing_ones_are_measured_whole(failed, arm):
    finished, table = failed
    assert finished[arm].status in OK_STATUSES
    steps = table[(table["arm"] == arm) & (table["metric"] == "train_step_s")]
    assert len(steps) == QUICK.blocks
    assert set(steps["status"]) & set(OK_STATUSES)


def test_a_sleeping_worker_is_stopped_when_its_time_is_spent(tmp_path, faulty):
    start = time.monotonic()
    limit = 10.0  # the sound one must be done by then on a slow machine, too
    cells = pair_of("sleeps", "sound", measure=("time",))
    slow, sound = measure(tmp_path, cells, replace(QUICK, timeout_s=limit))
    assert (slow.status, slow.reason) == ("timeout", "not finished after timeout_s = 10 s")
    assert limit <= slow.seconds < limit + 1
    assert time.monotonic() - start < 3 * limit
    assert sound.status in OK_STATUSES


def test_a_cell_that_fails_half_way_keeps_no_speed(tmp_path, monkeypatch, faulty):
    """A worker killed from outside between its blocks: what it measured is not the cell's."""
    ask = WorkerHandle.ask

    def ask_and_kill(self, request, **arguments):
        answer = ask(self, request, **arguments)
        if request == "block" and self.planned.cell.arm == "victim":
            self.kill()
        return answer

    monkeypatch.setattr(WorkerHandle, "ask", ask_and_kill)
    cells = pair_of("victim", "sound", measure=("time",))
    victim, sound = measure(tmp_path, cells)
    assert victim.status == "killed"
    assert [row["metric"] for row in victim.rows] == ["outcome"]
    assert sound.status in OK_STATUSES


def test_unsupported_cells_start_no_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(WorkerHandle, "__init__", None)
    pair = [Planned(cell(kernel="fla"), QUICK, "kernel fla: needs a CUDA device")]
    (finished,) = Runner("tiny", "run-1", Store(tmp_path)).run(pair)
    assert (finished.status, finished.reason) == ("unsupported", "kernel fla: needs a CUDA device")
    (row,) = read_records(tmp_path).to_dict("records")
    assert (row["metric"], row["status"]) == ("outcome", "unsupported")


def test_no_worker_outlives_the_pair(tmp_path, monkeypatch):
    started = []
    start = WorkerHandle.__init__

    def noted(self, *args):
        start(self, *args)
        started.append(self.started.process)

    monkeypatch.setattr(WorkerHandle, "__init__", noted)
    measure(tmp_path, [replace(c, measure=("time",)) for c in BOTH])
    assert [process.wait(0) for process in started] == [0, 0]


def test_an_interrupt_stops_the_workers_at_once(tmp_path, monkeypatch, faulty):
    """Ctrl-C must not wait for whatever a worker is doing."""
    started, pressed = [], []
    ask = WorkerHandle.ask

    def interrupted(self, request, **arguments):
        started.append(self.started.process)
        if self.planned.cell.arm == "sleeps":
            wire.request(self.started.conn, request)
            time.sleep(0.2)
            pressed.append(time.monotonic())
            raise KeyboardInterrupt
        return ask(self, request, **arguments)

    monkeypatch.setattr(WorkerHandle, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, pair_of("sound", "sleeps"))
    assert time.monotonic() - pressed[0] < 4
    assert not any(alive(process) for process in started)
    assert list((tmp_path / "records").iterdir()) == []


def test_a_second_worker_starts_in_well_under_a_second(tmp_path, record_property):
    """Isolation must not cost what keeps people from it."""
    spent = []
    for i in range(3):
        start = time.monotonic()
        worker = WorkerHandle(Planned(cell(), QUICK, None), LocalLauncher(), tmp_path / f"{i}.log")
        assert isinstance(worker.ask("unheard_of"), wire.Failure)
        spent.append(time.monotonic() - start)
        worker.stop()
    print(f"a warm worker answers {min(spent[1:]):.3f} s after it was asked for")
    record_property("warm_worker_start_s", min(spent[1:]))
    assert min(spent[1:]) < 1.0


def test_a_full_disk_ends_the_run_and_is_no_outcome_of_the_cell(tmp_path, faulty):
    with pytest.raises(UserError, match=r"^train 0.1M full .*No space left on device"):
        measure(tmp_path, pair_of("full", "sound", measure=("time",)))
    assert list((tmp_path / "records").iterdir()) == []
    failure = worker._failure(NotWritten("c/model.safetensors: can't be written: Read-only"))
    assert failure.status == wire.UNWRITTEN
