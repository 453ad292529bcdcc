"""The runner with worlds of two processes: records, and every way a rank can fail."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from fakes import faults
from fakes.cells import QUICK, cell, texts

from retnet_bench.analysis.tables import curves
from retnet_bench.measure.protocol import Protocol
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import Store, read_records
from retnet_bench.run.launchers import local
from retnet_bench.run.runner import Finished, Runner
from retnet_bench.run.world_handle import WorldHandle
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Cell
from retnet_bench.workloads.settings import Parallel

TWO = Parallel(data=2)


@pytest.fixture
def faulty(monkeypatch):
    """Let arms named in faults.FAULTS have their fault, in their last rank alone."""
    monkeypatch.setattr(local, "serve", faults.serve)


@pytest.fixture
def started(monkeypatch) -> list[int]:
    """Process ids of every rank that is started."""
    pids: list[int] = []
    start = WorldHandle.__init__

    def noted(self, *arguments):
        start(self, *arguments)
        pids.extend(self.pids)

    monkeypatch.setattr(WorldHandle, "__init__", noted)
    return pids


def measure(folder: Path, cells: list[Cell], protocol: Protocol = QUICK) -> list[Finished]:
    pair = [Planned(c, protocol, None) for c in cells]
    return list(Runner("tiny", "run-1", Store(folder)).run(pair))


def gone(pids: list[int], seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        alive = [
            pid
            for pid in pids
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        ]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def world_of(arm: str = "retnet", **changes: Any) -> Cell:
    return cell(arm=arm, parallel=TWO, **changes)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> pd.DataFrame:
    """A train pair of worlds, measured."""
    folder = tmp_path_factory.mktemp("world")
    finished = measure(folder, [world_of(), world_of("transformer", mixer="attention")])
    assert [f.rows[-1] for f in finished if f.status not in OK_STATUSES] == []
    return read_records(folder)


def test_blocks_of_worlds_are_interleaved_and_say_their_layout(records):
    steps = records[records["metric"] == "train_step_s"].sort_values("order")
    assert list(steps["arm"]) == ["retnet", "transformer", "transformer", "retnet"]
    assert set(records["parallel"]) == {"data 2"}
    assert records["pair_id"].nunique() == 1
    layout = json.loads(records["cell_json"].iloc[0])["parallel"]
    assert layout == {"data": 2, "shard": "none", "tensor": 1}


def test_every_ranks_memory_is_kept_and_the_largest_shown(records):
    for metric in ("peak_tensor_bytes", "weight_bytes", "peak_rss_bytes"):
        for _, rows in records.groupby("arm"):
            (shown,) = rows[rows["metric"] == metric]["value"]
            (ranks,) = rows[rows["metric"] == f"rank_{metric}"]["samples"]
            assert len(ranks) == 2
            assert shown == max(ranks) > 0


def test_tokens_per_second_are_the_worlds(records):
    rates = curves.throughput(records).set_index("arm")["estimate"]
    step = records[(records["metric"] == "train_step_s") & (records["arm"] == "retnet")]
    times = [t for samples in step["samples"] for t in samples]
    assert 2 * 32 / max(times) <= rates["retnet"] <= 2 * 32 / min(times)


def test_the_loss_after_steps_is_one_processs(records, tmp_path):
    measure(tmp_path, [cell()])
    alone = read_records(tmp_path)
    metric = "loss_after_steps_nat"
    (expected,) = alone[alone["metric"] == metric]["value"]
    (found,) = records[(records["metric"] == metric) & (records["arm"] == "retnet")]["value"]
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_world_trains_and_scores_on_the_documents_that_one_process_does(tmp_path):
    """Sizes of documents are in bytes, too, and no rank's own."""
    common = {
        "corpus": str(texts(tmp_path / "texts")),
        "tokenizer": "byte",
        "vocab_size": 257,
        "token_budget": 256,
        "documents": 1,
    }
    found = {}
    for name, parallel in (("world", TWO), ("alone", None)):
        (finished,) = measure(tmp_path / name, [cell("perplexity", parallel=parallel, **common)])
        assert finished.status in OK_STATUSES, finished.reason
        found[name] = read_records(tmp_path / name).set_index("metric")["value"]
    assert found["world"]["document_bytes"] == found["alone"]["document_bytes"] > 0
    nats = [values["document_nll_nat"] for values in found.values()]
    assert nats[0] == pytest.approx(nats[1], rel=1e-5)
    assert "rank_document_bytes" not in found["world"]


FAILURES = {
    "killed": ("killed", "rank 1: killed by signal 9 from outside"),
    "exits": ("crash", "rank 1: the worker died: exit code 7"),
    "raises": ("error", "rank 1: KeyError: 'lost'"),
    "hogs": ("oom", "rank 1: "),
}


@pytest.mark.parametrize("arm", FAILURES)
def test_what_a_rank_fails_at_is_the_cells_outcome(tmp_path, faulty, started, arm):
    (finished,) = measure(tmp_path, [world_of(f"{arm}-last", measure=("time",))])
    status, reason = FAILURES[arm]
    assert finished.status == status
    assert finished.reason.startswith(reason)
    (row,) = finished.rows
    if arm == "raises":
        assert "last words on stderr" in row["stderr_tail"]
    assert len(started) == 2
    assert gone(started)


def test_a_rank_that_hangs_ends_the_cell_when_its_time_is_spent(tmp_path, faulty, started):
    protocol = replace(QUICK, timeout_s=8.0)
    begun = time.monotonic()
    (finished,) = measure(tmp_path, [world_of("sleeps-last", measure=("time",))], protocol)
    assert finished.status == "timeout"
    assert "timeout_s = 8 s" in finished.reason
    assert time.monotonic() - begun < 20
    assert gone(started)


def test_a_sound_world_beside_a_failing_one_is_measured(tmp_path, faulty):
    cells = [world_of("killed-last", measure=("time",)), world_of(measure=("time",))]
    lost, sound = measure(tmp_path, cells)
    assert lost.status == "killed"
    assert sound.status in OK_STATUSES
