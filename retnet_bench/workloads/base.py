"""What every workload is: prepared once, warmed up, then timed block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from retnet_bench.base import Registry
from retnet_bench.data import Corpus, Tokenizer, load_corpus, load_tokenizer, sample_batch
from retnet_bench.kernels import KERNELS
from retnet_bench.measure.clock import Clock
from retnet_bench.measure.memory import measure_phase
from retnet_bench.measure.protocol import Protocol, run_block, samples_per_block
from retnet_bench.measure.reading import Series
from retnet_bench.models import LanguageModel, ModelConfig
from retnet_bench.models.agreement import DTYPES
from retnet_bench.workloads.cell import Cell
from retnet_bench.workloads.world import ALONE, Alone, local

SCORE = "score"
"""Phase of what a trained model is scored on."""
VALIDATE = "validate"
"""Phase of what is scored to choose between models, and so is no result."""


@dataclass(frozen=True)
class Sample:
    """Raw values of one metric, in the order they were taken; none, with a reason, when unknown."""

    metric: str
    unit: str
    values: tuple[float, ...]
    phase: str
    coordinates: Mapping[str, int | str] = field(default_factory=dict)
    """What else tells it from the metric's other values, by column of the records: the position of
    a decoded token, the training step, the document, ..."""
    reason: str | None = None
    value: float | None = None
    """What the values come to, where that is not their median."""
    note: str | None = None
    """What to know of known values."""

    @classmethod
    def of(cls, series: Series, phase: str) -> Sample:
        """A reading that was taken during a phase."""
        return cls(series.metric, series.unit, series.values, phase, reason=series.reason)


class NotFinite(Exception):
    """A loss or logit became NaN or infinite: the speed of wrong numbers is not a result."""

    status: ClassVar[str] = "nan"
    """What the cell's record says."""


class Diverged(NotFinite):
    """A training that no longer learns; its message says at which step, and the last good loss."""

    status = "diverged"


class Workload(ABC):
    """One cell at work on its device. It stores nothing and prints nothing."""

    interleaved: ClassVar[bool] = True
    """Whether its blocks alternate with the other arms'; False for one long block each."""
    phase: ClassVar[str]
    settings: ClassVar[tuple[type, ...]] = ()
    """Classes of `workloads.settings` that it reads, beside what every workload does."""
    unread: ClassVar[tuple[str, ...]] = ()
    """Settings that every other workload reads, and it does not."""

    checkpoints: Path | None = None
    """Where this cell's checkpoints live, should it keep any; None keeps none."""
    tensorboard: Path | None = None
    """Where a training's TensorBoard events go; None writes none."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.device = torch.device(cell.device)
        self.model: LanguageModel
        self.world: Alone = ALONE
        """The processes that run the cell together."""
        self.report: Callable[[str], None] = lambda line: None
        """Called every few seconds of long work with a short line; does nothing unless set."""
        self.texts: dict[str, str] = {}
        """Checksums, by what they are of, of the texts that it reads."""

    @abstractmethod
    def prepare(self) -> None:
        """Build model and data on the device."""

    @abstractmethod
    def step(self) -> None:
        """One unit of work, as it is timed and warmed up."""

    @abstractmethod
    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        """One block of samples; `step_s` is the warm step time."""

    @abstractmethod
    def memory(self) -> Iterable[Sample]:
        """Peak memory, one window a phase."""

    def facts(self) -> Iterable[Sample]:
        """What must be equal to the last bit in every run of the same code on a machine."""
        return ()

    @abstractmethod
    def check(self) -> None:
        """Raise NotFinite when what the timed steps computed is not finite."""

    def build_model(self, dtype: str) -> LanguageModel:
        torch.manual_seed(self.cell.seed)
        model = LanguageModel(self.cell.matched().config)
        self.world.split(model)
        return model.to(self.device, DTYPES[dtype])

    def sample_tokens(self, batch: int, length: int) -> Tensor:
        """(batch, length + 1) token ids of the cell's corpus, on the device."""
        corpus, tokenizer = self.read_corpus()
        return sample_batch(corpus, tokenizer, batch, length, self.cell.seed).to(self.device)

    def read_corpus(self) -> tuple[Corpus, Tokenizer]:
        """The cell's corpus and tokenizer, noted in `texts`."""
        corpus = load_corpus(self.cell.corpus)
        tokenizer = load_tokenizer(self.cell.tokenizer, corpus)
        self.texts |= {"corpus": corpus.checksum, "tokenizer": tokenizer.checksum}
        return corpus, tokenizer

    def timed_block(
        self, metric: str, clock: Clock, protocol: Protocol, step_s: float
    ) -> Iterator[Sample]:
        """The usual block: one row of consecutive steps."""
        steps = samples_per_block(protocol, step_s)
        times = self.world.slowest(run_block(clock, self.step, steps, self.world.meet))
        yield Sample(metric, "s", tuple(times), self.phase)

    def memory_of(self, phase: str, fn: Callable[[], object], resident: int) -> Iterator[Sample]:
        """Every reading of one phase as samples; `resident` as in `measure_phase`."""
        readings = measure_phase(self.device, fn, resident_bytes=resident)
        for metric, reading in readings.items():
            values = () if reading.value is None else (float(reading.value),)
            yield Sample(metric, "bytes", values, phase, reason=reading.reason)

    @abstractmethod
    def eager_step(self) -> Tensor:
        """What a step computes (loss or logits), run eagerly, leaving the workload as it was."""

    @abstractmethod
    def mode_step(self) -> Tensor:
        """The same on the same input, as the cell's mode runs it."""

    def mode_error(self) -> float:
        """Relative (Frobenius) difference between the mode's step and the eager one."""
        expected, found = self.eager_step().double(), self.mode_step().double()
        return ((found - expected).norm() / expected.norm()).item()

    def dispatched(self) -> str:
        """The kernel that a step really calls: its name, and torch's op where one was chosen."""
        with _Recorder() as recorder:
            self.eager_step()
        return " / ".join([kernel_labels(self.model.cfg), *recorder.found()])


class _Recorder(TorchDispatchMode):
    """Notes the ops that mix tokens: a fused attention, else batched matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def found(self) -> list[str]:
        fused = sorted(name for name in self.seen if "attention" in name)
        return fused or sorted(self.seen & {"bmm", "baddbmm"})


def kernel_labels(config: ModelConfig) -> str:
    """The kernels of a model's layers, each with the version of the package it comes from."""
    return " + ".join(dict.fromkeys(KERNELS[kind.kernel].label() for kind in config.kinds))


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the given tensors' own elements that this process holds."""
    return sum(t.numel() * t.element_size() for t in map(local, tensors))


def weight_bytes(model: nn.Module) -> int:
    return tensor_bytes([*model.parameters(), *model.buffers()])


WORKLOADS: Registry[type[Workload]] = Registry("workload")
