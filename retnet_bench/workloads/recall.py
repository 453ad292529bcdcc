"""Recall: train on multi-query associative recall, then count the right answers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F

from retnet_bench.data import mqar
from retnet_bench.models.agreement import DTYPES
from retnet_bench.workloads.base import SCORE, VALIDATE, WORKLOADS, NotFinite, Sample
from retnet_bench.workloads.cell import Cell
from retnet_bench.workloads.decode import held_bytes
from retnet_bench.workloads.learning import Learning
from retnet_bench.workloads.progress import Live
from retnet_bench.workloads.settings import RecallSettings
from retnet_bench.workloads.train import Batch

VOCABULARY = 1024
SEQUENCES = 500
"""Defaults of `vocabulary` and `test_sequences`."""
_PHASES: dict[mqar.Split, str] = {"valid": VALIDATE, "test": SCORE}


def task_of(cell: Cell) -> mqar.Mqar:
    """The cell's task. UserError where what it is told doesn't go together."""
    task = mqar.Mqar(vocabulary=cell.vocab_size, length=cell.length, filler=cell.filler or "zero")
    for pairs in (*(cell.train_pairs or ()), *(cell.test_pairs or ())):
        task.check(pairs)
    return task


@WORKLOADS.register("recall")
class Recall(Learning):
    """Right answers in multi-query associative recall, after `steps` steps of training on it.

    The model has the size's mixers with a gated convolution before each, and nothing else: no
    feed-forward, no positions. Validation and test sequences are the same for every arm and seed;
    what is chosen by looking at scores (a learning rate) is to be chosen on the former.
    """

    phase = "recall"
    settings = (*Learning.settings, RecallSettings)
    unread = ("corpus", "tokenizer", "match")

    def prepare(self) -> None:
        self.task = task_of(self.cell)
        self.train_pairs = self.cell.train_pairs or ()
        super().prepare()

    def planned_steps(self) -> int:
        assert self.cell.steps is not None
        return self.cell.steps

    def load(self) -> None:
        """Sequences are made as they are needed."""

    def batches_from(self, start: int) -> Iterator[Batch]:
        return self._drawn(self.train_pairs, start)

    def _drawn(self, pairs: tuple[int, ...], start: int = 0) -> Iterator[Batch]:
        drawn = self.task.training(self.cell.seed, self.cell.batch, pairs, start)
        return (_tensors(queries) for queries in drawn)

    def first_batches(self) -> list[Batch]:
        return [tuple(t.to(self.device) for t in next(self.batches_from(0)))]

    @property
    def eager_loss(self) -> Callable[..., torch.Tensor]:
        return self.model.loss_at

    def scores(self, live: Live) -> Iterator[Sample]:
        yield Sample("training_s", "s", (self.seconds,), "train")
        for split, phase in _PHASES.items():
            for pairs in self.cell.test_pairs or self.train_pairs:
                yield from self._answers(split, phase, pairs)
        state = float(self._state_bytes())
        yield Sample("sequence_state_bytes", "bytes", (state,), SCORE)

    def memory(self) -> Iterable[Sample]:
        """Of a step with the most queries, whichever a seed would draw next."""
        self.batches = self._drawn((max(self.train_pairs),))
        return super().memory()

    @torch.no_grad()
    def _answers(self, split: mqar.Split, phase: str, pairs: int) -> Iterator[Sample]:
        n = self.cell.test_sequences or SEQUENCES
        queries = _tensors(self.task.held_out(split, n, pairs))
        correct, nats = 0, 0.0
        for some in zip(*(t.split(self.cell.batch) for t in queries), strict=True):
            inputs, positions, targets = (t.to(self.device) for t in some)
            logits = self.model.logits_at(inputs, positions).flatten(0, 1).float()
            correct += int((logits.argmax(-1) == targets.flatten()).sum())
            nats += F.cross_entropy(logits, targets.flatten(), reduction="sum").item()
        if not math.isfinite(nats):
            raise NotFinite(f"logits after training are not finite ({pairs} pairs)")
        for metric, unit, value in (
            ("recall_correct", "count", correct),
            ("recall_queries", "count", n * pairs),
            ("recall_nll_nat", "nat", nats),
        ):
            yield Sample(metric, unit, (float(value),), phase, {"pairs": pairs})

    @torch.no_grad()
    def _state_bytes(self) -> int:
        """Bytes that the model carries after one whole sequence, in the cell's dtype."""
        model = copy.deepcopy(self.model).to(DTYPES[self.cell.dtype])
        state = model.new_state(1, self.cell.length)
        model.prefill(self.first[0][:1], state)
        return held_bytes(state)


def _tensors(queries: mqar.Queries) -> Batch:
    return tuple(map(torch.from_numpy, queries))
