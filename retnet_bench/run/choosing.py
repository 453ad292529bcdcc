"""Which kernel and chunk a cell takes where its study says `auto`: the fastest of those that were
timed on this machine, which is remembered.

Each candidate has a worker process of its own, in which the forms are checked first; one whose
forms disagree, or that fails, is none. They are timed in the order A B C C B A, each for its share
of `choice_s`, and the better of the two times counts: a burst of foreign load makes nothing faster.
The first step of a process, which may compile, is not timed; in modes that compile there is one
turn. A choice is remembered until another study allows more `choice_s`.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from retnet_bench import kernels
from retnet_bench.base import UserError, printable, short_hash
from retnet_bench.data import cache as cache_files
from retnet_bench.kernels import KERNELS
from retnet_bench.measure import environment
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.pattern import LayerChoice
from retnet_bench.results.quantities import TIME
from retnet_bench.results.schema import CANDIDATE
from retnet_bench.run.candidates import Candidate, candidates, places
from retnet_bench.run.wire import Failure, Trial
from retnet_bench.study.plan import Pair, Planned
from retnet_bench.workloads import Cell, Sample

TIE = 0.02
"""Times within this of the best are equal: of these the preferred candidate is taken, so that noise
does not choose."""
CLOSE = 3.0
"""Only candidates within this factor of the best are timed a second time."""
TIMEOUT_S = 120.0
"""What a candidate may take in all, its compilation included."""
PHASE = "choice"
ALONE = "the only candidate, so nothing is timed"


@dataclass(frozen=True)
class Tried:
    """A row of the table of candidates: seconds of its steps, or why it has none."""

    candidate: str
    times: tuple[float, ...] = ()
    reason: str | None = None

    @property
    def step_s(self) -> float:
        return statistics.median(self.times)


@dataclass(frozen=True)
class Choice:
    """What was taken, by which times."""

    taken: tuple[LayerChoice, ...]
    """The cell's `entries` as it runs."""
    labels: tuple[str, ...]
    """Of the candidates that were taken, one for each place."""
    table: tuple[Tried, ...]
    measured_at: str
    choice_s: float
    """The budget that it was made with."""
    remembered: bool = False

    def samples(self) -> Iterator[Sample]:
        """The whole table, a row for each candidate."""
        for row in self.table:
            notes = ["taken"] if row.candidate in self.labels else []
            notes += [f"remembered, timed {self.measured_at}"] if self.remembered else []
            note = "; ".join(notes) or None
            reason = None if row.times else "; ".join(filter(None, [row.reason, note]))
            at = {"candidate": row.candidate}
            yield Sample(CANDIDATE, "s", row.times, PHASE, at, reason=reason, note=note)


class NoneTimed(Exception):
    """No candidate for a cell's kernel could be timed."""


TimeIt = Callable[[Planned], Trial | Failure]
"""Times a cell as a worker does (`Session.trial`)."""


def choose(planned: Planned, time_it: TimeIt, say: Callable[[str], None]) -> Choice:
    """What a cell that leaves something open takes: what is remembered, else the fastest now.

    Raises NoneTimed where no candidate can be timed: one line that names each with its reason.
    """
    before = remembered(planned)
    if before is not None:
        return before
    every = {place: candidates(planned.cell, place) for place in places(planned.cell)}
    timed = sum(c.hopeless is None for found in every.values() for c in found)
    share_s = planned.protocol.choice_s / (2 * max(timed, 1))
    trials = _Trials(planned, time_it, say, share_s)
    taken: dict[LayerChoice, Candidate] = {}
    table: list[Tried] = []
    for place, found in every.items():
        rows = trials.table(found)
        table += rows
        taken[place] = _fastest(found, rows)
    choice = Choice(
        taken=tuple(taken[e].entry if e in taken else e for e in planned.cell.entries),
        labels=tuple(candidate.label for candidate in taken.values()),
        table=tuple(table),
        measured_at=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        choice_s=planned.protocol.choice_s,
    )
    _remember(planned.cell, choice)
    return choice


@dataclass(frozen=True)
class _Trials:
    """Times the candidates for one place of a cell."""

    planned: Planned
    time_it: TimeIt
    say: Callable[[str], None]
    share_s: float
    """Of the budget, for one candidate once."""

    def table(self, found: Sequence[Candidate]) -> list[Tried]:
        able = [candidate for candidate in found if candidate.hopeless is None]
        tried = {c.label: Tried(c.label, reason=_left_out(c)) for c in found}
        if len(able) == 1:
            only = able[0].label
            return [*(tried | {only: Tried(only, reason="not timed: no other")}).values()]
        for candidate in able:
            tried[candidate.label] = self._try(candidate)
        if self.planned.cell.mode != "eager":  # compiling takes far longer than timing
            return [*tried.values()]
        best_s = min((row.step_s for row in tried.values() if row.times), default=0.0)
        for candidate in reversed(able):
            first = tried[candidate.label]
            if first.times and first.step_s <= CLOSE * best_s:
                again = self._try(candidate)
                better = min((r for r in (first, again) if r.times), key=lambda r: r.step_s)
                tried[candidate.label] = better
        return [*tried.values()]

    def _try(self, candidate: Candidate) -> Tried:
        self.say(f"timing kernel {candidate.label}")
        whole = self.planned.protocol
        protocol = replace(
            whole,
            warmup_max_s=self.share_s,
            warmup_min_steps=2,
            timeout_s=min(whole.timeout_s, TIMEOUT_S),
        )
        taken = candidate.cell.entries
        answer = self.time_it(replace(self.planned, protocol=protocol, taken=taken))
        if isinstance(answer, Failure):
            return Tried(candidate.label, reason=f"{answer.status}: {answer.reason}")
        return Tried(candidate.label, tuple(answer.times))


def _left_out(candidate: Candidate) -> str | None:
    return candidate.hopeless and f"not timed: {candidate.hopeless}"


def _fastest(found: Sequence[Candidate], rows: Sequence[Tried]) -> Candidate:
    """Of the candidates within TIE of the best time the first, which is the preferred; where only
    one could run, that one."""
    able = [candidate for candidate in found if candidate.hopeless is None]
    if len(able) == 1:
        return able[0]
    times = {row.candidate: row.step_s for row in rows if row.times}
    if not times:
        words = "; ".join(f"{row.candidate}: {row.reason}" for row in rows)
        raise NoneTimed(f"no kernel could be timed: {words or 'none runs here'}")
    limit_s = min(times.values()) * (1 + TIE)
    return next(c for c in found if times.get(c.label, limit_s + 1) <= limit_s)


def foreseen(planned: Planned, elsewhere: bool) -> str:
    """What an open cell would take and why, as a plan says it."""
    if elsewhere:
        return f"{planned.cell.kernel} by rank: nothing can be timed for another machine"
    found = remembered(planned)
    if found is not None:
        where = printable(_path(planned.cell))
        return f"{'; '.join(found.labels)}: {_why(found)}; remembered in {where}"
    parts = [_ahead(candidates(planned.cell, place)) for place in places(planned.cell)]
    return "; ".join(parts)


def _why(choice: Choice) -> str:
    """By which times a choice was made."""
    times = [f"{row.candidate} {TIME.rounded(row.step_s, 3)}" for row in choice.table if row.times]
    if not times:
        return ALONE
    left_out = [f"{row.candidate} {row.reason}" for row in choice.table if not row.times]
    return f"by a step's time on {choice.measured_at}: {', '.join([*times, *left_out])}"


def _ahead(every: Sequence[Candidate]) -> str:
    """What will be timed for one place, and what not."""
    able = [c.label for c in every if c.hopeless is None]
    left_out = "; ".join(f"{c.label} ({c.hopeless})" for c in every if c.hopeless)
    words = f"{able[0]}: {ALONE}" if len(able) == 1 else f"to be timed: {', '.join(able)}"
    return words + (f". Not timed: {left_out}" if left_out else "")


# --- what is remembered ------------------------------------------------------------------------


def with_remembered(pairs: list[Pair]) -> list[Pair]:
    """The pairs, each open cell with what is remembered for it, if anything is."""
    return [[_with_remembered(planned) for planned in pair] for pair in pairs]


def _with_remembered(planned: Planned) -> Planned:
    if planned.unsupported or not planned.cell.is_open:
        return planned
    found = remembered(planned)
    return planned if found is None else replace(planned, taken=found.taken)


def remembered(planned: Planned) -> Choice | None:
    """What was chosen before on this machine for such a cell, with at least its budget, or None:
    also where the file is damaged or names what is not here."""
    try:
        raw = json.loads(_path(planned.cell).read_text("utf-8"))
        rows = (Tried(r["candidate"], tuple(r["times"]), r["reason"]) for r in raw["table"])
        found = Choice(
            taken=tuple(LayerChoice.read(entry) for entry in raw["taken"]),
            labels=tuple(raw["labels"]),
            table=tuple(rows),
            measured_at=raw["measured_at"],
            choice_s=float(raw["choice_s"]),
            remembered=True,
        )
        entries = zip(found.taken, planned.cell.entries, strict=True)
        fits = all(_may_stand(taken, asked) for taken, asked in entries)
    except (OSError, ValueError, TypeError, KeyError, UserError):
        return None
    return found if fits and found.choice_s >= planned.protocol.choice_s else None


def _may_stand(taken: LayerChoice, asked: LayerChoice) -> bool:
    """Whether an entry is a choice for what was asked: of its mixer, with a kernel that it has."""
    mixers = taken.mixer == asked.mixer and not taken.open
    return mixers and KERNELS[taken.kernel].mixer == MIXERS[asked.mixer].kernels


def _remember(cell: Cell, choice: Choice) -> None:
    raw = {
        "shape": json.loads(_shape(cell)),
        "taken": [entry.flat() for entry in choice.taken],
        "labels": choice.labels,
        "table": [asdict(row) for row in choice.table],
        "measured_at": choice.measured_at,
        "choice_s": choice.choice_s,
    }
    cache_files.replace(_path(cell), json.dumps(raw, indent=1).encode())


NOT_OF_SHAPE = (
    *("arm", "corpus", "tokenizer", "seed", "measure", "learning_rate", "token_budget", "steps"),
    *("documents", "checkpoint_every", "score_corpus", "context", "contexts", "stride"),
    *("by_position", "ar_hits", "test_pairs", "test_sequences"),
)
"""Fields of a cell that change no step's time."""


def _shape(cell: Cell) -> str:
    return cell.canonical(without=NOT_OF_SHAPE)


def _path(cell: Cell) -> Path:
    """Its file: named by the machine, the cell's shape, the kernels and their code."""
    machine = _fingerprint(cell.device, cell.threads)
    name = short_hash(json.dumps([_shape(cell), *_versions()]))
    return cache_files.cache_folder() / "choices" / f"{machine}-{name}.json"


@cache
def _fingerprint(device: str, threads: int) -> str:
    """This machine's, as a worker with so many threads would have it."""
    found: dict[str, Any] = environment.capture(device)
    found["threads"]["intra_op"] = threads
    return environment.fingerprint(found)


_TIMED = "without the first step"
"""How candidates are timed: what was timed in another way is not remembered."""


@cache
def _versions() -> tuple[str, ...]:
    """Of the kernels' packages that are here, of our own kernels' code and of the timing."""
    packaged = {kernel.distribution for _, kernel in KERNELS.items() if kernel.distribution}
    versions = [f"{name} {environment.package_version(name)}" for name in sorted(packaged)]
    code = hashlib.sha256()
    for path in sorted(Path(kernels.__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return (*versions, code.hexdigest(), _TIMED)
