"""Kill -9 ranks of a running study of worlds at random moments: each ends its own cell, as a record
that names it, and nothing else. Now and then the runner is killed instead.

    python tests/trials/kill_ranks.py [--times 20] [--seed 0]

After each kill the other ranks of that world must be gone; after each run no process of it may
live, every part must be readable and those of before unchanged. The same command with --retry then
takes what the kills cost, until at the end every cell is measured and nothing is left over.
"""

from __future__ import annotations

import os
import random
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
from trials import kill_resume
from trials.kill_resume import Place, left_of, living, orphans

from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import Store, read_records

STUDY = """
name: kill
question: What survives the kill -9 of a rank?
arms:
  retnet: {mixer: retention}
  transformer: {mixer: attention}
fixed: {size: 0.1M, threads: 1, measure: [time]}
workloads:
  - workload: train
    axes: {length: [16, 24]}
    fixed: {batch: 4, parallel: {data: 2, shard: fsdp}}
  - workload: train
    fixed: {length: 32, batch: 4, parallel: {data: 2}}
  - workload: prefill
    axes: {length: [16, 24]}
    fixed: {parallel: {tensor: 2}}
  - workload: perplexity
    axes: {seed: [0, 1]}
    fixed:
      length: 32
      batch: 4
      token_budget: 4096
      documents: 1
      checkpoint_every: 4
      parallel: {tensor: 2}
protocol: {blocks: 2, block_s: 0.05, warmup_max_s: 0.2}
"""
CELLS = 14
OTHERS_S = 10.0
"""What the other ranks of a world that lost one may take to be gone, on a busy machine."""
RUN_S = 900.0
RUNNER_SHARE = 0.1
"""Of the kills: those of the runner instead of a rank."""
WORKER = re.compile(r"(?P<world>.+)-rank(?P<rank>\d+)\.log")
"""Where a rank's output goes, which tells whose it is."""
REASON = re.compile(r"rank \d+: killed by signal 9 from outside")


@dataclass(frozen=True)
class Rank:
    """A process of a world."""

    process: psutil.Process
    world: str


def ranks(mark: str) -> list[Rank]:
    """Those that live now."""
    return [Rank(p, found["world"]) for p in _processes(mark) if (found := _output(p))]


def _processes(mark: str) -> Iterator[psutil.Process]:
    for pid in living(mark):
        with suppress(psutil.Error):
            yield psutil.Process(pid)


def _output(process: psutil.Process) -> re.Match[str] | None:
    try:
        return WORKER.fullmatch(Path(os.readlink(f"/proc/{process.pid}/fd/1")).name)
    except OSError:
        return None


def kill_one(mark: str, rng: random.Random) -> bool:
    """Kill one of the ranks that live, if there are any; then the others of its world must end."""
    found = ranks(mark)
    if not found:
        return False
    chosen = rng.choice(found)
    others = [r.process for r in found if r.world == chosen.world and r != chosen]
    with suppress(psutil.NoSuchProcess):
        chosen.process.send_signal(signal.SIGKILL)
    left = left_of(others, OTHERS_S)
    assert not left, f"ranks {left} of {chosen.world} live on"
    return True


def one_run(place: Place, mark: str, most: int, rng: random.Random) -> int:
    """The command once, with at most so many kills while it runs, of ranks and, last, of the runner
    itself. How many they were."""
    kills, process = 0, kill_resume.start(place, mark, "--retry")
    begun = time.monotonic()
    while process.poll() is None:
        assert time.monotonic() - begun < RUN_S, "the run hangs"
        time.sleep(rng.uniform(0.0, 3.0))
        if kills < most and rng.random() < RUNNER_SHARE:
            process.kill()
            process.wait(60)
            return kills + 1
        if kills < most:
            kills += kill_one(mark, rng)
    said = process.stderr.read() if process.stderr else ""
    assert process.returncode == 0, f"exit code {process.returncode}: {said}"
    return kills


def outcomes(place: Place) -> pd.DataFrame:
    """The rows of cells that failed, and have not been measured since."""
    if not place.parts():
        return pd.DataFrame({"metric": [], "status": [], "reason": [], "run_id": []})
    records = read_records(place.out)
    return records[records["metric"] == "outcome"]


def main(times: int, seed: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="kill-") as name:
        place, rng = Place(Path(name)), random.Random(seed)
        place.make(STUDY)
        _kill_often(place, times, rng)


def _kill_often(place: Place, times: int, rng: random.Random) -> None:
    kept: dict[str, str] = {}
    earlier: set[str] = set()
    """Runs that have failures on record; one whose runner is killed at once leaves those."""
    kills, run = 0, 0
    print(f"{'run':>4} {'kills':>6} {'failed':>7} {'parts':>6} {'processes left':>15}")
    while True:
        mark, run = str(run), run + 1
        taken = one_run(place, mark, times - kills, rng)
        kills += taken
        left, found, failed = orphans(mark), place.parts(), outcomes(place)
        row = f"{run:4} {taken:6} {len(failed):7} {len(found):6} {len(left):15}"
        print(row, flush=True)
        assert not left, f"processes {left} live on"
        assert kept.items() <= found.items(), "a finished part was lost or changed"
        assert set(failed["status"]) <= {"killed"}, set(failed["reason"])
        assert all(REASON.match(reason) for reason in failed["reason"]), set(failed["reason"])
        assert (~failed["run_id"].isin(earlier)).sum() <= taken, "a cell failed that lost no rank"
        earlier |= set(failed["run_id"])
        kept = found
        whole = failed.empty and len(Store(place.out).finished()) == CELLS
        if whole and kills == times:
            break
        if whole:  # the kills go on with a new start
            (place.out / "records").rename(place.out / f"records.{run}.bak")
            kept = {}
    _complete(place)
    print(f"{kills} kills; then complete: {CELLS} cells; unreadable parts 0")


def _complete(place: Place) -> None:
    """Each cell measured, and nothing that is not part of the results."""
    finished = Store(place.out).finished()
    assert len(finished) == CELLS
    assert set(finished.values()) <= set(OK_STATUSES)
    assert not place.half_made(), f"left over: {place.half_made()}"


if __name__ == "__main__":
    main(**vars(kill_resume.arguments(__doc__, times=20)))
