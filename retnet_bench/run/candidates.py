"""The kernels and chunks that a cell may take where it leaves them open, and which are hopeless."""

from __future__ import annotations

from dataclasses import dataclass, replace

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS, Kernel
from retnet_bench.measure.devices import Rates
from retnet_bench.measure.memory import available_bytes
from retnet_bench.models import MIXERS
from retnet_bench.models.options import names
from retnet_bench.models.pattern import LayerChoice
from retnet_bench.predict import targets
from retnet_bench.predict.footprint import Footprint, Step, footprint
from retnet_bench.predict.rooflines import model_flops, operator_seconds, step_of
from retnet_bench.results.numbers import size_bytes
from retnet_bench.results.quantities import TIME
from retnet_bench.workloads import Cell

CHUNKS = (32, 64, 128, 256, 512)
"""Candidates of `chunk: auto`, beside the mixer's default."""
FAR = 8.0
"""Predicted to take so many times as long as the fastest: not timed. Predictions of kernels miss by
less (docs/cost.md)."""
SHORT_S = 5.0
"""A prompt that is predicted to be taken in within this time leaves no candidate out."""
MEMORY_SHARE = 0.9
"""Of the free memory, what a candidate may be predicted to need."""
NOMINAL = dict.fromkeys(("fp64", "fp32", "bf16", "fp16"), 1e11)
"""FLOP/s where a device's are not known; with 1e10 bytes/s and 5 us a call. Candidates are compared
with each other only."""


@dataclass(frozen=True)
class Candidate:
    """One entry of a cell's pattern as it might be computed."""

    label: str
    entry: LayerChoice
    cell: Cell
    """The cell with it, what else is open as it is preferred."""
    hopeless: str | None = None
    """Why it is not timed."""


def places(cell: Cell) -> list[LayerChoice]:
    """The entries that leave something open, equal ones once: they take the same."""
    return [entry for entry in dict.fromkeys(cell.entries) if entry.open]


def candidates(cell: Cell, place: LayerChoice) -> list[Candidate]:
    """What may stand in `place`, the preferred first. Empty where nothing runs here.

    Of kernels whose step is one and the same function a decode cell has the preferred one; it has
    no choice of chunks, which change nothing in a step.
    """
    found = []
    for kernel in _kernels(cell, place):
        for chunk in _chunks(cell, place, kernel):
            options = replace(place.options, **({} if chunk is None else {"chunk": chunk}))
            entry = LayerChoice(mixer=place.mixer, kernel=kernel.name, options=options)
            label = kernel.name if chunk is None else f"{kernel.name}, chunk {chunk}"
            label = _prefix(cell, place) + label
            found.append(Candidate(label, entry, _with(cell, place, entry)))
    return _judged(found)


def _kernels(cell: Cell, place: LayerChoice) -> list[Kernel]:
    mixer = MIXERS[place.mixer]
    ours = [kernel for _, kernel in KERNELS.items() if kernel.mixer == mixer.kernels]
    if "kernel" not in place.open:
        ours = [KERNELS[place.kernel]]
    kinds = [kind for kind in cell.matched().config.kinds if kind.mixer == place.mixer]
    settings = [mixer.setting(kind, cell.device, cell.dtype, cell.mode) for kind in kinds]
    able = [k for k in ours if not any(k.why_not(setting) for setting in settings)]
    able.sort(key=lambda kernel: -kernel.rank)
    if cell.workload == "decode":
        steps = {kernel.step: kernel for kernel in reversed(able)}
        able = [kernel for kernel in able if steps[kernel.step] is kernel]
    return able


def _chunks(cell: Cell, place: LayerChoice, kernel: Kernel) -> list[int | None]:
    """Chunks to try with a kernel, the default first; None: there is no choice."""
    mixer = MIXERS[place.mixer]
    if "chunk" not in place.open or "chunk" not in names(mixer.Options):
        return [None]
    if "chunk" in mixer.unread(kernel) or cell.workload == "decode":
        return [None]
    default: int = place.options.chunk  # type: ignore[attr-defined]
    # A chunk longer than the sequence is the sequence; fla's are powers of two from 16 on.
    shorter = [chunk for chunk in CHUNKS if chunk < cell.length or chunk == CHUNKS[0]]
    return [*dict.fromkeys([default, *shorter])]


def _prefix(cell: Cell, place: LayerChoice) -> str:
    """What tells the candidates of a pattern's places apart."""
    if not cell.layers:
        return ""
    alike = [other for other in places(cell) if other.mixer == place.mixer]
    number = f" {alike.index(place) + 1}" if len(alike) > 1 else ""
    return f"{place.mixer}{number}: "


def _with(cell: Cell, place: LayerChoice, entry: LayerChoice) -> Cell:
    """The cell with `entry` in that place, nothing left open."""
    taken = (entry if one == place else replace(one, open=()) for one in cell.entries)
    return cell.taking(tuple(taken))


@dataclass(frozen=True)
class _Cost:
    """What a candidate is predicted to need; None where it is not known."""

    floor_s: float
    """Of a step, by its FLOPs alone."""
    step_s: float | None = None
    """The same operator by operator."""
    prompt_s: float | None = None
    """Decode: of taking the prompt in."""
    peak_bytes: int = 0


def _judged(found: list[Candidate]) -> list[Candidate]:
    """With the hopeless ones marked: a prediction, not a measurement, says that they need more
    memory than there is or take FAR times as long as another."""
    if len(found) < 2:
        return found
    target = targets.target_of_records(found[0].cell.device)
    limit = target.memory_bytes if target.device != "cpu" else available_bytes()
    costs = [_cost(candidate, target) for candidate in found]
    known = [cost for cost in costs if isinstance(cost, _Cost)]
    # Where one is known by its FLOPs alone, so are all: floors of two kinds don't compare.
    whole = all(cost.step_s is not None for cost in known)
    steps = {id(cost): cost.step_s if whole else cost.floor_s for cost in known}
    least_s = min((s for s in steps.values() if s), default=None)
    prompt_s = min((cost.prompt_s for cost in known if cost.prompt_s), default=None)
    marked = []
    for candidate, cost in zip(found, costs, strict=True):
        if isinstance(cost, _Cost):
            why = _too_large(cost, limit) or _far("a step", steps[id(cost)], least_s, 0.0)
            why = why or _far("to take the prompt in", cost.prompt_s, prompt_s, SHORT_S)
        else:
            why = cost
        marked.append(replace(candidate, hopeless=why))
    if all(candidate.hopeless for candidate in marked):  # the preferred one may fail by itself
        return [found[0], *marked[1:]]
    return marked


def _too_large(cost: _Cost, limit: int | None) -> str | None:
    if limit is None or cost.peak_bytes <= MEMORY_SHARE * limit:
        return None
    return f"predicted to need {size_bytes(cost.peak_bytes)} of {size_bytes(limit)}"


def _far(what: str, seconds: float | None, least_s: float | None, short_s: float) -> str | None:
    if not seconds or not least_s or seconds <= max(FAR * least_s, short_s):
        return None
    times = seconds / least_s
    return f"predicted {TIME.rounded(seconds, 2)} {what}, {times:.0f} times the least"


def _cost(candidate: Candidate, target: targets.Target) -> _Cost | str | None:
    """What is predicted of a candidate, or why it is not timed because nothing can be; None for a
    package's kernel, which is timed all the same."""
    cell = candidate.cell
    rates = target.rates_of(cell)
    if rates.bytes_per_s is None or not rates.flops_per_s.get(cell.dtype):
        rates = Rates("nominal", dict(NOMINAL), 1e10, 5e-6, None, "nominal")
    config = cell.matched().config
    step = step_of(cell, config, target.device)
    if step.workload not in ("prefill", "decode", "generate"):
        step = replace(step, workload="train")
    floor_s = model_flops(cell, config) / (rates.flops_per_s[cell.dtype] or 1.0)
    try:
        found, prompt = footprint(step), _prompt(cell, step)
    except UserError as error:
        kernels = [KERNELS[name] for name in cell.kernels]
        if any(kernel.package for kernel in kernels):
            return None
        if KERNELS[candidate.entry.kernel].form == "recurrent":
            return f"token by token: {error}"
        return _Cost(floor_s)
    return _Cost(
        floor_s,
        operator_seconds(found, rates, cell.mode),
        None if prompt is None else operator_seconds(prompt, rates, cell.mode),
        max(found.peak_bytes, 0 if prompt is None else prompt.peak_bytes),
    )


def _prompt(cell: Cell, step: Step) -> Footprint | None:
    """Of a decode cell: taking its whole prompt in at once, of which it does a part at a time."""
    if cell.workload != "decode":
        return None
    return footprint(replace(step, workload="prefill", length=cell.length))
