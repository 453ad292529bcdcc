"""Perplexity: train on a token budget of real text, then score held-out documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.data import (
    ScoredDocument,
    documents,
    encode_split,
    load_corpus,
    load_tokenizer,
    train_batches,
)
from retnet_bench.measure.clock import Clock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import LanguageModel
from retnet_bench.workloads.base import WORKLOADS, Sample
from retnet_bench.workloads.train import Train

CLIP = 2.0
WARMUP = 0.05
"""Share of the steps in which the learning rate rises; then it falls linearly to zero."""


def default_learning_rate(d_model: int) -> float:
    """6e-4 at d = 2048 (Table 7), rising as 1/sqrt(d) for smaller models, at most 3e-3."""
    return min(3e-3, 6e-4 * (2048 / d_model) ** 0.5)


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate at `step` of `steps`: linear warm-up, then linear decay."""
    rise = max(1, round(WARMUP * steps))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / (steps - rise))


@WORKLOADS.register("perplexity")
class Perplexity(Train):
    """Documents' negative log-likelihoods after training on `token_budget` tokens.

    Each document is scored in windows of `length` tokens that do not overlap, each predicting from
    its own window only; the same windows for every arm.
    """

    interleaved = False
    phase = "perplexity"

    def prepare(self) -> None:
        super().prepare()
        cell = self.cell
        corpus = load_corpus(cell.corpus)
        tokenizer = load_tokenizer(cell.tokenizer, corpus)
        self.held_out = documents(corpus, "valid", tokenizer)[: cell.documents]
        stream = encode_split(corpus, "train", tokenizer)
        self.batches = train_batches(stream, cell.batch, cell.length, cell.seed)
        self.steps = max(1, round((cell.token_budget or 0) / (cell.batch * cell.length)))
        self.clip = CLIP
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser.adamw, lambda step: schedule(step, self.steps)
        )

    def peak_learning_rate(self) -> float:
        return self.cell.learning_rate or default_learning_rate(self.model.cfg.d_model)

    def facts(self) -> Iterable[Sample]:
        return ()

    def step(self) -> None:
        super().step()
        self.scheduler.step()

    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        """All of the training, then the scoring. The steps are not timing samples: nothing is
        interleaved here, so they are recorded as losses, and their speed is `train`'s to tell."""
        self.model.train()
        every = max(1, self.steps // 100)
        for i in range(self.steps):
            self.step()
            if i % every == 0 or i == self.steps - 1:
                self.check()
                seen = (i + 1) * self.cell.batch * self.cell.length
                yield Sample(
                    "train_loss_nat", "nat", (self.last_loss.item(),), "train", position=seen
                )
        yield from self._scores()

    def _scores(self) -> Iterator[Sample]:
        self.model.eval()
        for document in self.held_out:
            nll = document_nll(self.model, document, self.cell.length, self.device)
            for metric, unit, value in (
                ("document_nll_nat", "nat", nll),
                ("document_tokens", "tokens", document.n_tokens),
                ("document_words", "words", document.n_words),
                ("document_bytes", "bytes", document.n_bytes),
            ):
                yield Sample(metric, unit, (float(value),), self.phase, document=document.name)


@torch.no_grad()
def document_nll(
    model: LanguageModel, document: ScoredDocument, window: int, device: torch.device
) -> float:
    """Summed negative log-likelihood (nat) of the document's tokens, <bos> given, not scored."""
    inputs, targets = document.ids[:-1].to(device), document.ids[1:].to(device)
    total = 0.0
    whole = len(inputs) // window * window
    for batch in _rows(inputs[:whole], targets[:whole], window):
        total += _nll(model, *batch)
    if whole < len(inputs):
        total += _nll(model, inputs[None, whole:], targets[None, whole:])
    return total


def _rows(inputs: Tensor, targets: Tensor, window: int, at_once: int = 8) -> Iterator:
    rows = zip(inputs.view(-1, window), targets.view(-1, window), strict=True)
    while chunk := list(islice(rows, at_once)):
        yield tuple(torch.stack(part) for part in zip(*chunk, strict=True))


def _nll(model: LanguageModel, inputs: Tensor, targets: Tensor) -> float:
    logits = model(inputs).flatten(0, 1).float()
    return F.cross_entropy(logits, targets.flatten(), reduction="sum").double().item()
