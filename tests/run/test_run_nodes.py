"""Worlds over the two nodes of a job: measured, and every way a rank or a node can fail.

Both nodes are this machine: srun is a script that starts the further node's server beside the test.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes import faults, nodes
from fakes.cells import QUICK, cell

from retnet_bench.base import UserError
from retnet_bench.measure.protocol import Protocol
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import Store, read_records
from retnet_bench.run.launchers import local
from retnet_bench.run.launchers import nodes as launching
from retnet_bench.run.runner import Finished, Runner
from retnet_bench.run.world_handle import WorldHandle
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Cell
from retnet_bench.workloads.settings import Parallel

TWO = Parallel(data=2)
WITHOUT_MEMORY = {"measure": ("time",)}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Path]:
    """The folder of an srun for all tests that need no other: workers of both nodes have the fault
    that their arm is named after."""
    yield tmp_path_factory.mktemp("bin")
    launching.close()
    assert gone(servers()), "a server lives on"


@pytest.fixture
def job(monkeypatch, server):
    """A job whose nodes both have one core."""
    monkeypatch.setattr(local, "serve", faults.serve)
    nodes.job(monkeypatch, server, nodes.FAULTY)


@pytest.fixture
def fresh():
    """For tests with a server of their own."""
    launching.close()
    yield
    launching.close()
    assert gone(servers()), "a server lives on"


def servers() -> list[psutil.Process]:
    """Processes of the further node: its server and workers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "run.node" in words or "faulty_node" in words:
            found.append(process)
    return found


def gone(processes: list[psutil.Process], seconds: float = 10.0) -> bool:
    _, left = psutil.wait_procs(processes, seconds)
    return not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def world_of(arm: str = "retnet", parallel: Parallel = TWO, **changes: Any) -> Cell:
    return cell(arm=arm, parallel=parallel, **changes)


def measure(
    folder: Path, cells: list[Cell], protocol: Protocol = QUICK, **job: str
) -> list[Finished]:
    pair = [Planned(c, protocol, None) for c in cells]
    return list(Runner("tiny", "run-1", Store(folder), job=job).run(pair))


def test_a_pair_of_worlds_over_two_nodes_is_measured(tmp_path, monkeypatch, job):
    measure(tmp_path / "alone", [cell()])
    started: list[WorldHandle] = []
    start = WorldHandle.__init__

    def noted(self, *arguments):
        start(self, *arguments)
        started.append(self)

    monkeypatch.setattr(WorldHandle, "__init__", noted)
    cells = [world_of(), world_of("transformer", mixer="attention")]
    own = {"scheduler": "slurm", "id": "7", "node": "n1"}
    finished = measure(tmp_path / "out", cells, **own)
    assert [f.rows[-1] for f in finished if f.status not in OK_STATUSES] == []
    records = read_records(tmp_path / "out")
    steps = records[records["metric"] == "train_step_s"].sort_values("order")
    assert list(steps["arm"]) == ["retnet", "transformer", "transformer", "retnet"]
    seats = [seat for world in started for seat in world.seats]
    assert [(s.rank, s.local_rank, s.local_ranks) for s in seats] == [(0, 0, 1), (1, 0, 1)] * 2
    assert all(seat.rendezvous.startswith("tcp://127.0.0.1:") for seat in seats)
    env = json.loads(steps["environment_json"].iloc[0])
    assert env["world"] == {"ranks_by_machine": [1, 1]}
    assert env["job"]["node"] == "n1, n2"
    (ranks,) = records[
        (records["metric"] == "rank_peak_tensor_bytes") & (records["arm"] == "retnet")
    ]["samples"]
    assert len(ranks) == 2
    alone = read_records(tmp_path / "alone")
    metric = "loss_after_steps_nat"
    (expected,) = alone[alone["metric"] == metric]["value"]
    (found,) = records[(records["metric"] == metric) & (records["arm"] == "retnet")]["value"]
    assert found == pytest.approx(expected, rel=1e-6)
    assert records["fingerprint"].nunique() == 1
    assert set(records["fingerprint"]) != set(alone["fingerprint"])


def test_four_ranks_are_two_on_each_of_two_nodes(tmp_path, monkeypatch, job):
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "2(x2)")
    parallel = Parallel(data=2, shard="fsdp", tensor=2)
    (finished,) = measure(tmp_path / "out", [world_of(parallel=parallel, **WITHOUT_MEMORY)])
    assert finished.status in OK_STATUSES, finished.reason
    env = json.loads(finished.rows[0]["environment_json"])
    assert env["world"] == {"ranks_by_machine": [2, 2]}


FAILURES = {
    "killed": ("killed", "rank 1: killed by signal 9 from outside"),
    "exits": ("crash", "rank 1: the worker died: exit code 7"),
    "raises": ("error", "rank 1: KeyError: 'lost'"),
    "hogs": ("oom", "rank 1: "),
}


@pytest.mark.slow
def test_what_a_rank_of_another_node_fails_at_is_the_cells_outcome(tmp_path, job):
    """One after another, by the same server; a sound world after them is measured."""
    for arm, (status, reason) in FAILURES.items():
        (finished,) = measure(tmp_path / arm, [world_of(f"{arm}-last", **WITHOUT_MEMORY)])
        assert finished.status == status
        assert finished.reason.startswith(reason)
        (row,) = finished.rows
        if arm == "raises":
            assert "last words on stderr" in row["stderr_tail"]
        assert len(servers()) <= 2, "srun's server, and no worker"
    (sound,) = measure(tmp_path / "sound", [world_of(**WITHOUT_MEMORY)])
    assert sound.status in OK_STATUSES, sound.reason


def test_a_rank_of_this_node_that_dies_takes_that_of_the_other_with_it(tmp_path, job):
    parallel = Parallel(data=2)
    (finished,) = measure(tmp_path, [world_of("killed", parallel=parallel, **WITHOUT_MEMORY)])
    assert finished.status == "killed"
    assert len(servers()) <= 2


def test_a_rank_of_another_node_that_hangs_ends_the_cell_in_time(tmp_path, job):
    protocol = replace(QUICK, timeout_s=10.0)
    begun = time.monotonic()
    (finished,) = measure(tmp_path, [world_of("sleeps-last", **WITHOUT_MEMORY)], protocol)
    assert finished.status == "timeout"
    assert "timeout_s = 10 s" in finished.reason
    assert time.monotonic() - begun < 60, "with the start of the server"
    assert len(servers()) <= 2


def test_a_nodes_server_that_died_has_a_successor(tmp_path, job):
    launching.others(1)
    there = servers()
    assert there
    for process in there:
        process.kill()
    assert gone(there)
    (finished,) = measure(tmp_path, [world_of(**WITHOUT_MEMORY)])
    assert finished.status in OK_STATUSES, finished.reason


@pytest.mark.parametrize(
    ("srun", "words"),
    [
        (None, "needs more than one of the job's nodes, and so srun, which is not on this node's"),
        (
            "#!/bin/sh\necho 'srun: error: Invalid account' >&2; exit 1\n",
            "1 of the job's 1 other nodes have not called: srun ended with exit code 1: "
            "srun: error: Invalid account",
        ),
        (
            "#!/bin/sh\nexec sleep 60\n",
            "1 of the job's 1 other nodes have not called within 1 s",
        ),
    ],
)
def test_nodes_that_can_not_be_started_are_one_line(tmp_path, monkeypatch, fresh, srun, words):
    monkeypatch.setattr(launching, "SERVER_START_S", 1.0)
    nodes.job(monkeypatch, tmp_path / "bin", srun)
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        measure(tmp_path / "out", [world_of(**WITHOUT_MEMORY)])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "out" / "records").exists() or not any(
        (tmp_path / "out" / "records").iterdir()
    )


def test_nodes_of_two_kinds_make_no_world(tmp_path, monkeypatch, fresh):
    """What they measured together would be of neither."""
    other = nodes.START + "export OMP_NUM_THREADS=1\npython=$1; shift 3\n"
    other += 'exec "$python" -m fakes.other_node "$@"\n'
    nodes.job(monkeypatch, tmp_path / "bin", other)
    (finished,) = measure(tmp_path / "out", [world_of(**WITHOUT_MEMORY)])
    assert finished.status == "error"
    assert "the world's machines are unlike: rank 0 on " in finished.reason
    assert "rank 1 on Another CPU" in finished.reason
