"""The runner: workers started, arms interleaved, every finished cell stored at once."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retnet_bench import files
from retnet_bench.analysis.statistics.resampling import Block
from retnet_bench.base import UserError
from retnet_bench.measure import environment
from retnet_bench.measure.memory import available_bytes
from retnet_bench.measure.protocol import palindromic
from retnet_bench.measure.reading import untold
from retnet_bench.measure.telemetry import Telemetry
from retnet_bench.models.forms import Agreement
from retnet_bench.predict import targets
from retnet_bench.results.store import Store
from retnet_bench.run import stopping, wire
from retnet_bench.run.launchers.base import Launcher
from retnet_bench.run.launchers.local import LocalLauncher
from retnet_bench.run.records import Row, Rows
from retnet_bench.run.stopping import Rule
from retnet_bench.run.wire import Failure, Prepared, Samples
from retnet_bench.run.worker_handle import WorkerHandle
from retnet_bench.study.plan import Pair, Planned
from retnet_bench.workloads import WORKLOADS, Sample

CHECKPOINTS = "checkpoints"
"""Folder beside the records; one folder in it for each training cell."""
MEMORY_SHARE = 0.9
"""Share of the free memory that the workers of a pair may take together."""


@dataclass(frozen=True)
class Finished:
    """A cell's outcome, for the progress line."""

    planned: Planned
    status: str
    reason: str | None
    seconds: float
    rows: list[Row]


@dataclass
class Track:
    """One cell on its way through its processes, interleaved with other tracks."""

    planned: Planned
    label: str
    """What tells it from the others: the arm, or the revision."""
    launcher: Launcher
    rows: list[Row] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    """Process and value in seconds of each block so far, for the stopping rule."""
    failure: Failure | None = None
    tail: str | None = None
    seconds: float = 0.0
    told: set[tuple[str, str]] = field(default_factory=set)
    """Metrics that this machine can't take, and why: one row says it."""
    worker: WorkerHandle = field(init=False)
    made: Rows = field(init=False)

    def fail(self, failure: Failure) -> None:
        """Keep why it failed, as the cell's outcome. UserError when the disk is to blame, which
        would fail the next cell, too."""
        if failure.status == wire.UNWRITTEN:
            raise UserError(f"{self.planned.cell.name}: {failure.reason}")
        self.failure, self.tail = failure, self.worker.tail()
        self.worker.stop()


@dataclass
class Runner:
    """Measures interleaved tracks. `run` stores a pair's records, one part for each."""

    study: str
    run_id: str
    store: Store
    home: str = "cpu"
    """Device that stands for this machine in the records of cells that can't be run on it."""
    on_turn: Callable[[str], None] = lambda text: None
    """Called with a few words before each piece of work, for a live progress line."""
    study_text: str = ""
    """The study's YAML, kept in the environment of every record."""
    tensorboard: bool = False
    """Whether trainings write TensorBoard's events, beside the records."""
    _targets: dict[str, targets.Target] = field(default_factory=dict)
    _agreements: dict[tuple[str, str], list[Agreement]] = field(default_factory=dict)

    def run(self, pair: Pair) -> Iterator[Finished]:
        """Measure one pair and store it. Interleaved arms are stored together, in one part: half a
        pair would be no pair. Others are stored one by one, as they end."""
        interleaved = WORKLOADS[pair[0].cell.workload].interleaved
        for group in [pair] if interleaved else [[planned] for planned in pair]:
            tracks = [Track(planned, planned.cell.arm, LocalLauncher()) for planned in group]
            self.measure(tracks, stopping.by_protocol(group[0].protocol))
            finished = [self.finish(track) for track in tracks]
            first = group[0].cell
            name = first.pair_id if interleaved else first.cell_id
            self.store.append([row for cell in finished for row in cell.rows], name)
            yield from finished

    def measure(self, tracks: Sequence[Track], rule: Rule) -> None:
        """Run the tracks' processes, their blocks in ABBA order, until `rule` says stop."""
        for track in tracks:
            if track.planned.unsupported:
                track.failure = Failure("unsupported", track.planned.unsupported)
        able = {track.label: track for track in tracks if track.failure is None}
        processes = tracks[0].planned.processes
        if tracks[0].planned.protocol.interleave == "blocks":
            for process in range(processes):
                self.replicate(list(able.values()), process, rule)
        else:
            for turn, label in enumerate(palindromic(list(able), processes)):
                self.replicate([able[label]], turn // len(able), rule)

    def replicate(self, tracks: Sequence[Track], process: int, rule: Rule) -> None:
        """One process for each track, their blocks interleaved; after the first ones' memory and
        facts one by one, which further processes would only repeat."""
        tracks = [track for track in tracks if track.failure is None]
        with (
            files.scratch() as folder,
            _workers(tracks, folder, process),
        ):
            share = int(available_bytes() * MEMORY_SHARE / max(1, len(tracks)))
            for track in tracks:
                self._prepare(track, process, share)
            measured = tracks[0].planned.cell.measure if tracks else ()
            if "time" in measured:
                self._blocks(tracks, process, rule)
            for track in tracks if process == 0 else ():
                if "memory" in measured:
                    self._ask(track, "memory", process)
                self._ask(track, "facts", process)

    def _prepare(self, track: Track, process: int, share: int) -> None:
        cell = track.planned.cell
        self.on_turn(f"{cell.name}: checking forms, warming up")
        key = (track.label, f"{track.planned.matched.config} {cell.device} {cell.dtype}")
        known = self._agreements.get(key)
        folder = self.store.folder.absolute()
        events = folder / "tensorboard" / f"{cell.arm}-{cell.size}-{cell.cell_id}"
        # Said only where it is asked for: another revision's worker may not know it.
        board: dict[str, Any] = {"tensorboard": str(events)} if self.tensorboard else {}
        answer = track.worker.ask(
            "prepare",
            agreements=None if known is None else [asdict(agreement) for agreement in known],
            memory_bytes=share if cell.device == "cpu" else None,
            checkpoints=str(folder / CHECKPOINTS / cell.cell_id),
            **board,
        )
        if isinstance(answer, Failure):
            track.fail(answer)
            return
        assert isinstance(answer, Prepared)
        self._agreements[key] = answer.agreements
        env = answer.environment | {"study": {"yaml": self.study_text}}
        if cell.device not in self._targets:
            self._targets[cell.device] = targets.target_of_records(cell.device)
        track.made = Rows(
            self.study,
            self.run_id,
            track.planned,
            env,
            answer.kernel_dispatched,
            self._targets[cell.device],
        )
        track.rows += track.made.preparation(answer, process)

    def _blocks(self, tracks: Sequence[Track], process: int, rule: Rule) -> None:
        if not WORKLOADS[tracks[0].planned.cell.workload].interleaved:
            for track in tracks:
                self._ask(track, "block", process, 0, 0)
            return
        order = itertools.count()
        start = time.monotonic()
        for done in itertools.count():
            live = [track for track in tracks if track.failure is None]
            pids = [track.worker.started.process.pid for track in live]
            # A B B A ..., of the next process B A A B ...: an odd number of blocks favours no arm.
            for track in live if (done + process) % 2 == 0 else live[::-1]:
                self.on_turn(f"{track.planned.cell.name}: block {done + 1}")
                uuid = track.made.env["device"].get("uuid")
                with Telemetry(track.planned.cell.device, uuid, pids) as telemetry:
                    self._ask(track, "block", process, done, next(order))
                self._observe(track, telemetry, process, done)
            if all(track.failure for track in tracks):
                return
            blocks = [track.blocks for track in tracks if track.failure is None]
            stop = rule(done + 1, time.monotonic() - start, blocks)
            if stop is not None:
                for track in tracks:
                    if track.failure is None:
                        track.rows += track.made.stop(stop, process)
                return

    def _ask(
        self,
        track: Track,
        name: str,
        process: int,
        block: int | None = None,
        order: int | None = None,
    ) -> None:
        """Have the worker do `name` and keep what it sampled."""
        if track.failure is not None:
            return
        words = track.planned.cell.name
        answer = track.worker.ask(name, on_progress=lambda said: self.on_turn(f"{words}: {said}"))
        if isinstance(answer, Failure):
            track.fail(answer)
            return
        assert isinstance(answer, Samples)
        track.rows += [
            track.made.sample(sample, process, block, order, answer.impure)
            for sample in answer.samples
        ]
        value = stopping.block_value(answer.samples) if name == "block" else None
        if value is not None:
            track.blocks.append((process, np.array([value])))

    def _observe(self, track: Track, telemetry: Telemetry, process: int, block: int) -> None:
        """Keep what the machine was like during the block that was just done."""
        if track.failure is not None:
            return
        phase = track.planned.cell.workload
        samples = [Sample.of(one, phase) for one in untold(telemetry.readings(), track.told)]
        track.rows += [track.made.sample(sample, process, block) for sample in samples]
        impure = telemetry.judge()
        if impure is None:
            return
        for row in track.rows:
            if (row["process"], row["block"], row["status"]) == (process, block, "ok"):
                row |= {"status": "impure", "reason": impure}

    def finish(self, track: Track) -> Finished:
        """A cell's rows, or what became of it. A cell that failed half-way keeps no speed, for it
        would be that of a part of its blocks."""
        failure = track.failure
        if failure is None:
            impure = [row["reason"] for row in track.rows if row["status"] == "impure"]
            status, reason = ("impure", impure[0]) if impure else ("ok", None)
            return Finished(track.planned, status, reason, track.seconds, track.rows)
        device = self.home if track.planned.unsupported else track.planned.cell.device
        made = Rows(self.study, self.run_id, track.planned, environment.capture(device))
        row = made.outcome(failure.status, failure.reason, track.tail)
        return Finished(track.planned, failure.status, failure.reason, track.seconds, [row])


@contextmanager
def _workers(tracks: Sequence[Track], folder: Path, process: int) -> Iterator[None]:
    """A started worker for each track; all are stopped at the end, come what may."""
    started: list[Track] = []
    try:
        for track in tracks:
            output = folder / f"{track.planned.cell.cell_id}-{len(started)}-{process}.log"
            track.worker = WorkerHandle(track.planned, track.launcher, output)
            started.append(track)
        yield
    except BaseException:  # an interrupt must not wait for what a worker is doing
        for track in started:
            track.worker.kill()
        raise
    finally:
        for track in started:
            track.seconds += track.worker.spent_s
            track.worker.stop()


def environment_variables() -> None:
    """Set what workers inherit, before the server starts: quiet libraries, no surprises."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # GNU OpenMP's threads wait for each other by spinning 300,000 turns. Where someone else wants
    # the core, a step then takes many times as long; with 30,000 it mostly takes less, and on quiet
    # cores nothing is lost (with 10,000 a decode step takes a fifth longer, for threads fall asleep
    # between two operators). Equal for all arms, and recorded with the environment.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
