"""What one cell is predicted to need and to take, on this machine or on another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from retnet_bench.base import UserError
from retnet_bench.models import ModelConfig, cost
from retnet_bench.predict.calibration import Calibration
from retnet_bench.predict.fit import largest
from retnet_bench.predict.footprint import footprint
from retnet_bench.predict.rooflines import (
    MODELLED,
    Roofline,
    model_flops,
    operator_seconds,
    roofline,
    step_of,
)
from retnet_bench.predict.targets import Target
from retnet_bench.results.numbers import size_bytes
from retnet_bench.study.plan import Pair, Planned, cell_seconds
from retnet_bench.workloads import WORKLOADS, Cell
from retnet_bench.workloads.world import ranks_by_machine


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
    exchanged: dict[str, int] = field(default_factory=dict)
    """Bytes of what a rank of a world exchanges in a step, by kind."""

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
    rates = target.rates_of(cell)
    step = step_of(cell, config, target.device)
    try:
        found = footprint(step)
    except UserError as error:
        line = roofline(cell, config, rates, None)
        flops = model_flops(cell, config)
        return Prediction(None, flops, line, None, None, None, None, str(error))
    line = roofline(cell, config, rates, found.launches, found=found)
    step_s = operator_seconds(found, rates, cell.mode, cell.parallel)
    if step_s is not None and calibration is not None:
        step_s *= calibration.factor(planned.running)
    peak = rates.flops_per_s.get(cell.dtype)
    if target.device == "cpu":
        # Ranks of a machine have its memory together, and GPUs each its own.
        share *= max(ranks_by_machine(cell.parallel, cell.device, cell.threads))
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
        exchanged={
            f"{exchange.kind} over {exchange.dimension}": nbytes
            for exchange, nbytes in sorted(found.exchanged.items(), key=str)
        },
    )


def _setup_s(cell: Cell, config: ModelConfig, peak: float | None) -> float:
    """Least seconds until a decode cell's prompt is taken in; others have none to take in."""
    if cell.workload != "decode" or not peak:
        return 0.0
    return cell.batch * cost.prefill_flops(config, cell.length) / peak


def side_by_side(pair: Pair) -> int:
    """How many cells of the pair are alive at the same time: trainings for quality run one after
    another."""
    able = [planned for planned in pair if planned.unsupported is None]
    if not able or not WORKLOADS[able[0].cell.workload].interleaved:
        return 1
    return len(able) if able[0].protocol.interleave == "blocks" else 1


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
    limit = size_bytes(target.memory_bytes / share)
    return (
        f"predicted to run out of memory: needs {size_bytes(found.peak_bytes)} of {limit}; "
        f"{found.instead}"
    )
