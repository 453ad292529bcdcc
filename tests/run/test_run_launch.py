"""Messages survive the wire, and a worker of another revision is driven like one of ours."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.cells import QUICK, cell

from retnet_bench.base import UserError
from retnet_bench.measure.protocol import WarmUp
from retnet_bench.models.agreement import Agreement
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import Store, read_records
from retnet_bench.run import stopping, wire
from retnet_bench.run.launchers import revision
from retnet_bench.run.launchers.revision import RevisionLauncher
from retnet_bench.run.runner import CellRun, Runner, environment_variables
from retnet_bench.run.worker_handle import WorkerHandle
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Sample

TREE = Path(__file__).parents[2]

ANSWERS = [
    wire.Prepared(
        {"cpu": {"model": None}},
        [Agreement("fp64", 1e-15, "here")],
        "chunkwise / bmm",
        WarmUp(0.1 + 0.2, 3, 1.0, True, (0.30000000000000004, 0.2, 0.1)),
        None,
        {"corpus": "ab"},
    ),
    wire.Samples(
        [Sample("train_step_s", "s", (1 / 3, 2e-300), "train", {"step": 4, "document": "a"})],
        "GC ran",
    ),
    wire.Progress("step 3"),
    wire.Failure("oom", "too big"),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: type(a).__name__)
def test_an_answer_arrives_as_it_was_sent(answer):
    here, there = multiprocessing.Pipe()
    wire.send(there, answer)
    assert wire.read(here.recv_bytes()) == answer


def test_nan_and_infinity_arrive():
    here, there = multiprocessing.Pipe()
    wire.send(there, wire.Samples([Sample("x", "s", (math.nan, math.inf), "train")]))
    nan, infinite = wire.read(here.recv_bytes()).samples[0].values
    assert math.isnan(nan)
    assert infinite == math.inf


def test_an_answer_of_a_later_revision_is_read_without_its_new_field():
    here, there = multiprocessing.Pipe()
    there.send_bytes(
        json.dumps({"kind": "Failure", "status": "oom", "reason": "r", "x": 1}).encode()
    )
    assert wire.read(here.recv_bytes()) == wire.Failure("oom", "r")


OLD_SAMPLES = [
    (
        {"metric": "train_loss_nat", "phase": "train", "position": 64, "document": None},
        ("train", {"tokens_seen": 64}),
    ),
    (
        {"metric": "document_nll_nat", "phase": "chunked", "position": None, "document": "d"},
        ("score", {"context": "chunked", "document": "d"}),
    ),
    (
        {"metric": "acc", "phase": "4-shot", "position": None, "document": None, "task": "sva"},
        ("score", {"shots": 4, "task": "sva"}),
    ),
]


@pytest.mark.parametrize(("old", "new"), OLD_SAMPLES, ids=lambda x: str(x)[:30])
def test_samples_of_an_earlier_revision_get_today_s_coordinates(old, new):
    here, there = multiprocessing.Pipe()
    sample = old | {"unit": "nat", "values": [1.0], "reason": None, "value": None, "note": None}
    there.send_bytes(json.dumps({"kind": "Samples", "samples": [sample], "impure": None}).encode())
    (found,) = wire.read(here.recv_bytes()).samples
    assert (found.phase, found.coordinates) == new


@pytest.mark.parametrize(
    ("rooms", "module"),
    [
        (["study"], "retnet_bench.study.worker"),
        (["run"], "retnet_bench.run.worker"),
        (["study", "run"], "retnet_bench.run.worker"),
    ],
)
def test_the_worker_of_a_revision_is_found_where_that_revision_has_it(tmp_path, rooms, module):
    for room in rooms:
        (tmp_path / "retnet_bench" / room).mkdir(parents=True)
        shutil.copy(TREE / "retnet_bench" / "run" / "worker.py", tmp_path / "retnet_bench" / room)
    assert revision._worker_module(tmp_path) == module


def test_an_assignment_keeps_cell_and_protocol():
    made = cell(gate=False, measure=("time",))
    assert wire.assigned(wire.assignment(made, QUICK, "out")) == (made, QUICK, "out")


def test_a_setting_that_this_revision_lacks_is_refused_but_a_protocol_field_is_not():
    said = json.loads(wire.assignment(cell(), QUICK, "out"))
    said["protocol"]["later"] = 1
    assert wire.assigned(json.dumps(said).encode())[1] == QUICK
    said["cell"]["flavour"] = "x"
    with pytest.raises(UserError, match="does not know the setting flavour"):
        wire.assigned(json.dumps(said).encode())


def test_two_revisions_are_interleaved_block_by_block(tmp_path):
    """D9: base minutes after head. Both sides are this tree here; each has a folder of its own."""
    planned = Planned(cell(measure=("time",)), replace(QUICK, blocks=4), None)
    python = Path(sys.executable)
    with revision.serving(TREE, python) as a, revision.serving(TREE, python) as b:
        runner = Runner("tiny", "run-1", Store(tmp_path / "a"))
        for attempt in range(2):  # a server serves one worker after another
            cell_runs = [CellRun(planned, "candidate", a), CellRun(planned, "baseline", b)]
            runner.measure(cell_runs, stopping.by_protocol(planned.protocol))
            finished = [runner.finish(cell_run) for cell_run in cell_runs]
            assert {f.status for f in finished} <= set(OK_STATUSES), attempt
    for name, outcome in zip("ab", finished, strict=True):
        Store(tmp_path / name).append(outcome.rows, "part")
    mine, theirs = (read_records(tmp_path / name) for name in "ab")
    order = [
        list(rows.loc[rows["metric"] == "train_step_s"].sort_values("block")["order"])
        for rows in (mine, theirs)
    ]
    assert order == [[0, 3, 4, 7], [1, 2, 5, 6]]
    losses = [r.loc[r["metric"] == "loss_after_steps_nat", "value"].item() for r in (mine, theirs)]
    assert losses[0] == losses[1]
    assert mine["cell_id"].unique().tolist() == theirs["cell_id"].unique().tolist()


def test_a_served_worker_that_dies_says_how(tmp_path):
    planned = Planned(cell(measure=("time",)), QUICK, None)
    with revision.serving(TREE, Path(sys.executable)) as there:
        worker = WorkerHandle(planned, there, tmp_path / "log")
        worker.kill()
        assert worker.ask("prepare").status == "killed"
        worker.stop()
        again = WorkerHandle(planned, there, tmp_path / "log-2")
        assert isinstance(again.ask("prepare"), wire.Prepared)
        again.stop()


def test_a_tree_without_a_worker_says_so(tmp_path):
    with (
        pytest.raises(UserError, match=r"has no worker that can be driven: .*No module named"),
        revision.serving(tmp_path, Path(sys.base_prefix) / "bin" / "python3"),
    ):
        pass


def test_a_dead_server_is_one_line(tmp_path):
    class Dead:
        def send_bytes(self, data: bytes) -> None:
            raise BrokenPipeError

        def kill(self) -> None:
            pass

    there = RevisionLauncher(TREE, listener=None, control=Dead(), process=Dead())
    with pytest.raises(UserError, match=r"has died, .*the same command goes on"):
        WorkerHandle(Planned(cell(), QUICK, None), there, tmp_path / "log")


@pytest.mark.parametrize(
    "said",
    [
        {"TORCHELASTIC_RUN_ID": "7"},
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2"},
    ],
)
def test_a_process_that_torchrun_started_is_refused_in_one_line(monkeypatch, said):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        environment_variables()
    for name, value in said.items():
        assert f"{name}={value}" in str(caught.value)
    assert "starts the ranks of a cell itself: run it once, without torchrun" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_world_of_one_process_is_none(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    environment_variables()
