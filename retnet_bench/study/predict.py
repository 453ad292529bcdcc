"""What a cell is predicted to need and to take, on this machine or on another.

Memory, FLOPs and operators come from `workloads.footprint`, least bytes from `models.cost`, rates
from a maker's paper or from `env --measure`. Time is a floor, operator by operator, unless records
of the same machine calibrate it.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from retnet_bench.analysis import rows
from retnet_bench.base import UserError, quoted
from retnet_bench.kernels import KERNELS
from retnet_bench.measure import environment, rates
from retnet_bench.measure.devices import Rates, find, recognise
from retnet_bench.measure.memory import available_bytes
from retnet_bench.models import MIXERS, ModelConfig, cost
from retnet_bench.models.forms import DTYPES
from retnet_bench.results.schema import TIMES
from retnet_bench.study.plan import Pair, Planned, cell_seconds
from retnet_bench.workloads import Cell, Sample
from retnet_bench.workloads.footprint import Footprint, Step, footprint

if TYPE_CHECKING:
    import pandas as pd

PEAKS = {"cpu": "peak_tensor_bytes", "cuda": "cuda_peak_allocated_bytes"}
MODELLED = ("train", "perplexity", "prefill", "decode")
"""Workloads whose step's cost is known."""
LENGTH_STEP = 128
"""Lengths that would fit are given in multiples of this."""


# --- where ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The machine a plan is for."""

    rates: Rates
    device: str
    """cpu or cuda: whose operators' memory is counted."""
    memory_bytes: int | None
    elsewhere: bool = False


def here(device: str, dtypes: Iterable[str]) -> Target:
    """This machine: rates kept by `env --measure`, else measured now; a known GPU's memory."""
    found = rates.kept(device) or rates.measure(device, dtypes)
    kind = torch.device(device).type
    if kind == "cpu":
        return Target(found, kind, available_bytes())
    known = recognise(found.name)
    return Target(found, kind, known.value.memory_bytes if known.value else None)


def on(name: str) -> Target:
    """A row of the table of devices. UserError with a suggestion for an unknown name."""
    device = find(name)
    return Target(device, "cuda", device.memory_bytes, elsewhere=True)


def moved(pairs: list[Pair], target: Target) -> list[Pair]:
    """The pairs as they would be planned on `target`. What this machine lacks does not count
    there; whether packages are installed there is not known and taken for granted."""
    if not target.elsewhere:
        return pairs
    return [[_moved(planned, target.device) for planned in pair] for pair in pairs]


def _moved(planned: Planned, device: str) -> Planned:
    cell = replace(planned.cell, device=device)
    kernel = KERNELS[cell.kernel]
    dtypes = kernel.cuda_dtypes or kernel.dtypes
    reason = None
    try:
        cell.matched()
    except UserError as error:
        reason = str(error)
    if cell.dtype not in dtypes:
        reason = f"kernel {cell.kernel}: takes {', '.join(dtypes)}, not {cell.dtype}"
    return Planned(cell, planned.protocol, reason)


# --- what ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Roofline:
    """Least seconds of a step by a device's rates. A term is None where a rate is unknown."""

    compute_s: float | None
    bandwidth_s: float | None
    launch_s: float | None

    @cached_property
    def terms(self) -> dict[str, float]:
        named = {
            "compute": self.compute_s,
            "bandwidth": self.bandwidth_s,
            "launch": self.launch_s,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def seconds(self) -> float | None:
        """None where compute or bandwidth is unknown: it would not be the least."""
        known = None not in (self.compute_s, self.bandwidth_s)
        return max(self.terms.values()) if known else None

    @property
    def bound(self) -> str | None:
        """The term that sets `seconds`."""
        return None if self.seconds is None else max(self.terms, key=self.terms.__getitem__)


def step_of(cell: Cell, config: ModelConfig, device: str, position: int | None = None) -> Step:
    """What one timed step of the cell runs; decode: at `position`, the last one by default."""
    workload = "train" if cell.workload == "perplexity" else cell.workload
    length = cell.length if position is None else position + 1
    if workload == "decode" and MIXERS[config.mixer].kernels == "retention":
        length = 1  # a state is the same at every position
    return Step(
        workload=workload,
        config=config,
        batch=cell.batch,
        length=length,
        dtype=cell.dtype,
        device=device,
        checkpointed=bool(cell.recompute),
        micro_batch=cell.micro_batch,
    )


def model_flops(cell: Cell, config: ModelConfig, position: int | None = None) -> float:
    """Matmul FLOPs a step must do: no masked scores, no recomputation."""
    if cell.workload == "prefill":
        return cell.batch * cost.prefill_flops(config, cell.length)
    if cell.workload == "decode":
        at = cell.length - 1 if position is None else position
        return cell.batch * cost.step_flops(config, at)
    return cell.batch * cell.length * cost.train_flops_per_token(config, cell.length)


def least_bytes(cell: Cell, config: ModelConfig, position: int | None = None) -> int:
    """Bytes a step must move (see `models.cost`)."""
    element = DTYPES[cell.dtype].itemsize
    if cell.workload == "prefill":
        return cost.prefill_bytes(config, cell.batch, cell.length, element)
    if cell.workload == "decode":
        held = cell.length if position is None else position + 1
        return cost.step_bytes(config, cell.batch, held, element)
    return cost.train_bytes(config, cell.batch, cell.length, element)


def roofline(
    cell: Cell, config: ModelConfig, of: Rates, launches: int | None, position: int | None = None
) -> Roofline:
    """The roofline of a step. `launches`: operators of an eager step; other modes launch fewer."""
    peak, width = of.flops_per_s.get(cell.dtype), of.bytes_per_s
    eager = cell.mode == "eager" and launches is not None and of.launch_s is not None
    return Roofline(
        model_flops(cell, config, position) / peak if peak else None,
        least_bytes(cell, config, position) / width if width else None,
        launches * of.launch_s if eager else None,  # type: ignore[operator]
    )


def operator_seconds(found: Footprint, of: Rates, mode: str) -> float | None:
    """Operator by operator, the longest of its compute, bandwidth and launch; None where a rate
    that is needed is unknown."""
    if of.bytes_per_s is None:
        return None
    launch_s = 0.0 if mode == "cudagraph" else of.launch_s or 0.0
    total = 0.0
    for op, n in found.ops.items():
        peak = of.flops_per_s.get(op.dtype) if op.flops else 1.0
        if not peak:
            return None
        total += n * max(op.flops / peak, op.bytes / of.bytes_per_s, launch_s)
    return total


@dataclass(frozen=True)
class Prediction:
    """What one cell is predicted to need and take; None with a `reason` where it is not known."""

    memory: dict[str, int] | None
    """Bytes by category at the peak of a step, as in eager mode."""
    flops: float | None
    """Model FLOPs of one step."""
    roofline: Roofline
    step_s: float | None
    cell_s: float | None
    fits: bool | None
    instead: str | None
    """Where it does not fit: the largest batch or length that would."""
    reason: str | None

    @property
    def peak_bytes(self) -> int | None:
        return None if self.memory is None else sum(self.memory.values())


def predict(
    planned: Planned, target: Target, share: int = 1, calibration: Calibration | None = None
) -> Prediction:
    """The prediction of a cell that can be run; `share`: cells that live side by side."""
    cell, config = planned.cell, planned.matched.config
    if cell.workload not in MODELLED:
        why = f"what a step of workload {cell.workload} does is not modelled"
        if cell.workload == "downstream":
            why = "how much a task asks is not known before it is read"
        return Prediction(None, None, Roofline(None, None, None), None, None, None, None, why)
    step = step_of(cell, config, target.device)
    try:
        found = footprint(step)
    except UserError as error:
        line = roofline(cell, config, target.rates, None)
        flops = model_flops(cell, config)
        return Prediction(None, flops, line, None, None, None, None, str(error))
    line = roofline(cell, config, target.rates, found.launches)
    step_s = operator_seconds(found, target.rates, cell.mode)
    if step_s is not None and calibration is not None:
        step_s *= calibration.factor(cell)
    peak = target.rates.flops_per_s.get(cell.dtype)
    limit = None if target.memory_bytes is None else target.memory_bytes // share
    fits = None if limit is None else found.peak_bytes <= limit
    return Prediction(
        memory=found.memory,
        flops=model_flops(cell, config),
        roofline=line,
        step_s=step_s,
        cell_s=None
        if step_s is None
        else cell_seconds(planned, step_s, _setup_s(cell, config, peak)),
        fits=fits,
        instead=largest(step, limit) if fits is False and limit is not None else None,
        reason=None if step_s is not None else f"{target.rates.name}: rates for it are unknown",
    )


def _setup_s(cell: Cell, config: ModelConfig, peak: float | None) -> float:
    """Least seconds until a decode cell's prompt is taken in; others have none to take in."""
    if cell.workload != "decode" or not peak:
        return 0.0
    return cell.batch * cost.prefill_flops(config, cell.length) / peak


def side_by_side(pair: Pair) -> int:
    """How many cells of the pair are alive at the same time."""
    able = [planned for planned in pair if planned.unsupported is None]
    return max(1, len(able)) if able and able[0].protocol.interleave == "blocks" else 1


def predictions(
    pairs: list[Pair], target: Target, calibration: Calibration | None = None
) -> Iterator[tuple[Planned, Prediction | None]]:
    """Each cell with its prediction; None for a cell that can't be run."""
    for pair in pairs:
        share = side_by_side(pair)
        for planned in pair:
            able = planned.unsupported is None
            yield planned, predict(planned, target, share, calibration) if able else None


def skip_oom(pairs: list[Pair], target: Target) -> list[Pair]:
    """The pairs, each cell that is predicted not to fit marked unsupported, with the reason."""

    def checked(planned: Planned, share: int) -> Planned:
        if planned.unsupported is not None:
            return planned
        found = predict(planned, target, share)
        return replace(planned, unsupported=_too_large(found, target, share) or None)

    return [[checked(planned, side_by_side(pair)) for planned in pair] for pair in pairs]


def _too_large(found: Prediction, target: Target, share: int) -> str:
    if found.fits is not False or found.peak_bytes is None or target.memory_bytes is None:
        return ""
    limit = target.memory_bytes / share / 1e9
    return (
        f"predicted to run out of memory: needs {found.peak_bytes / 1e9:.3g} GB of "
        f"{limit:.3g} GB; {found.instead}"
    )


# --- what would fit ------------------------------------------------------------------------------


def largest(step: Step, limit: int) -> str:
    """In words: the largest batch that fits into `limit` bytes, or, where not even one sequence
    does, the largest length."""
    batch = _largest_batch(step, limit)
    if batch:
        return f"batch {batch} would fit"
    length = _largest_length(replace(step, batch=1), limit)
    if length:
        return f"length {length} at batch 1 would fit"
    least = footprint(replace(step, batch=1, length=min(step.length, LENGTH_STEP))).peak_bytes
    return f"no batch or length would: at least {least / 1e9:.3g} GB"


def _largest_batch(step: Step, limit: int) -> int:
    """Of a step that does not fit; 0 where not even one sequence does. A line through two and three
    sequences tells about where (one alone spares some copies); runs tell exactly."""

    def fits(batch: int) -> bool:
        return footprint(replace(step, batch=batch)).peak_bytes <= limit

    step = replace(step, micro_batch=None)
    if step.batch == 1 or not fits(1):
        return 0
    two, three = (footprint(replace(step, batch=n)).peak_bytes for n in (2, 3))
    return _last(fits, 1, step.batch, 2 + (limit - two) // max(1, three - two))


def _largest_length(step: Step, limit: int) -> int:
    """A multiple of LENGTH_STEP below the step's own length, which does not fit; 0 where none does.
    A quadratic through three lengths tells about where; runs tell exactly."""

    def peak(steps: int) -> int:
        return footprint(replace(step, length=steps * LENGTH_STEP)).peak_bytes

    whole = -(-step.length // LENGTH_STEP)
    if whole < 2 or peak(1) > limit:
        return 0
    known = sorted({1, max(1, whole // 4), max(1, whole // 2), whole})[-3:]
    peaks = [peak(n) for n in known]
    guess = next((n for n in range(whole, 1, -1) if _through(known, peaks, n) <= limit), 1)
    return LENGTH_STEP * _last(lambda n: peak(n) <= limit, 1, whole, guess)


def _last(fits: Callable[[int], bool], low: int, high: int, guess: int) -> int:
    """The last n that fits: `low` does, `high` does not; tried first at and around `guess`."""
    tries = [guess, guess + 1, guess - 1]
    while high - low > 1:
        n = tries.pop(0) if tries else (low + high) // 2
        if low < n < high:
            low, high = (n, high) if fits(n) else (low, n)
    return low


def _through(xs: list[int], ys: list[int], x: int) -> float:
    """The quadratic through three points, at x (Lagrange)."""
    total = 0.0
    for i, y in enumerate(ys):
        others = [other for j, other in enumerate(xs) if j != i]
        total += y * math.prod((x - other) / (xs[i] - other) for other in others)
    return total


# --- money ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    """What an hour costs."""

    per_hour: float
    currency: str

    def of(self, seconds: float) -> str:
        return f"{self.per_hour * seconds / 3600:.2f} {self.currency}"


def price(text: str) -> Price:
    """ "2.50USD" or "2.50 EUR". UserError where a currency is missing or the price is negative."""
    said = quoted(text)
    found = re.fullmatch(r"\s*(-?\d{1,15}(?:\.\d+)?)\s*([A-Za-z]{3})?\s*", text)
    if found is None:
        raise UserError(f'--price "{said}" is no price per hour; write it like 2.50USD')
    if found[2] is None:
        raise UserError(f'--price "{said}" has no currency; write it like {quoted(found[1])}USD')
    if float(found[1]) < 0:
        raise UserError(f'--price "{said}" is negative; write it like 2.50{found[2].upper()}')
    return Price(float(found[1]), found[2].upper())


# --- the user's own records ----------------------------------------------------------------------

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Calibration:
    """Measured over predicted step time on records, by workload, kernel, dtype and mode."""

    ratios: dict[Key, tuple[float, ...]]
    watts: float | None = None
    """Median power over the blocks whose energy a counter told; None without such."""
    usual: float = 1.0
    """Taken where there is no record."""

    def factor(self, cell: Cell) -> float:
        """Median ratio of records like this cell."""
        found = self.ratios.get(_key(cell))
        return statistics.median(found) if found else self.usual

    def error(self, key: Key) -> float | None:
        """Median factor by which a record is missed when predicted from the others (1.1: by 10 %);
        None for a lone record, which has no others."""
        ratios = self.ratios[key]
        if len(ratios) < 2:
            return None
        misses = (
            abs(math.log(ratio / statistics.median(ratios[:i] + ratios[i + 1 :])))
            for i, ratio in enumerate(ratios)
        )
        return math.exp(statistics.median(misses))

    def lines(self) -> Iterator[str]:
        """One a kind of cell, for people."""
        for key, ratios in self.ratios.items():
            error = self.error(key)
            known = (
                "error not known from one" if error is None else f"typically {error - 1:.0%} off"
            )
            factor = statistics.median(ratios)
            said = f"measured {factor:.3g} x predicted, {len(ratios)} cells, {known}"
            yield f"{' '.join(key)}: {said}"


def _key(cell: Cell) -> Key:
    return cell.workload, cell.kernel, cell.dtype, cell.mode


def calibrate(records: pd.DataFrame, target: Target) -> Calibration:
    """The ratio on every cell of `records` that was timed on the target's machine. Decode counts
    at its last position."""
    ratios: dict[Key, list[float]] = defaultdict(list)
    own = records["machine"].map(lambda name: _same_machine(name, target)).astype(bool)
    records = records[own]
    timed = records[records["metric"].isin(list(TIMES.values())) & records["value"].notna()]
    for text, times in timed.groupby("cell_json"):
        cell = _cell(str(text))
        if cell is None:
            continue
        at = times["position"].dropna()
        position = int(at.max()) if len(at) else None
        last = times if position is None else times[(times["position"] == position).fillna(False)]
        measured = statistics.median(v for samples in last["samples"] for v in samples)
        try:
            found = footprint(step_of(cell, cell.matched().config, target.device, position))
        except UserError:
            continue
        predicted = operator_seconds(found, target.rates, cell.mode)
        if predicted:
            ratios[_key(cell)].append(measured / predicted)
    kept = {key: tuple(values) for key, values in ratios.items()}
    return Calibration(kept, _watts(records))


def _watts(records: pd.DataFrame) -> float | None:
    if "energy_window_s" not in set(records["metric"]):
        return None
    blocks = rows.energies(records)
    return float((blocks["joules"] / blocks["window_s"]).median()) if len(blocks) else None


def _same_machine(name: str, target: Target) -> bool:
    if not target.elsewhere:
        return name == target.rates.name
    known = recognise(name).value
    return known is not None and known.name == target.rates.name


def _cell(text: str) -> Cell | None:
    """The cell of a record; None for one that an older version wrote and this one can't read."""
    values: dict[str, Any] = json.loads(text)
    try:
        return Cell(**{**values, "measure": tuple(values["measure"])})
    except (TypeError, KeyError):
        return None


# --- beside what was measured --------------------------------------------------------------------


def columns(planned: Planned, target: Target, sample: Sample) -> dict[str, Any]:
    """The columns of group "cost" for the row of `sample`; {} where nothing can be said.

    `predicted` is in the sample's own unit: a time's floor operator by operator, a peak's or a
    state's bytes; null in modes that allocate or launch otherwise than eager. Utilisations are
    against the target's rates, for the median of the samples.
    """
    cell = planned.cell
    if planned.unsupported is not None or not sample.values or cell.workload not in MODELLED:
        return {}
    if sample.metric == TIMES.get(cell.workload):
        return _time_columns(planned, target, sample)
    if cell.mode == "eager" and sample.metric == PEAKS[target.device]:
        found = _footprint(planned, target, None)
        return {} if found is None else {"predicted": float(found.peak_bytes)}
    return {}


def _footprint(planned: Planned, target: Target, position: int | None) -> Footprint | None:
    try:
        config = planned.matched.config
        return footprint(step_of(planned.cell, config, target.device, position))
    except UserError:
        return None


def _time_columns(planned: Planned, target: Target, sample: Sample) -> dict[str, Any]:
    cell, config, of = planned.cell, planned.matched.config, target.rates
    value, at = statistics.median(sample.values), sample.position
    found = _footprint(planned, target, at)
    line = roofline(cell, config, of, found.launches if found else None, at)
    floor = operator_seconds(found, of, cell.mode) if found and cell.mode == "eager" else None
    return {
        "predicted": floor,
        "roofline_s": line.seconds,
        "bound": line.bound,
        "flops_utilisation": None if line.compute_s is None else line.compute_s / value,
        "bandwidth_utilisation": None if line.bandwidth_s is None else line.bandwidth_s / value,
    }


def target_of_records(device: str) -> Target:
    """Whose rates stand behind a record's utilisation: a known GPU's maker's peaks, else what
    `env --measure` kept here, else nothing, and then the columns are null."""
    name = environment.machine_name(environment.capture(device))
    kind = torch.device(device).type
    known = recognise(name).value if kind == "cuda" else None
    unknown = Rates(name, {}, None, None, None, "not measured: retnet-bench env --measure")
    found = known or rates.kept(device) or unknown
    return Target(found, kind, found.memory_bytes)
