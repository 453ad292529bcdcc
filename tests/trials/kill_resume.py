"""End a running study at random moments, again and again, each time followed at once by the same
command: nothing may be lost, nothing measured twice, nothing left over.

    python tests/trials/kill_resume.py [--times 40] [--seed 0]

Most ends are a kill -9 of the runner alone, the others SIGTERM, SIGHUP and SIGINT. After each one
every part must be readable, every cell finished before must still be there unchanged, and within a
second no process of that run may live. At the end the study is complete, each cell once, and what
the killed runs left in the folder, the cache and TMPDIR is gone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
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
    axes: {length: [16, 24, 32, 40, 48, 56]}
  - workload: perplexity
    axes: {seed: [0, 1, 2]}
    fixed: {length: 32, token_budget: 2048, documents: 1, checkpoint_every: 2}
protocol: {blocks: 2, block_s: 0.05, warmup_max_s: 0.2}
"""
CELLS = 18
SIGNALS = [signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
MARK = "KILL_RESUME_RUN"
"""Environment variable by which all processes of a run are found, whoever their parent is."""
GONE_S = 1.0
WORK_S = 8.0
"""A run is ended within so long after the time at which the first one had its first part."""
HALF_MADE = re.compile(r"\..*\.tmp|\..*\.old|retnet-bench-.*|pymp-.*")


@dataclass(frozen=True)
class Place:
    """Everything the runs may write to."""

    root: Path

    @property
    def study(self) -> Path:
        return self.root / "kill.yaml"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def make(self, study: str = STUDY) -> None:
        self.study.write_text(study)
        for name in ("tmp", "cache"):
            (self.root / name).mkdir()

    def parts(self) -> dict[str, str]:
        """Hash of each finished part."""
        found = (self.out / "records").glob("*.parquet")
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    def half_made(self) -> list[Path]:
        """Temporary files and folders, of whomever."""
        return [path for path in self.root.rglob("*") if HALF_MADE.fullmatch(path.name)]


def start(place: Place, mark: str, *options: str) -> subprocess.Popen[str]:
    """The study in a session of its own, with temporary folder and cache of the test's."""
    command = [sys.executable, "-m", "retnet_bench", "run", str(place.study), *options]
    own = {"TMPDIR": str(place.root / "tmp"), "RETNET_BENCH_CACHE": str(place.root / "cache")}
    return subprocess.Popen(
        [*command, "--out", str(place.out), "--no-plot"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | own | {MARK: mark},
        start_new_session=True,
    )


def living(mark: str) -> list[int]:
    """Processes of the run with this mark; zombies are not alive."""
    return [p.pid for p in psutil.process_iter() if _belongs(p, mark)]


def _belongs(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def orphans(mark: str) -> list[int]:
    """Processes that still live GONE_S after their runner was ended."""
    deadline = time.monotonic() + GONE_S
    while (left := living(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def left_of(processes: list[psutil.Process], limit_s: float) -> list[str]:
    """What still lives of these processes after so long."""
    _, alive = psutil.wait_procs(processes, timeout=limit_s)
    return [_described(p) for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _described(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return f"{process.pid} {process.status()} {' '.join(process.cmdline())[:80]}"
    return f"{process.pid}"


def end(run: subprocess.Popen[str], number: signal.Signals, after_s: float) -> str:
    """Let the run work for `after_s`, then send it `number`. How it ended: `done` if by itself."""
    try:
        code = run.wait(after_s)
    except subprocess.TimeoutExpired:
        os.kill(run.pid, number)
        code = run.wait(60)
    said = run.stderr.read() if run.stderr else ""
    if code == 0:
        return "done"
    # Before a run has its handlers, at Python's start, the system's own do what they always do.
    assert code in (-number, 128 + number), f"exit code {code}: {said}"
    if code > 0:
        assert said == "interrupted: finished cells are kept, the same command resumes\n"
    return number.name


def main(times: int, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="kill-") as name:
        place = Place(Path(name))
        place.make()
        _kill_often(place, times, random.Random(seed))


def first_part_s(place: Place, run: subprocess.Popen[str]) -> float:
    """How long this machine takes today until a cell is finished, importing torch above all."""
    begun = time.monotonic()
    while not place.parts():
        assert run.poll() is None
        time.sleep(0.1)
    return time.monotonic() - begun


def _kill_often(place: Place, times: int, rng: random.Random) -> None:
    kept: dict[str, str] = {}
    run = start(place, "0")
    latest_s = first_part_s(place, run) + WORK_S
    print(f"{'kill':>4} {'after, s':>9} {'by':>8} {'parts kept':>10} {'orphans':>8}")
    for i in range(times):
        after_s = rng.uniform(0.2, latest_s)
        how = end(run, rng.choice(SIGNALS), after_s)
        run = start(place, str(i + 1))
        left = orphans(str(i))
        found = place.parts()
        print(f"{i + 1:4} {after_s:9.2f} {how:>8} {len(found):10} {len(left):8}", flush=True)
        assert not left, f"processes {left} live on"
        assert kept.items() <= found.items(), "a finished part was lost or changed"
        if found:
            read_records(place.out)  # raises if a part can't be read
        kept = found
        if how == "done":  # the kills go on with a new start
            assert run.wait(300) == 0
            _complete(place)
            (place.out / "records").rename(place.out / f"records.{i}.bak")
            kept, run = {}, start(place, str(i + 1))
    assert run.wait(900) == 0
    _complete(place)
    print(f"{times} kills; then complete: {CELLS} cells, each from one run; unreadable parts 0")


def _complete(place: Place) -> None:
    """Each cell once, and nothing that is not part of the results."""
    records = pd.read_parquet(place.out / "records")
    assert set(Store(place.out).finished()) == set(records["cell_id"])
    assert records["cell_id"].nunique() == CELLS
    assert (records.groupby("cell_id")["run_id"].nunique() == 1).all()
    assert not (records["metric"] == "outcome").any(), "a kill became a cell's outcome"
    assert not place.half_made(), f"left over: {place.half_made()}"


def arguments(about: str, times: int) -> argparse.Namespace:
    """`times` and `seed` from the command line of a trial that kills."""
    parser = argparse.ArgumentParser(description=about.split("\n\n")[0])
    parser.add_argument("--times", type=int, default=times)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main(**vars(arguments(__doc__, times=40)))
