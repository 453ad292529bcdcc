"""Where a cell would run: this machine, or a row of the table of devices."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from retnet_bench.base import UserError, quoted
from retnet_bench.kernels import Elsewhere
from retnet_bench.measure import environment, rates
from retnet_bench.measure.devices import Rates, find, recognise
from retnet_bench.measure.memory import available_bytes
from retnet_bench.study.plan import Pair, Planned, cell_why_not
from retnet_bench.workloads import Cell


@dataclass(frozen=True)
class Target:
    """The machine a plan is for."""

    rates: Rates
    device: str
    """cpu or cuda: whose operators' memory is counted."""
    memory_bytes: int | None
    """Of one device."""
    elsewhere: Elsewhere | None = None
    count: int = 1
    """Devices of the machine."""

    def rates_of(self, cell: Cell) -> Rates:
        """The rates that the cell has for itself: on a CPU those of its threads."""
        return self.rates.with_threads(cell.threads)

    @property
    def name(self) -> str:
        return self.rates.name if self.count == 1 else f"{self.count} x {self.rates.name}"


def here(device: str, dtypes: Iterable[str]) -> Target:
    """This machine: rates kept by `env --measure`, else measured now; a known GPU's memory."""
    found = rates.kept(device) or rates.measure(device, dtypes)
    kind = torch.device(device).type
    if kind == "cpu":
        return Target(found, kind, available_bytes())
    known = recognise(found.name)
    return Target(found, kind, known.value.memory_bytes if known.value else None)


def on(name: str) -> Target:
    """A row of the table of devices, or several of one: 8xh100-80gb. UserError with a suggestion
    for an unknown name, and for a number of devices that there can't be."""
    several = re.fullmatch(r"(-?\d+)\s*x\s*(.+)", name, re.IGNORECASE)
    count, kind = (several[1], several[2]) if several else ("1", name)
    if not re.fullmatch(r"[1-9]\d{0,3}", count):
        raise UserError(f"--on {quoted(name)}: a machine has 1 to 9999 devices, such as 8x{kind}")
    device = find(kind)
    there = Elsewhere(device.capability)
    return Target(device, "cuda", device.memory_bytes, elsewhere=there, count=int(count))


def retargeted(pairs: list[Pair], target: Target) -> list[Pair]:
    """The pairs as they would be planned on `target`. What this machine lacks does not count
    there; whether packages are installed there is not known and taken for granted."""
    if target.elsewhere is None:
        return pairs
    return [[_moved(planned, target) for planned in pair] for pair in pairs]


def _moved(planned: Planned, target: Target) -> Planned:
    cell = replace(planned.cell, device=target.device)
    reason = cell_why_not(cell, target.elsewhere) or _too_few(cell, target)
    return replace(planned, cell=cell, unsupported=reason)


def _too_few(cell: Cell, target: Target) -> str | None:
    """Why the target has too few devices for the cell's ranks."""
    if cell.ranks <= target.count:
        return None
    gpus = "1 GPU" if target.count == 1 else f"{target.count} GPUs"
    return f"parallel asks for {cell.ranks} ranks, and {target.name} is {gpus}"


def target_of_records(device: str) -> Target:
    """Whose rates stand behind a record's utilisation: a known GPU's maker's peaks, else what
    `env --measure` kept here, else nothing, and then the columns are null."""
    name = environment.machine_name(environment.capture(device))
    kind = torch.device(device).type
    known = recognise(name).value if kind == "cuda" else None
    unknown = Rates(name, {}, None, None, None, "not measured: retnet-bench env --measure")
    found = known or rates.kept(device) or unknown
    return Target(found, kind, found.memory_bytes)
