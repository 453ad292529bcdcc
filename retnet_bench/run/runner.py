"""The runner: workers started, arms interleaved, every finished cell stored at once."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from retnet_bench import files
from retnet_bench.analysis.statistics.resampling import TimedBlock
from retnet_bench.base import UserError, printable
from retnet_bench.measure import environment
from retnet_bench.measure.memory import available_bytes
from retnet_bench.measure.protocol import palindromic
from retnet_bench.measure.reading import unreported
from retnet_bench.measure.telemetry import Telemetry
from retnet_bench.models import agreement
from retnet_bench.models.agreement import Agreement
from retnet_bench.predict import targets
from retnet_bench.results.store import Store
from retnet_bench.run import choosing, stopping, texts, wire
from retnet_bench.run.choosing import Choice
from retnet_bench.run.launchers.base import Launcher
from retnet_bench.run.launchers.local import LocalLauncher
from retnet_bench.run.records import Row, Rows
from retnet_bench.run.stopping import Rule
from retnet_bench.run.texts import CHECKPOINTS
from retnet_bench.run.wire import Failure, Prepared, Samples, Trial
from retnet_bench.run.worker_handle import WorkerHandle
from retnet_bench.run.world_handle import WorldHandle
from retnet_bench.run.world_handle import started as start_processes
from retnet_bench.study.plan import Pair, Planned
from retnet_bench.workloads import WORKLOADS, Sample, world

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
class CellRun:
    """One cell on its way through its processes, interleaved with others."""

    planned: Planned
    label: str
    """What tells it from the others: the arm, or the revision."""
    launcher: Launcher
    rows: list[Row] = field(default_factory=list)
    blocks: list[TimedBlock] = field(default_factory=list)
    """Process and value in seconds of each block so far, for the stopping rule."""
    failure: Failure | None = None
    tail: str | None = None
    seconds: float = 0.0
    choice: Choice | None = None
    """What was chosen for a cell that leaves its kernel or chunk open."""
    reported: set[tuple[str, str]] = field(default_factory=set)
    """Metrics that this machine can't take, and why: one row says it."""
    texts: dict[str, str] = field(default_factory=dict)
    """Checksums of what its process read."""
    worker: WorkerHandle | WorldHandle = field(init=False)
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
    """Measures interleaved cells. `run` stores a pair's records, one part for each."""

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
    beside: int = 1
    """How many runners work on this machine at once: its memory is for all of them."""
    job: dict[str, str] = field(default_factory=dict)
    """Which job of a scheduler this is, on which of its nodes; kept in every record."""
    _texts: dict[str, str] = field(default_factory=dict)
    """What was read so far, by its words: nothing may change it before the run ends."""
    _targets: dict[str, targets.Target] = field(default_factory=dict)
    _agreements: dict[tuple[str, str], list[Agreement]] = field(default_factory=dict)

    def run(self, pair: Pair) -> Iterator[Finished]:
        """Measure one pair and store it. Interleaved arms are stored together, in one part: half a
        pair would be no pair. Others are stored one by one, as they end."""
        interleaved = WORKLOADS[pair[0].cell.workload].interleaved
        for group in [pair] if interleaved else [[planned] for planned in pair]:
            cell_runs = [CellRun(planned, planned.cell.arm, LocalLauncher()) for planned in group]
            self.measure(cell_runs, stopping.by_protocol(group[0].protocol))
            finished = [self.finish(cell_run) for cell_run in cell_runs]
            first = group[0].cell
            name = first.pair_id if interleaved else first.cell_id
            self.store.append([row for cell in finished for row in cell.rows], name)
            yield from finished

    def measure(self, cell_runs: Sequence[CellRun], rule: Rule) -> None:
        """Run the cells' processes, their blocks in ABBA order, until `rule` says stop."""
        for cell_run in cell_runs:
            if cell_run.planned.unsupported:
                cell_run.failure = Failure("unsupported", cell_run.planned.unsupported)
            else:
                self.choose(cell_run)
        able = {cell_run.label: cell_run for cell_run in cell_runs if cell_run.failure is None}
        processes = cell_runs[0].planned.processes
        if cell_runs[0].planned.protocol.interleave == "blocks":
            for process in range(processes):
                self.replicate(list(able.values()), process, rule)
        else:
            for turn, label in enumerate(palindromic(list(able), processes)):
                self.replicate([able[label]], turn // len(able), rule)

    def choose(self, cell_run: CellRun) -> None:
        """Have a cell that leaves its kernel or chunk open take the fastest."""
        planned = cell_run.planned
        if not planned.cell.is_open:
            return
        name = planned.cell.name
        try:
            cell_run.choice = choosing.choose(
                planned, self._trial, lambda words: self.on_turn(f"{name}: {words}")
            )
        except choosing.NoneTimed as error:
            cell_run.failure = Failure("error", str(error))
        else:
            cell_run.planned = replace(planned, taken=cell_run.choice.taken)

    def _trial(self, planned: Planned) -> Trial | Failure:
        """Times of a candidate, from a worker process of its own."""
        cell_run = CellRun(planned, planned.cell.arm, LocalLauncher())
        with files.scratch() as folder, _workers([cell_run], folder, 0):
            key, known = self._known(cell_run)
            share = int(available_bytes() * MEMORY_SHARE / self.beside)
            memory_bytes = share if planned.cell.device == "cpu" else None
            answer = cell_run.worker.ask("trial", agreements=known, memory_bytes=memory_bytes)
            if isinstance(answer, Failure):
                cell_run.fail(answer)
                return answer
        assert isinstance(answer, Trial)
        self._agreements[key] = answer.agreements
        return answer

    def _known(self, cell_run: CellRun) -> tuple[tuple[str, str], list[dict[str, Any]] | None]:
        """The key of what was found of a model's forms, and that, as a worker takes it."""
        cell, planned = cell_run.planned.cell, cell_run.planned
        subject = agreement.subject(planned.matched.config)
        key = (cell_run.label, f"{subject} {cell.device} {cell.dtype}")
        known = self._agreements.get(key)
        return key, None if known is None else [asdict(found) for found in known]

    def replicate(self, cell_runs: Sequence[CellRun], process: int, rule: Rule) -> None:
        """One process for each cell, their blocks interleaved; after the first ones' memory and
        facts one by one, which further processes would only repeat."""
        cell_runs = [cell_run for cell_run in cell_runs if cell_run.failure is None]
        with (
            files.scratch() as folder,
            _workers(cell_runs, folder, process),
        ):
            share = int(available_bytes() * MEMORY_SHARE / max(1, len(cell_runs)) / self.beside)
            for cell_run in cell_runs:
                self._prepare(cell_run, process, share)
            measured = cell_runs[0].planned.cell.measure if cell_runs else ()
            if "time" in measured:
                self._blocks(cell_runs, process, rule)
            for cell_run in cell_runs if process == 0 else ():
                if "memory" in measured:
                    self._ask(cell_run, "memory", process)
                self._ask(cell_run, "facts", process)

    def _prepare(self, cell_run: CellRun, process: int, share: int) -> None:
        cell = cell_run.planned.cell
        self.on_turn(f"{cell.name}: checking forms, warming up")
        key, known = self._known(cell_run)
        folder = self.store.folder.absolute()
        events = folder / "tensorboard" / f"{cell.arm}-{cell.size}-{cell.cell_id}"
        # Said only where it is asked for: another revision's worker may not know it.
        board: dict[str, Any] = {"tensorboard": str(events)} if self.tensorboard else {}
        answer = cell_run.worker.ask(
            "prepare",
            agreements=known,
            memory_bytes=share if cell.device == "cpu" else None,
            checkpoints=str(folder / CHECKPOINTS / cell.cell_id),
            **board,
        )
        if isinstance(answer, Failure):
            cell_run.fail(answer)
            return
        assert isinstance(answer, Prepared)
        self._agreements[key] = answer.agreements
        self._note_texts(cell_run, answer)
        env = answer.environment | {"study": {"yaml": self.study_text}}
        env |= self._job_section(cell_run.worker.nodes) | world.section(cell)
        if cell.device not in self._targets:
            self._targets[cell.device] = targets.target_of_records(cell.device)
        cell_run.made = Rows(
            self.study,
            self.run_id,
            cell_run.planned,
            env,
            answer.kernel_dispatched,
            self._targets[cell.device],
            answer.texts,
        )
        cell_run.rows += cell_run.made.preparation(answer, process)
        for sample in cell_run.choice.samples() if cell_run.choice and process == 0 else ():
            cell_run.rows.append(cell_run.made.sample(sample, process))

    def _note_texts(self, cell_run: CellRun, answer: Prepared) -> None:
        """UserError where the cell read another text than one before it, under one name."""
        cell_run.texts = answer.texts
        words = texts.of_cell(cell_run.planned.cell)
        for name, checksum in answer.texts.items():
            of = words[f"{name}_checksum"]
            if (before := self._texts.setdefault(of, checksum)) != checksum:
                raise UserError(texts.changed(self.store.folder, of, before, checksum))

    def _blocks(self, cell_runs: Sequence[CellRun], process: int, rule: Rule) -> None:
        if not WORKLOADS[cell_runs[0].planned.cell.workload].interleaved:
            for cell_run in cell_runs:
                self._ask(cell_run, "block", process, 0, 0)
            return
        order = itertools.count()
        start = time.monotonic()
        for done in itertools.count():
            able = [cell_run for cell_run in cell_runs if cell_run.failure is None]
            pids = [pid for cell_run in able for pid in cell_run.worker.pids]
            # A B B A ..., of the next process B A A B ...: an odd number of blocks favours no arm.
            for cell_run in able if (done + process) % 2 == 0 else able[::-1]:
                self._timed_block(cell_run, process, done, next(order), pids)
            able = [cell_run for cell_run in able if cell_run.failure is None]
            if not able:
                return
            blocks = [cell_run.blocks for cell_run in able]
            stop = rule(done + 1, time.monotonic() - start, blocks)
            if stop is not None:
                for cell_run in able:
                    cell_run.rows += cell_run.made.stop(stop, process)
                return

    def _timed_block(
        self, cell_run: CellRun, process: int, block: int, order: int, pids: Sequence[int]
    ) -> None:
        """One block, judged once by all that is known of it: what the worker counted in its window
        and what the GPU reported."""
        cell, made = cell_run.planned.cell, cell_run.made
        self.on_turn(f"{cell.name}: block {block + 1}")
        uuid = made.env["device"].get("uuid")
        machines = 1 + len(cell_run.worker.nodes)
        with Telemetry(cell.device, uuid, pids, gpus=cell.ranks, machines=machines) as telemetry:
            found = self._answer(cell_run, "block")
        if found is None:
            return
        impure = "; ".join(filter(None, [found.impure, telemetry.judge()])) or None
        series = unreported(telemetry.readings(), cell_run.reported)
        observed = [Sample.of(one, cell.workload) for one in series]
        cell_run.rows += [made.sample(s, process, block, order, impure) for s in found.samples]
        cell_run.rows += [made.sample(s, process, block, impure=impure) for s in observed]
        value = stopping.block_value(found.samples)
        if value is not None:
            cell_run.blocks.append(TimedBlock(process, np.array([value])))

    def _ask(
        self,
        cell_run: CellRun,
        name: str,
        process: int,
        block: int | None = None,
        order: int | None = None,
    ) -> None:
        """Have the worker do `name`, of which nothing is judged, and keep what it sampled."""
        found = self._answer(cell_run, name)
        for sample in found.samples if found else ():
            cell_run.rows.append(cell_run.made.sample(sample, process, block, order))

    def _answer(self, cell_run: CellRun, name: str) -> Samples | None:
        """What the worker sampled for `name`; None where it, or something before it, failed."""
        if cell_run.failure is not None:
            return None
        words = cell_run.planned.cell.name
        answer = cell_run.worker.ask(
            name, on_progress=lambda message: self.on_turn(f"{words}: {message}")
        )
        if isinstance(answer, Failure):
            cell_run.fail(answer)
            return None
        assert isinstance(answer, Samples)
        return answer

    def finish(self, cell_run: CellRun) -> Finished:
        """A cell's rows, or what became of it. A cell that failed half-way keeps no speed, for it
        would be that of a part of its blocks."""
        failure = cell_run.failure
        if failure is None:
            impure = [row["reason"] for row in cell_run.rows if row["status"] == "impure"]
            status, reason = ("impure", impure[0]) if impure else ("ok", None)
            return Finished(cell_run.planned, status, reason, cell_run.seconds, cell_run.rows)
        device = self.home if cell_run.planned.unsupported else cell_run.planned.cell.device
        env = environment.capture(device) | self._job_section()
        made = Rows(self.study, self.run_id, cell_run.planned, env, texts=cell_run.texts)
        row = made.outcome(failure.status, failure.reason, cell_run.tail)
        return Finished(cell_run.planned, failure.status, failure.reason, cell_run.seconds, [row])

    def _job_section(self, further: Sequence[str] = ()) -> dict[str, Any]:
        """`further`: the job's other nodes that worked on the cell."""
        if not self.job:
            return {}
        return {"job": self.job | {"node": ", ".join([self.job["node"], *further])}}


@contextmanager
def _workers(cell_runs: Sequence[CellRun], folder: Path, process: int) -> Iterator[None]:
    """A started worker for each cell; all are stopped at the end, come what may."""
    started: list[CellRun] = []
    try:
        for cell_run in cell_runs:
            output = folder / f"{cell_run.planned.cell.cell_id}-{len(started)}-{process}.log"
            cell_run.worker = start_processes(cell_run.planned, cell_run.launcher, output)
            started.append(cell_run)
        yield
    except BaseException:  # an interrupt must not wait for what a worker is doing
        for cell_run in started:
            cell_run.worker.kill()
        raise
    finally:
        for cell_run in started:
            cell_run.seconds += cell_run.worker.spent_s
            cell_run.worker.stop()


def environment_variables() -> None:
    """Set what workers inherit, before the server starts: quiet libraries, no surprises. UserError
    for one of several processes that torchrun, or a launcher like it, has started."""
    if launched := _launched():
        raise UserError(
            f"{launched} in the environment: torchrun or the like started this process, but "
            "retnet-bench starts the ranks of a cell itself: run it once, without torchrun "
            "(unset them), on several machines by --on slurm --slurm nodes=N"
        )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # GNU OpenMP's threads wait for each other by spinning 300,000 turns. Where someone else wants
    # the core, a step then takes many times as long; with 30,000 it mostly takes less, and on quiet
    # cores nothing is lost (with 10,000 a decode step takes a fifth longer, for threads fall asleep
    # between two operators). Equal for all arms, and recorded with the environment.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")


def _launched() -> str:
    """What a launcher of ranks has left in the environment, in words; empty without any, and in a
    world of one process."""
    names = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE")
    said = {name: os.environ[name] for name in names if os.environ.get(name)}
    if said == {"RANK": "0", "WORLD_SIZE": "1"}:
        return ""
    words = " and ".join(f"{name}={printable(value)}" for name, value in said.items())
    return f"{words} {'is' if len(said) == 1 else 'are'}" if said else ""
