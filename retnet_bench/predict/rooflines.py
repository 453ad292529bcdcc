"""What a step must do and move, and the least time a device needs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from retnet_bench.measure.devices import Rates
from retnet_bench.models import ModelConfig, cost
from retnet_bench.models.agreement import DTYPES
from retnet_bench.predict.footprint import Footprint, Step
from retnet_bench.workloads import Cell
from retnet_bench.workloads.generate import new_tokens

MODELLED = ("train", "perplexity", "tune", "prefill", "decode", "generate")
"""Workloads whose step's cost is known."""


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
    workload = "train" if cell.workload in ("perplexity", "tune") else cell.workload
    length = cell.length if position is None else position + 1
    if workload == "decode" and not cost.state_grows(config):
        length = 1  # the same step at every position
    return Step(
        workload=workload,
        config=config,
        batch=cell.batch,
        length=length,
        dtype=cell.dtype,
        device=device,
        checkpointed=bool(cell.recompute),
        micro_batch=cell.micro_batch,
        new_tokens=new_tokens(cell) if cell.workload == "generate" else 1,
    )


def _over_steps(cell: Cell, of: Callable[[int], float]) -> float:
    """The sum over a request's one-token steps of what is linear in the position."""
    later = new_tokens(cell) - 1 if cell.workload == "generate" else 0
    first, last = cell.length, cell.length + later - 1
    return later * (of(first) + of(last)) / 2 if later else 0.0


def model_flops(cell: Cell, config: ModelConfig, position: int | None = None) -> float:
    """Matmul FLOPs a step must do: no masked scores, no recomputation."""
    if cell.workload in ("prefill", "generate"):
        steps = _over_steps(cell, lambda at: cost.step_flops(config, at))
        return cell.batch * (cost.prefill_flops(config, cell.length) + steps)
    if cell.workload == "decode":
        at = cell.length - 1 if position is None else position
        return cell.batch * cost.step_flops(config, at)
    return cell.batch * cell.length * cost.train_flops_per_token(config, cell.length)


def least_bytes(cell: Cell, config: ModelConfig, position: int | None = None) -> int:
    """Bytes a step must move (see `models.cost`)."""
    element = DTYPES[cell.dtype].itemsize
    if cell.workload in ("prefill", "generate"):
        steps = _over_steps(cell, lambda at: cost.step_bytes(config, cell.batch, at + 1, element))
        return cost.prefill_bytes(config, cell.batch, cell.length, element) + round(steps)
    if cell.workload == "decode":
        filled = cell.length if position is None else position + 1
        return cost.step_bytes(config, cell.batch, filled, element)
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
