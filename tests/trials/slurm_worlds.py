"""Cells of two ranks on the real Slurm of `trials.slurm`, one on each of its nodes: they score what
two ranks of this machine score, and however one of them or the job is killed nobody is left."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import psutil
from fakes import cluster
from fakes.cluster import Cluster
from trials.kill_resume import Place, left_of
from trials.sweep import GONE_S, Sweep, scores_of, until

from retnet_bench.results.store import read_records
from retnet_bench.run.jobs import states

STUDY = """
name: worlds
question: Do two nodes train what one machine trains?
arms:
  retnet: {mixer: retention}
  transformer: {mixer: attention}
fixed: {size: 0.1M, threads: 1, measure: [time]}
workloads:
  - workload: train
    axes: {length: [16]}
    fixed: {batch: 4, parallel: {data: 2, shard: fsdp}}
  - workload: perplexity
    fixed:
      {length: 32, batch: 4, token_budget: %d, documents: 1, checkpoint_every: 8,
       parallel: {tensor: 2}}
protocol: {blocks: 2, block_s: 0.05, warmup_max_s: 0.2}
"""
CELLS = 4
TOKENS, MANY_TOKENS = 4096, 4_000_000
ONE_A_NODE = "nodes=2,cpus_per_task=1,exclusive=false,time=10"
LARGER = STUDY.replace(
    "batch: 4, parallel: {data: 2, shard: fsdp}", "batch: 8, parallel: {data: 8}"
)
KILLS = ("rank", "first rank", "runner", "scancel", "node")


def check(root: Path, slurm: Cluster, kills: Sequence[str] = KILLS) -> None:
    """A study of worlds over both nodes, then one whose processes are killed in each of `kills`."""
    root.mkdir()
    sweep = Sweep(Place(root))
    sweep.place.make(STUDY % TOKENS)
    print(sweep.run("--on", "slurm", "--slurm", ONE_A_NODE, "--wait"), end="", flush=True)
    local = root / "local"
    sweep.run(out=local)
    _compare(sweep.place.out, local)
    print(f"{CELLS} cells of two ranks, one a node: as on this machine", flush=True)
    _check_larger(sweep)
    for what in kills:
        _kill(Sweep(Place(root / what.replace(" ", "-"))), slurm, what)


def _compare(out: Path, local: Path) -> None:
    """The same cells and scores; but no figure may put them together."""
    a, b = (pd.read_parquet(folder / "records") for folder in (out, local))
    assert set(a["cell_id"]) == set(b["cell_id"])
    assert a["cell_id"].nunique() == CELLS
    assert not (a["metric"] == "outcome").any(), set(a["reason"].dropna())
    for env in a["environment_json"].dropna().map(json.loads):
        assert env["world"] == {"ranks_by_machine": [1, 1]}
        assert env["job"]["node"] == "n1, n2"
    assert not set(a["fingerprint"]) & set(b["fingerprint"])
    scores = [scores_of(records) for records in (a, b)]
    assert len(scores[0]) == 2
    pd.testing.assert_frame_equal(*scores, rtol=1e-6)


def _check_larger(sweep: Sweep) -> None:
    """A world that the job has no room for is a record, with both numbers."""
    larger = Sweep(Place(sweep.place.root / "larger"))
    larger.place.root.mkdir()
    larger.place.make(LARGER % TOKENS)
    larger.run("--on", "slurm", "--slurm", ONE_A_NODE, "--wait")
    records = read_records(larger.place.out)
    found = records[records["workload"] == "train"]
    assert set(found["status"]) == {"unsupported"}
    (reason,) = set(found["reason"])
    assert reason.startswith("parallel asks for 8 ranks, 8 x 1, each on one of the cores of this")
    assert "2 nodes, of which there are 2, 1 a node" in reason
    print(reason, flush=True)


def _kill(sweep: Sweep, slurm: Cluster, what: str) -> None:
    """Kill one process, or the job, amid a training over both nodes: nobody is left."""
    sweep.place.root.mkdir()
    sweep.place.make(STUDY % MANY_TOKENS)
    sweep.run("--on", "slurm", "--slurm", ONE_A_NODE, "--jobs", "1")
    until(lambda: len(_ranks(slurm)) == 1 and _trains(sweep), "a world at work")
    time.sleep(2)
    there = [process for name in cluster.NODES for process in slurm.on_node(name)]
    (job,) = {p.environ()["SLURM_JOB_ID"] for p in _ranks(slurm)}
    if what == "rank":
        _ranks(slurm)[0].kill()
    elif what == "first rank":
        _first_rank(slurm).kill()
    elif what == "runner":
        _first_rank(slurm).parent().parent().kill()
    elif what == "node":
        slurm.kill_node("n2")
        slurm.wait_for("down*", ("n2",))
        slurm.start_node("n2")
    else:
        subprocess.run(["scancel", job], check=True, timeout=60)
    if what.endswith("rank"):
        until(lambda: _outcomes(sweep), "a record")
        (reason,) = _outcomes(sweep)
        number = 0 if what.startswith("first") else 1
        assert reason == f"rank {number}: killed by signal 9 from outside", reason
    subprocess.run(["scancel", "--user", "root"], check=False, timeout=60)
    left = left_of(there, GONE_S)
    assert not left, f"{what}: processes live on: {left}"
    sweep.wait(states.ACTIVE)
    print(f"{what:>10} killed: nobody is left on either node", flush=True)


def _ranks(slurm: Cluster) -> list[psutil.Process]:
    """Those on the second node: children of its server."""
    there = slurm.on_node("n2")
    servers = [p for p in there if _is_server(p) and not _is_server(p.parent())]
    return [child for server in servers for child in server.children()]


def _is_server(process: psutil.Process | None) -> bool:
    return process is not None and "retnet_bench.run.node" in process.cmdline()[:3]


def _first_rank(slurm: Cluster) -> psutil.Process:
    """On the first node: the child of the fork server that is pinned to a core and works."""
    found = [p for p in slurm.on_node("n1") if "forkserver" in " ".join(p.cmdline())]
    return next(p for p in found if p.parent() in found)


def _trains(sweep: Sweep) -> bool:
    return any((sweep.place.out / "checkpoints").glob("*/step-*"))


def _outcomes(sweep: Sweep) -> list[str]:
    if not sweep.place.parts():
        return []
    records = read_records(sweep.place.out)
    return [*records.loc[records["metric"] == "outcome", "reason"]]
