"""From a study to its plan: cells in the order they run, and what each will cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import psutil
import torch

from retnet_bench.base import UserError
from retnet_bench.data import load_corpus, load_tokenizer
from retnet_bench.kernels import KERNELS, Setting, best
from retnet_bench.measure.clock import WallClock, time_call
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS, cost
from retnet_bench.models.config import size as size_of
from retnet_bench.models.forms import DTYPES
from retnet_bench.models.pairs import Matched
from retnet_bench.study.study import Arm, Group, Settings, Study
from retnet_bench.workloads import WORKLOADS, Cell
from retnet_bench.workloads.decode import RUN
from retnet_bench.workloads.modes import why_not as mode_why_not


@dataclass(frozen=True)
class Planned:
    """A cell, how it will be timed, and why it can't be run, if so."""

    cell: Cell
    protocol: Protocol
    unsupported: str | None

    @cached_property
    def matched(self) -> Matched:
        """The config of a cell that can be run."""
        return self.cell.matched()


Pair = list[Planned]
"""Cells equal in everything but the arm."""


def make(study: Study) -> list[Pair]:
    """Every pair of the study, in its order. Raises UserError for names nobody knows and for a
    corpus or tokenizer that can't be had."""
    pairs = [_pair(study.arms, *point) for point in study.points()]
    seen: set[str] = set()
    for planned in (p for pair in pairs for p in pair):
        if planned.cell.cell_id in seen:
            raise UserError(f"the study lists one cell twice: {planned.cell.name}")
        seen.add(planned.cell.cell_id)
    return pairs


def _pair(arms: dict[str, Arm], group: Group, said: Settings, protocol: Protocol) -> Pair:
    WORKLOADS[group.workload]  # unknown: UserError with a suggestion
    if said.size is None or said.length is None:
        missing = "size" if said.size is None else "length"
        raise UserError(f"workload {group.workload}: {missing} is missing; set it fixed or as axis")
    size_of(said.size)
    return [
        Planned(cell, protocol, _why_not(cell))
        for cell in (_cell(name, arm, group.workload, said) for name, arm in arms.items())
    ]


def _cell(name: str, arm: Arm, workload: str, said: Settings) -> Cell:
    values = said.model_dump(exclude={"batch_tokens"}, exclude_none=True)
    assert said.length is not None
    if said.batch_tokens is not None:
        values["batch"] = max(1, said.batch_tokens // said.length)
    values["device"] = _device(said.device or "auto")
    values["threads"] = said.threads or _threads()
    values["vocab_size"] = _vocab_size(values["corpus"], values["tokenizer"])
    if workload != "decode":
        values.pop("positions", None)
    if workload != "perplexity":
        for key in ("token_budget", "learning_rate", "documents"):
            values.pop(key, None)
    elif said.token_budget is None:
        raise UserError("workload perplexity: token_budget is missing; set it fixed or as axis")
    values |= arm.model_dump(exclude={"kernel", "family"}, exclude_none=True)
    values["arm_family"] = None if arm.family == said.family else arm.family
    values["kernel"] = _kernel(arm, values)
    return Cell(workload=workload, arm=name, **values)


def _kernel(arm: Arm, values: dict) -> str:
    """The kernel's name, `auto` resolved to the best one here."""
    family = MIXERS[arm.mixer].kernels
    if arm.kernel == "auto":
        return best(family, Setting(values["device"], values["dtype"], mode=values["mode"])).name
    kernel = KERNELS[arm.kernel]
    if kernel.mixer != family:
        fitting = ", ".join(n for n, k in KERNELS.items() if k.mixer == family)
        raise UserError(
            f"kernel {arm.kernel} computes {kernel.mixer}, not {family}; choose from {fitting}"
        )
    return arm.kernel


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.device(name))
    except RuntimeError:
        raise UserError(f'device "{name}" is none that torch knows; try cpu or cuda') from None


def devices_of(pairs: list[Pair]) -> list[str]:
    """The devices of the cells that can be run; the CPU stands for a machine where none can."""
    able = [p.cell.device for pair in pairs for p in pair if p.unsupported is None]
    return list(dict.fromkeys(able)) or ["cpu"]


def _threads() -> int:
    """Physical cores this process may use: a thread on a hyper-thread slows a matmul down."""
    allowed = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return min(physical, allowed) if allowed else physical


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
    if cell.workload == "decode" and cell.length <= RUN:
        return f"decode needs a length above {RUN}, the steps it takes at the last position"
    try:
        config = cell.matched().config
    except UserError as error:
        return str(error)
    setting = Setting(cell.device, cell.dtype, config.key_dim, config.value_dim, cell.mode)
    kernel = KERNELS[cell.kernel].why_not(setting)
    return f"kernel {cell.kernel}: {kernel}" if kernel else mode_why_not(cell.mode, cell.device)


# --- what it will cost -----------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """What this machine does, measured in a moment: a floor for predictions, not a result."""

    flops_per_s: float
    bytes_per_s: float


EFFICIENCY = 0.5
"""Share of the matmul rate a training step is predicted to reach."""
STEP_OVERHEAD_S = 1e-3
"""Predicted least time of a step: Python and dispatch."""
START_S = 2.0
"""Predicted time to start a worker, build the model and check its forms."""


def measure_rates(pairs: list[Pair]) -> Rates:
    """A matmul and a copy, best of four, on the device the cells run on."""
    device = devices_of(pairs)[0]
    n = 1024 if device == "cpu" else 4096
    a, out = (torch.ones(n, n, device=device) for _ in range(2))
    big = torch.ones(2**24, device=device)
    sink = torch.empty_like(big)
    return Rates(
        2 * n**3 / _best_s(lambda: torch.mm(a, a, out=out), device),
        2 * big.nbytes / _best_s(lambda: sink.copy_(big), device),
    )


def _best_s(fn: Callable[[], object], device: str) -> float:
    clock = WallClock(device)
    return min(time_call(clock, fn) for _ in range(4))


@dataclass(frozen=True)
class Cost:
    """What one cell is predicted to take. Nothing here is measured but `rates`."""

    step_s: float
    cell_s: float
    least_bytes: int
    """Weights, gradients, optimizer and state: exact. Activations come on top."""
    flops: float
    """Matmul FLOPs of one step."""


def predict(planned: Planned, rates: Rates) -> Cost:
    """Predicted cost of a cell that can be run."""
    cell, cfg = planned.cell, planned.matched.config
    element = DTYPES[cell.dtype].itemsize
    tokens = cell.batch * cell.length
    weights = cost.parameters(cfg)
    state = cost.state_bytes(cfg, cell.batch, cell.length, element)
    if cell.workload in ("train", "perplexity"):
        flops = cost.train_flops_per_token(cfg, cell.length) * tokens
        least, step_s = 16 * weights, flops / (EFFICIENCY * rates.flops_per_s)
    elif cell.workload == "prefill":
        flops = cost.forward_flops(cfg, cell.length) * cell.batch
        least, step_s = weights * element + state, flops / (EFFICIENCY * rates.flops_per_s)
    else:
        flops = 2.0 * weights * cell.batch
        least = weights * element + state
        step_s = cost.step_bytes(cfg, cell.batch, cell.length, element) / rates.bytes_per_s
    step_s = max(step_s, STEP_OVERHEAD_S)
    return Cost(step_s, _cell_seconds(planned, step_s), least, flops)


def _cell_seconds(planned: Planned, step_s: float) -> float:
    cell, protocol = planned.cell, planned.protocol
    if cell.workload == "perplexity":
        steps = (cell.token_budget or 0) / (cell.batch * cell.length)
        return START_S + 1.3 * steps * step_s  # the scoring adds about a third
    seconds = START_S
    if "time" in cell.measure:
        block = max(protocol.block_s, protocol.min_samples * step_s * (cell.positions or 1))
        seconds += min(protocol.warmup_max_s, 8 * step_s) + protocol.blocks * block
    if "memory" in cell.measure:
        seconds += 4 * step_s
    return protocol.processes * seconds


def costs(pairs: list[Pair], rates: Rates) -> Iterator[tuple[Planned, Cost | None]]:
    """Each cell with its predicted cost; None for a cell that can't be run."""
    for planned in (p for pair in pairs for p in pair):
        yield planned, None if planned.unsupported else predict(planned, rates)
