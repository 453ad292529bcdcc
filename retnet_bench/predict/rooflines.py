"""What a step must do and move, and the least time a device needs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from retnet_bench.measure.devices import Rates
from retnet_bench.models import ModelConfig, cost
from retnet_bench.models.agreement import DTYPES
from retnet_bench.predict.footprint import Footprint, Step
from retnet_bench.predict.tensor_counter import Exchange
from retnet_bench.workloads import Cell
from retnet_bench.workloads.generate import new_tokens
from retnet_bench.workloads.settings import ONE_RANK, Parallel

MODELLED = ("train", "perplexity", "tune", "prefill", "decode", "generate")
"""Workloads whose step's cost is known."""


@dataclass(frozen=True)
class Roofline:
    """Least seconds of a step by a device's rates. A term is None where a rate is unknown."""

    compute_s: float | None
    bandwidth_s: float | None
    launch_s: float | None
    link_s: float | None = None
    """What a rank sends to others, over its link; None, too, where there are no others."""

    @cached_property
    def terms(self) -> dict[str, float]:
        named = {
            "compute": self.compute_s,
            "bandwidth": self.bandwidth_s,
            "launch": self.launch_s,
            "link": self.link_s,
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
    data = cell.parallel.data if cell.parallel else 1
    return Step(
        workload=workload,
        config=config,
        batch=cell.batch // data,
        length=length,
        dtype=cell.dtype,
        device=device,
        checkpointed=bool(cell.recompute),
        micro_batch=cell.micro_batch,
        parallel=cell.parallel or ONE_RANK,
        new_tokens=new_tokens(cell) if cell.workload == "generate" else 1,
    )


def _over_steps(cell: Cell, of: Callable[[int], float]) -> float:
    """The sum over a request's one-token steps of what is linear in the position."""
    later = new_tokens(cell) - 1 if cell.workload == "generate" else 0
    first, last = cell.length, cell.length + later - 1
    return later * (of(first) + of(last)) / 2 if later else 0.0


def model_flops(cell: Cell, config: ModelConfig, position: int | None = None) -> float:
    """Matmul FLOPs a step of all ranks must do: no masked scores, no recomputation."""
    if cell.workload in ("prefill", "generate"):
        steps = _over_steps(cell, lambda at: cost.step_flops(config, at))
        return cell.batch * (cost.prefill_flops(config, cell.length) + steps)
    if cell.workload == "decode":
        at = cell.length - 1 if position is None else position
        return cell.batch * cost.step_flops(config, at)
    return cell.batch * cell.length * cost.train_flops_per_token(config, cell.length)


def least_bytes(cell: Cell, config: ModelConfig, position: int | None = None) -> int:
    """Bytes a step must move (see `models.cost`); of a world: each of its ranks."""
    element, world = DTYPES[cell.dtype].itemsize, cell.parallel or ONE_RANK
    if cell.workload in ("prefill", "generate"):
        steps = _over_steps(cell, lambda at: cost.step_bytes(config, cell.batch, at + 1, element))
        taken_in = cost.prefill_bytes(config, cell.batch, cell.length, element)
        return (taken_in + round(steps)) // world.tensor
    if cell.workload == "decode":
        filled = cell.length if position is None else position + 1
        return cost.step_bytes(config, cell.batch, filled, element) // world.tensor
    moved = cost.train_bytes(config, cell.batch // world.data, cell.length, element)
    return moved - _spared_weight_bytes(cost.parameters(config), element, world)


def _spared_weight_bytes(parameters: int, element: int, world: Parallel) -> int:
    """Of the ten passes over the weights of a training step, what a rank leaves to others: all of
    other parts of a split model, and of shared weights all but what is gathered for the forward
    and the backward pass and the gradient of that, in the dtype that is computed in."""
    wide = max(4, element)
    gathered = 3 * element + 7 * wide // world.data if world.shard == "fsdp" else 10 * wide
    return parameters * 10 * wide - parameters * gathered // world.tensor


def roofline(
    cell: Cell,
    config: ModelConfig,
    of: Rates,
    launches: int | None,
    position: int | None = None,
    found: Footprint | None = None,
) -> Roofline:
    """The roofline of a step. `launches`: operators of an eager step; other modes launch fewer.
    `found`: of a rank of a world, for what it exchanges."""
    peak, width = of.flops_per_s.get(cell.dtype), of.bytes_per_s
    eager = cell.mode == "eager" and launches is not None and of.launch_s is not None
    return Roofline(
        model_flops(cell, config, position) / cell.ranks / peak if peak else None,
        least_bytes(cell, config, position) / width if width else None,
        launches * of.launch_s if eager else None,  # type: ignore[operator]
        max(link_seconds(found, cell.parallel, of).values(), default=None)
        if found and cell.parallel
        else None,
    )


def sent_bytes(exchange: Exchange, nbytes: int, parallel: Parallel) -> float:
    """What a rank must send at least for an exchange of tensors of so many bytes: of r ranks
    (r - 1) / r of them, and twice that for an all-reduce, which scatters and gathers."""
    ranks = parallel.tensor if exchange.dimension == "tensor" else parallel.data
    passes = 2 if exchange.kind == "all_reduce" else 1
    return passes * nbytes * (ranks - 1) / ranks


def link_seconds(found: Footprint, parallel: Parallel, of: Rates) -> dict[str, float]:
    """Least seconds that a rank sends, by dimension of the world; {} where the rate is unknown."""
    if not of.link_bytes_per_s:
        return {}
    total: dict[str, float] = {}
    for exchange, nbytes in found.exchanged.items():
        seconds = sent_bytes(exchange, nbytes, parallel) / of.link_bytes_per_s
        total[exchange.dimension] = total.get(exchange.dimension, 0.0) + seconds
    return total


def operator_seconds(
    found: Footprint, of: Rates, mode: str, parallel: Parallel | None = None
) -> float | None:
    """Operator by operator, the longest of its compute, bandwidth and launch; None where a rate
    that is needed is unknown. Sums over the ranks of a split model come on top, as the next
    operator waits for them; what is exchanged of weights and gradients may go on beside."""
    if of.bytes_per_s is None:
        return None
    launch_s = 0.0 if mode == "cudagraph" else of.launch_s or 0.0
    total = 0.0
    for op, n in found.ops.items():
        peak = of.flops_per_s.get(op.dtype) if op.flops else 1.0
        if not peak:
            return None
        total += n * max(op.flops / peak, op.bytes / of.bytes_per_s, launch_s)
    links = link_seconds(found, parallel, of) if parallel else {}
    return max(total + links.get("tensor", 0.0), links.get("data", 0.0))
