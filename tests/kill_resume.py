"""Kill a running study at random moments, again and again, and see what is lost: nothing may be.

    python tests/kill_resume.py [--times 20] [--seed 0]

After each kill -9 every part must be readable, every cell finished before must still be there
unchanged, and no worker may live on. At the end the study is complete, each cell once.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from retnet_bench.results.store import Store, read_records

STUDY = """
name: kill
question: What survives a kill -9?
arms:
  retnet: {mixer: retention}
  transformer: {mixer: attention}
fixed: {size: 0.1M, threads: 1, measure: [time]}
workloads:
  - workload: train
    axes: {length: [16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104]}
  - workload: perplexity
    axes: {seed: [0, 1, 2]}
    fixed: {length: 32, token_budget: 2048, documents: 1}
protocol: {blocks: 2, block_s: 0.05, warmup_max_s: 0.2}
"""
CELLS = 30


def parts(folder: Path) -> dict[str, str]:
    """Hash of each finished part."""
    found = (folder / "records").glob("*.parquet")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def orphans(started: int) -> int:
    """Processes of the killed run that are still there after ten seconds: a server killed while
    it imports torch finishes the import before it sees that its runner is gone."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = [p for p in psutil.process_iter() if _belongs(p, started)]
        if not left:
            return 0
        time.sleep(0.1)
    return len(left)


def _belongs(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def start(study: Path, out: Path) -> subprocess.Popen[bytes]:
    """The study in a process group of its own, so that what it leaves behind can be found."""
    command = [sys.executable, "-m", "retnet_bench", "run", str(study), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--no-plot"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_once(study: Path, out: Path, after_s: float) -> int:
    """Start, wait, kill -9 the runner alone; how many orphans there were."""
    run = start(study, out)
    try:
        run.wait(after_s)
    except subprocess.TimeoutExpired:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    return orphans(run.pid)


def main(times: int, seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        study, out = Path(name, "kill.yaml"), Path(name, "out")
        study.write_text(STUDY)
        kept: dict[str, str] = {}
        print(f"{'kill':>4} {'after, s':>9} {'parts kept':>10} {'orphans':>8}")
        for i in range(times):
            after_s = rng.uniform(3.0, 12.0)
            left_over = kill_once(study, out, after_s)
            found = parts(out)
            assert kept.items() <= found.items(), "a finished part was lost or changed"
            if found:
                read_records(out)  # raises if a part can't be read
            assert left_over == 0, f"{left_over} processes live on"
            kept = found
            print(f"{i + 1:4} {after_s:9.2f} {len(found):10} {left_over:8}")
            if len(Store(out).finished()) == CELLS:  # all done: start anew, the kills go on
                (out / "records").rename(out / f"records.{i}.bak")
                kept = {}
        assert start(study, out).wait(300) == 0
        records = pd.read_parquet(out / "records")
        assert records["cell_id"].nunique() == CELLS
        assert (records.groupby("cell_id")["run_id"].nunique() == 1).all()
        print(f"{times} kills; then complete: {CELLS} cells, each from one run; unreadable parts 0")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.times, arguments.seed)
