"""A study on a real Slurm of two nodes, a job and a node killed in the middle: resumed, it has the
cells and the scores of a local run, each once. Then jobs and nodes are killed at random.

    python tests/trials/slurm.py [--times 20] [--seed 0] [--only-kills] [--brief] [--if-there]

After each kill every part that was finished must be there unchanged and readable, and no process of
the killed job may live. At the end the study is complete, each cell from one run, and nothing that
is half-made is left.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
from fakes import cluster
from fakes.cluster import Cluster
from trials import slurm_worlds
from trials.kill_resume import Place, left_of
from trials.sweep import GONE_S, WORKS_S, Sweep, scores_of, until

from retnet_bench.results.store import read_records
from retnet_bench.run.jobs import states

STUDY = """
name: sweep
question: Does a cluster measure what this machine does?
arms:
  retnet: {mixer: retention}
  transformer: {mixer: attention}
fixed: {size: 0.1M, threads: 1, measure: [time]}
workloads:
  - workload: perplexity
    axes: {seed: [0, 1, 2, 3]}
    fixed: {length: 32, token_budget: 4096, documents: 1, checkpoint_every: 8}
  - workload: train
    axes: {length: [16, 24]}
protocol: {blocks: 2, block_s: 0.05, warmup_max_s: 0.2}
"""
CELLS = 12


def main(times: int, seed: int, only_kills: bool, brief: bool, if_there: bool) -> None:
    if why := cluster.missing():
        words = f"no Slurm to try this on: {why}"
        if not if_there:
            sys.exit(words)
        print(words)
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="slurm-") as name:
        sweep = Sweep(Place(Path(name)))
        sweep.place.make(STUDY)
        with cluster.running(Path(name) / "slurm") as slurm:
            if not only_kills:
                _kill_in_the_middle(sweep, slurm)
                local = sweep.place.root / "local"
                sweep.run("--on", "local", "--jobs", "2", out=local)
                _compare(sweep.place.out, local)
                print(f"{CELLS} cells, as on this machine: none twice, none lost", flush=True)
                _set_aside(sweep, "first")
                kills = slurm_worlds.KILLS[-1:] if brief else slurm_worlds.KILLS
                slurm_worlds.check(Path(name) / "worlds", slurm, kills)
            if times and not brief:
                _kill_often(sweep, slurm, times, random.Random(seed))
        assert not _processes(slurm), "processes outlive the cluster"


def _kill_in_the_middle(sweep: Sweep, slurm: Cluster) -> None:
    """One job and one node, while jobs of both nodes are at work; then the same command again."""
    print(sweep.submit(), end="")
    until(lambda: all(slurm.on_node(name) for name in cluster.NODES), "both nodes at work")
    time.sleep(3)
    kept = sweep.place.parts()
    _kill(slurm.on_node("n1"))
    slurm.kill_node("n2")
    print(sweep.status(), end="", flush=True)
    slurm.wait_for("down*", ("n2",))
    slurm.start_node("n2")
    sweep.wait(states.ACTIVE)
    assert kept.items() <= sweep.place.parts().items(), "a finished part was lost or changed"
    print(sweep.submit("--wait"), end="")
    print(sweep.status(), end="", flush=True)


def _kill_often(sweep: Sweep, slurm: Cluster, times: int, rng: random.Random) -> None:
    kept: dict[str, str] = {}
    print(f"{'kill':>4} {'what':>8} {'parts kept':>10} {'left over':>9}")
    done = 0
    while done < times:
        if not (sweep.place.out.exists() and _left(sweep)):
            sweep.submit()
        until(lambda: slurm.on_node("n1") or slurm.on_node("n2") or not _left(sweep), "work")
        time.sleep(rng.uniform(0, 6))
        busy = [name for name in cluster.NODES if slurm.on_node(name)]
        if busy:
            node, what = rng.choice(busy), rng.choice(["job", "job", "scancel", "requeue", "node"])
            left = _strike(slurm, node, what)
            done += 1
            found = sweep.place.parts()
            print(f"{done:4} {what:>8} {len(found):10} {len(left):9}", flush=True)
            assert not left, f"processes live on: {left}"
            assert kept.items() <= found.items(), "a finished part was lost or changed"
            if found:
                read_records(sweep.place.out)  # raises if a part can't be read
            kept = found
        if not _left(sweep):
            sweep.wait(states.ACTIVE)
            if len(_cells(sweep.place.out)) == CELLS:
                _check_complete(sweep)
                _set_aside(sweep, str(done))
                kept = {}
    sweep.wait(states.ACTIVE, 2 * WORKS_S)
    sweep.submit("--wait")
    _check_complete(sweep)
    print(f"{times} kills; then complete: {CELLS} cells, each from one run")


def _strike(slurm: Cluster, node: str, what: str) -> list[str]:
    """End one job on a node in one of four ways. Returns what still lives of it after GONE_S, and
    then what Slurm was told and says."""
    there = slurm.on_node(node)
    ids = {_environment(process).get("SLURM_JOB_ID") for process in there} - {None}
    chosen = sorted(filter(None, ids))[:1]
    own = [p for p in there if _environment(p).get("SLURM_JOB_ID") in chosen]
    asked = what
    if what == "job":
        _kill(own[:1])
    elif what == "node":
        own = there
        slurm.kill_node(node)
        slurm.wait_for("down*", (node,))
        slurm.start_node(node)
    else:
        command = ["scancel", *chosen] if what == "scancel" else ["scontrol", what, *chosen]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        asked = f"{' '.join(command)}: {done.returncode} {done.stderr.strip()}"
    left = left_of(own, GONE_S)
    return [*left, asked, *map(slurm.job, chosen)] if left else []


def _environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error, OSError):
        return process.environ()
    return {}


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _processes(slurm: Cluster) -> list[psutil.Process]:
    return [process for name in cluster.NODES for process in slurm.on_node(name)]


def _left(sweep: Sweep) -> list[states.State]:
    return [state for state in sweep.states() if state.state in states.ACTIVE]


def _cells(folder: Path) -> set[str]:
    if not any((folder / "records").glob("*.parquet")):
        return set()
    return set(pd.read_parquet(folder / "records")["cell_id"])


def _set_aside(sweep: Sweep, name: str) -> None:
    sweep.place.out.rename(sweep.place.root / f"out-{name}")


def _check_complete(sweep: Sweep) -> None:
    """Each cell once, from one run, with a value, and nothing half-made beside them."""
    records = pd.read_parquet(sweep.place.out / "records")
    assert records["cell_id"].nunique() == CELLS
    assert (records.groupby("cell_id")["run_id"].nunique() == 1).all()
    assert not (records["metric"] == "outcome").any(), "a kill became a cell's outcome"
    half = [path for path in sweep.place.half_made() if sweep.place.out in path.parents]
    assert not half, f"left over: {half}"


def _compare(out: Path, local: Path) -> None:
    """The same cells, each from one run, and of trainings the same scores to the last bit."""
    a, b = (pd.read_parquet(folder / "records") for folder in (out, local))
    assert set(a["cell_id"]) == set(b["cell_id"])
    assert a["cell_id"].nunique() == CELLS
    for records in (a, b):
        assert (records.groupby("cell_id")["run_id"].nunique() == 1).all()
        assert not (records["metric"] == "outcome").any()
    scores = [scores_of(records) for records in (a, b)]
    assert len(scores[0]) == 8
    pd.testing.assert_frame_equal(*scores, check_exact=True)
    assert a["fingerprint"].nunique() == 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-kills", action="store_true")
    parser.add_argument(
        "--brief", action="store_true", help="a job and a node killed, one kill of a world"
    )
    parser.add_argument("--if-there", action="store_true", help="without a Slurm: no failure")
    main(**vars(parser.parse_args()))
