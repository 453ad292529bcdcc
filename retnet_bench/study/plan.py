"""From a study to its plan: cells in the order they run, and what each will cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import psutil
import torch

from retnet_bench.analysis.tables.choices import Choice
from retnet_bench.analysis.tables.floor import TWIN_SUFFIX
from retnet_bench.base import PackageMissing, UserError, quoted
from retnet_bench.data import is_remote, load_corpus, load_tokenizer, vocabulary_of
from retnet_bench.data.corpora import CORPORA, Split
from retnet_bench.kernels import KERNELS, Elsewhere, Setting, best
from retnet_bench.measure import allocation
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS, ModelConfig, cost, split
from retnet_bench.models.checkpoint import identity
from retnet_bench.models.config import size as size_of
from retnet_bench.models.matching import Matched
from retnet_bench.models.pattern import AUTO, HYBRID, LayerChoice
from retnet_bench.study.arms import Arm, Layer
from retnet_bench.study.budgets import by_parameters, check_epochs
from retnet_bench.study.names import check_names, check_read
from retnet_bench.study.settings import TUNED, CommonSettings, Group, Settings
from retnet_bench.study.study import Study
from retnet_bench.study.sweep import SWEEP
from retnet_bench.workloads import WORKLOADS, Cell, world
from retnet_bench.workloads.decode import MAX_STEPS
from retnet_bench.workloads.generate import new_tokens
from retnet_bench.workloads.modes import why_not as mode_why_not
from retnet_bench.workloads.recall import VOCABULARY, task_of
from retnet_bench.workloads.scoring import CONTEXT_TOKENS
from retnet_bench.workloads.settings import Parallel, meanings


@dataclass(frozen=True)
class Planned:
    """A cell, how it will be timed, and why it can't be run, if so."""

    cell: Cell
    protocol: Protocol
    unsupported: str | None
    baseline: str | None = None
    """The arm that the others are compared with, where the study says which."""
    choice: Choice | None = None
    """Where its settings come from the study's sweep: which, and how."""
    waits: bool = False
    """Whether it waits for the sweep: its settings, and so its id, are not known yet."""
    taken: tuple[LayerChoice, ...] | None = None
    """What was chosen for a cell that leaves its kernel or chunk open, as its `entries`."""

    @cached_property
    def running(self) -> Cell:
        """The cell as it runs: with what was chosen. Its id is not that of the cell."""
        return self.cell if self.taken is None else self.cell.taking(self.taken)

    @cached_property
    def matched(self) -> Matched:
        """The config of a cell that can be run, as it runs."""
        return self.running.matched()

    @property
    def processes(self) -> int:
        """How many processes measure it: a training isn't repeated, nor what is counted."""
        timed = WORKLOADS[self.cell.workload].interleaved and "time" in self.cell.measure
        return self.protocol.processes if timed else 1


NEEDED = {
    "perplexity": ("token_budget or tokens_per_param",),
    "tune": ("token_budget or tokens_per_param",),
    "recall": ("steps", "train_pairs"),
    "downstream": ("task",),
}
"""A workload's own settings without which it can't be run."""
NOT_OF_CELLS = {"batch_tokens", "max_epochs"}
"""Settings that a cell is made or checked with, and that decide nothing else."""
Pair = list[Planned]
"""Cells equal in everything but the arm."""


Choose = Callable[[str, str], Choice | None]
"""By an arm and a size: what the study's sweep led to; None where that is not known yet."""


def make(study: Study, choose: Choose = lambda arm, size: None, *, here: bool = True) -> list[Pair]:
    """Every pair of the study, in its order; those of its sweep come first. Raises UserError for
    names nobody knows, settings that no workload reads, arms that exist at none of their sizes, and
    for a corpus or tokenizer that is not available. For a plan of another machine (not `here`) no
    corpus is downloaded: the tokenizer is taken at its word, and epochs are not checked."""
    check_names(study)
    check_read(study)
    pairs = [_pair(study, choose, here, *point) for point in study.points()]
    seen: set[str] = set()
    for planned in (p for pair in pairs for p in pair):
        if planned.cell.cell_id in seen:
            raise UserError(f"the study lists one cell twice: {planned.cell.name}")
        seen.add(planned.cell.cell_id)
    _check_packages([planned for pair in pairs for planned in pair])
    for name in study.arms:
        _check_exists(name, [p for pair in pairs for p in pair if p.cell.arm == name])
    return pairs


def _check_packages(cells: list[Planned]) -> None:
    """UserError where every cell lacks a package. Where only some do, those are recorded as
    unsupported."""
    lacking = [_package_missing(planned.cell.corpus) for planned in cells]
    if cells and all(lacking):
        raise UserError(str(lacking[0]))


@cache
def _package_missing(corpus: str) -> str | None:
    """What one of the corpora that have a name lacks, if it is a package."""
    try:
        if corpus in CORPORA:
            load_corpus(corpus)
    except PackageMissing as error:
        return str(error)
    return None


def _check_exists(arm: str, cells: list[Planned]) -> None:
    """UserError for an arm without a model in any of its cells. Where only some sizes have none,
    those cells are recorded as unsupported."""
    if any(planned.unsupported is None for planned in cells):
        return
    first = None
    for planned in cells:
        try:
            planned.cell.matched()
            return
        except UserError as error:
            first = first or error
    if first is not None:
        raise UserError(f"arms.{arm}: {first}")


def against_itself(pairs: list[Pair]) -> list[Pair]:
    """The plan of a self-test: each timed cell in a pair with its twin, equal but for the name."""
    return [
        [timed, replace(timed, cell=replace(timed.cell, arm=f"{timed.cell.arm}{TWIN_SUFFIX}"))]
        for timed in map(_time_only, itertools.chain.from_iterable(pairs))
        if timed is not None
    ]


def _time_only(planned: Planned) -> Planned | None:
    interleaved = WORKLOADS[planned.cell.workload].interleaved
    if planned.unsupported or not interleaved or "time" not in planned.cell.measure:
        return None
    return replace(planned, cell=replace(planned.cell, measure=("time",)))


def _pair(
    study: Study, choose: Choose, here: bool, group: Group, given: Settings, protocol: Protocol
) -> Pair:
    if given.size is None or given.length is None:
        missing = "size" if given.size is None else "length"
        raise UserError(f"workload {group.workload}: {missing} is missing; set it fixed or as axis")
    arms = study.arms
    if group.workload == SWEEP and study.tune and study.tune.arms:
        arms = {name: arm for name, arm in arms.items() if name in study.tune.arms}
    tuned = study.tune if given.learning_rate == TUNED else None
    batches = tuned.axes.get("batch", []) if tuned else []
    found = []
    for name, arm in arms.items():
        cell = _cell(name, arm, group.workload, given, here, batches)
        choice: Choice | None = None
        if study.tune and cell.workload == "perplexity":
            cell = _reported(cell)
        if tuned:
            choice = choose(name, given.size)
            own = batches if tuned.tries(name) else []
            cell = _tuned(cell, [*tuned.axes], choice, own)
        elif study.tune:
            _check_quality(cell)
        why = (choice and choice.refused) or _why_not(cell)
        waits = tuned is not None and choice is None
        found.append(Planned(cell, protocol, why, study.baseline, choice, waits))
    return found


def _reported(cell: Cell) -> Cell:
    """A cell of a study that tunes, scored on documents that its sweep did not see, unless it says
    others: those with settings of the sweep and those without compare on the same documents."""
    return cell if cell.score_split else replace(cell, score_split="test")


def _tuned(cell: Cell, axes: list[str], choice: Choice | None, batches: Sequence[int]) -> Cell:
    """The cell with its arm's own settings; while they are not known, with the greatest of the
    `batches` that the sweep tries, which needs the most memory. UserError for a workload that can't
    take them, for the documents that the sweep scores, and for what goes with one of the batches
    only."""
    if cell.workload != "perplexity":
        raise UserError(f"workload {cell.workload}: learning_rate: tuned is of perplexity only")
    if cell.score_split == "valid":
        raise UserError(
            "score_split: valid is what the sweep chooses by; leave it out, or say test"
        )
    tuned = replace(cell, tuned=", ".join(sorted(axes)))
    if choice is not None:
        tuned = replace(tuned, **choice.settings)
        _check_quality(tuned)
        return tuned
    for batch in sorted(batches) or [cell.batch]:  # what is wrong is said before the sweep runs
        tuned = replace(tuned, batch=batch)
        _check_quality(tuned)
    return tuned


def _cell(
    name: str,
    arm: Arm,
    workload: str,
    given: Settings,
    here: bool,
    batches: Sequence[int] = (),
) -> Cell:
    """One arm's cell. `batches` are those that a sweep may lead to: a budget by rule is whole
    batches of the least, whichever is chosen, so that it is one for all arms of a pair; what goes
    with which is for `_tuned` to check."""
    own = itertools.chain.from_iterable(map(meanings, WORKLOADS[workload].settings))
    read = {*CommonSettings.model_fields, *own} - NOT_OF_CELLS
    values = given.model_dump(include=read, exclude_none=True)
    if values.get("learning_rate") == TUNED:
        values.pop("learning_rate")
    assert given.length is not None
    if given.batch_tokens is not None:
        values["batch"] = max(1, given.batch_tokens // given.length)
    values["device"] = device(given.device or "auto")
    if "parallel" in values:
        values["parallel"] = Parallel(**values["parallel"])
    ranks = max(world.ranks_by_machine(values.get("parallel"), values["device"], 1))
    values["threads"] = given.threads or max(1, _threads() // ranks)
    if workload == "recall":
        vocabulary = values.get("vocabulary", VOCABULARY)
        values |= {"corpus": "random", "tokenizer": f"random:{vocabulary}", "match": "none"}
    unseen = not here and is_remote(values["corpus"])
    unseen = unseen or _package_missing(values["corpus"]) is not None
    values["vocab_size"] = (
        vocabulary_of(values["tokenizer"])
        if unseen
        else _vocab_size(values["corpus"], values["tokenizer"])
    )
    for needed in NEEDED.get(workload, ()):
        if not {*needed.split(" or ")} & values.keys():
            raise UserError(f"workload {workload}: {needed} is missing; set it fixed or as axis")
    if "tokens_per_param" in values:
        batch = min(batches, default=values["batch"])
        size, family, vocabulary = (values[name] for name in ("size", "family", "vocab_size"))
        values["token_budget"] = by_parameters(
            values["tokens_per_param"], size, family, vocabulary, batch, given.length
        )
    values |= {"mixer": arm.mixer, "options": arm.options, "kernel": _kernel(arm, values)}
    values["open"] = arm.open or None
    if arm.layers is not None:
        values |= _pattern(name, arm.layers, values)
    values["arm_family"] = None if arm.family == given.family else arm.family
    if workload == "downstream":
        values |= _downstream(name, arm, values)
        if any(entry.open for entry in arm.layers or (arm,)):
            words = "workload downstream times nothing that could choose it; name one"
            raise UserError(f"arms.{name}: kernel or chunk is {AUTO}: {words}")
    cell = Cell(workload=workload, arm=name, **values)
    if not batches:
        _check_quality(cell)
    if cell.token_budget and not unseen:
        check_epochs(cell, given.max_epochs)
    return cell


def _check_quality(cell: Cell) -> None:
    """UserError for settings of training and scoring that can't go together."""
    cell.training_recipe  # noqa: B018 - unknown: UserError with a suggestion
    if cell.workload == "recall":
        task_of(cell)
    if cell.micro_batch and cell.batch % cell.micro_batch:
        raise UserError(f"micro_batch {cell.micro_batch} does not divide batch {cell.batch}")
    if cell.stride and cell.context != "sliding":
        raise UserError(f"stride goes with context: sliding, not {cell.context or 'chunked'}")
    if cell.stride and cell.stride > cell.length:
        raise UserError(
            f"stride {cell.stride} skips tokens: it must be at most the length, {cell.length}"
        )
    if cell.contexts and min(cell.contexts) < CONTEXT_TOKENS:
        raise UserError(
            f"contexts: {min(cell.contexts)} is too short; the last {CONTEXT_TOKENS} tokens of "
            f"each window are scored, so take {CONTEXT_TOKENS} or more"
        )
    if cell.score_corpus:
        split: Split = "test" if cell.score_split == "test" else "valid"
        load_corpus(cell.score_corpus).documents(split)  # unknown or without text: UserError


def _downstream(name: str, arm: Arm, values: dict) -> dict:
    """The arm's checkpoint, and what its weights are: others would make another cell."""
    if arm.checkpoint is None:
        raise UserError(f"workload downstream: arms.{name}.checkpoint is missing; name its folder")
    if not Path(arm.checkpoint).is_dir():
        raise UserError(f"arms.{name}.checkpoint: there is no folder {quoted(arm.checkpoint)}")
    return {"checkpoint": arm.checkpoint, "weights": identity(arm.checkpoint)}


def _pattern(arm: str, entries: tuple[Layer, ...], values: dict) -> dict:
    """A cell's layers and what stands for its kernel. UserError for more entries than layers."""
    depth = size_of(values["size"]).n_layers
    if len(entries) > depth:
        raise UserError(
            f"arms.{arm}.layers: the pattern has {len(entries)} entries, size {values['size']} "
            f"has {depth} layers; shorten it, or take a deeper size"
        )
    layers = tuple(
        LayerChoice(mixer=e.mixer, kernel=_kernel(e, values), options=e.options, open=e.open)
        for e in entries
    )
    return {"layers": layers, "kernel": "+".join(dict.fromkeys(e.kernel for e in layers))}


def _kernel(entry: Layer, values: dict) -> str:
    """The kernel's name; the preferred one here where none is said, or where it is measured."""
    if entry.mixer == HYBRID:
        return HYBRID
    family = MIXERS[entry.mixer].kernels
    if entry.kernel in (None, AUTO):
        return best(family, Setting(values["device"], values["dtype"], mode=values["mode"])).name
    return entry.kernel


def device(name: str) -> str:
    """A device as torch names it; `auto` is the GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.device(name))
    except RuntimeError:
        words = f'device "{quoted(name)}" is none that torch knows; try cpu or cuda'
        raise UserError(words) from None


def devices_of(pairs: list[Pair]) -> list[str]:
    """The devices of the cells that can be run; the CPU stands for a machine where none can."""
    able = [p.cell.device for pair in pairs for p in pair if p.unsupported is None]
    return list(dict.fromkeys(able)) or ["cpu"]


def _threads() -> int:
    """Physical cores this process may use: a thread on a hyper-thread slows a matmul down."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return min(physical, allocation.here().cores)


_VOCABULARIES: dict[tuple[str, str], int] = {}


def _vocab_size(corpus: str, tokenizer: str) -> int:
    key = (corpus, tokenizer)
    if key not in _VOCABULARIES:
        _VOCABULARIES[key] = load_tokenizer(tokenizer, load_corpus(corpus)).vocab_size
    return _VOCABULARIES[key]


def _why_not(cell: Cell) -> str | None:
    """Why the cell makes no sense here, or None. Such a cell becomes a record, not silence."""
    if cell.device.startswith("cuda") and not torch.cuda.is_available():
        return "no CUDA device on this machine"
    return (
        _package_missing(cell.corpus)
        or cell_why_not(cell)
        or mode_why_not(cell.mode, cell.device)
        or _world_why_not(cell)
    )


def cell_why_not(cell: Cell, elsewhere: Elsewhere | None = None) -> str | None:
    """Why the cell makes no sense on a machine, this one or one elsewhere, by what it is itself."""
    if cell.workload == "decode" and cell.length <= MAX_STEPS:
        return f"decode needs a length above {MAX_STEPS}, the steps it takes at the last position"
    try:
        config = cell.matched().config
    except UserError as error:
        return str(error)
    most, needed = cost.longest(config), max(_tokens(cell), *(cell.contexts or (0,)))
    if most is not None and needed > most:
        return f"{cell.arm} is defined for at most {most:,} tokens, not {needed:,}"
    if cell.workload == "generate" and cell.mode == "cudagraph":
        return "generate has no CUDA graphs: decode times them"
    return _kernel_why_not(cell, config, elsewhere) or _parallel_why_not(cell)


def _world_why_not(cell: Cell) -> str | None:
    """Why this machine, or this job's, have no such world."""
    if cell.parallel is None:
        return None
    return world.why_not(cell.parallel, cell.device, cell.threads, allocation.here())


def _parallel_why_not(cell: Cell) -> str | None:
    """Why no world of the kind that the cell asks for can run it, whatever the machine."""
    parallel = cell.parallel
    if parallel is None:
        return None
    if parallel.shard == "fsdp" and parallel.data == 1:
        return "parallel: shard fsdp shares weights over data ranks, of which there is one"
    if cell.workload in ("prefill", "decode") and parallel.data > 1:
        return f"parallel.data is {parallel.data}: {cell.workload} is split by tensor alone"
    if cell.mode != "eager":
        return f"parallel runs in mode eager, not {cell.mode}"
    if cell.is_open:
        return "parallel takes no kernel or chunk auto, which one process times; name one"
    if cell.dtype == "fp16" and parallel.ranks > 1:
        return "parallel takes no fp16, whose gradients one scale for all ranks would have to fit"
    rows, left = divmod(cell.batch, parallel.data)
    if left:
        return f"parallel.data {parallel.data} does not divide batch {cell.batch}"
    if cell.micro_batch and rows % cell.micro_batch:
        return f"micro_batch {cell.micro_batch} does not divide the {rows} sequences of a rank"
    if parallel.tensor > 1:
        try:
            split.check(cell.matched().config, parallel.tensor)
        except UserError as error:
            return f"parallel: {error}"
    return None


def _tokens(cell: Cell) -> int:
    """Of a sequence, at its longest."""
    return cell.length + (new_tokens(cell) - 1 if cell.workload == "generate" else 0)


def _kernel_why_not(cell: Cell, config: ModelConfig, elsewhere: Elsewhere | None) -> str | None:
    # Elsewhere nothing is timed: what stands in for auto is what is planned.
    left = {entry.mixer for entry in cell.entries if "kernel" in entry.open and not elsewhere}
    for kind in config.kinds:
        mixer = MIXERS[kind.mixer]
        setting = mixer.setting(kind, cell.device, cell.dtype, cell.mode)
        setting = replace(setting, elsewhere=elsewhere)
        reason = KERNELS[kind.kernel].why_not(setting)
        if reason and kind.mixer in left:
            every = {n: k.why_not(setting) for n, k in KERNELS.items() if k.mixer == mixer.kernels}
            if None in every.values():
                continue
            words = "; ".join(f"{name} {why}" for name, why in every.items())
            return f"kernel {AUTO}: none runs here: {words}"
        if reason:
            return f"kernel {kind.kernel}: {reason}"
    return None


START_S = 2.0
"""Predicted time to start a cell's first worker, build the model and check its forms."""
FURTHER_START_S = 0.5
"""The same for each further one, which checks no forms."""


def cell_seconds(planned: Planned, step_s: float, setup_s: float = 0.0) -> float:
    """Predicted time of the whole cell, from that of one step and of what comes before the first
    (decode: taking the prompt in)."""
    cell, protocol = planned.cell, planned.protocol
    if cell.workload in ("perplexity", SWEEP):
        steps = (cell.token_budget or 0) / (cell.batch * cell.length)
        return START_S + 1.3 * steps * step_s  # the scoring adds about a third
    seconds = setup_s
    if "time" in cell.measure:
        block = max(protocol.block_s, protocol.min_samples * step_s * (cell.positions or 1))
        seconds += min(protocol.warmup_max_s, 8 * step_s) + protocol.blocks * block
    memory = 4 * step_s if "memory" in cell.measure else 0.0
    starts = START_S + FURTHER_START_S * (planned.processes - 1)
    if cell.is_open and planned.taken is None:
        starts += protocol.choice_s
    return starts + planned.processes * seconds + memory
