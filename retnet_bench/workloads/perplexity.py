"""Perplexity: train on a token budget of real text, then score held-out documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from retnet_bench.base import UserError
from retnet_bench.data import (
    ScoredDocument,
    count_windows,
    documents,
    encode_split,
    load_corpus,
    load_tokenizer,
    train_batches,
)
from retnet_bench.data.corpora import Split
from retnet_bench.measure.clock import Clock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.workloads import scoring
from retnet_bench.workloads.base import SCORE, WORKLOADS, Sample
from retnet_bench.workloads.checkpoints import (
    Checkpoints,
    generator_tensors,
    optimiser_tensors,
    restore_generators,
    restore_optimiser,
)
from retnet_bench.workloads.divergence import Watch
from retnet_bench.workloads.progress import Board, Live
from retnet_bench.workloads.settings import PerplexitySettings, TrainingSettings
from retnet_bench.workloads.train import Train

CURVE_POINTS = 100
"""Points of the loss curve."""
LOOK_EVERY = 10
"""Most steps whose losses wait on the device before they are looked at."""

CHECKPOINT_FIELDS = ("arm", "size", "corpus", "tokenizer", "length", "seed")
"""Of the cell, what a checkpoint says of itself to who evaluates it."""


@WORKLOADS.register("perplexity")
class Perplexity(Train):
    """Documents' negative log-likelihoods after training on `token_budget` tokens.

    With a folder in `checkpoints`, a training that was killed goes on from its last checkpoint, and
    its losses and scores are those of one that was not, bit by bit (same machine, fp32).
    """

    interleaved = False
    phase = "perplexity"
    settings = (TrainingSettings, PerplexitySettings)

    def prepare(self) -> None:
        _repeatable(self.device)
        super().prepare()
        cell = self.cell
        self.board = Board(self.tensorboard)
        self.recipe = cell.training_recipe
        self.steps = max(1, round((cell.token_budget or 0) / (cell.batch * cell.length)))
        self.recipe.warmup(self.steps)  # raises where the budget is too small for it
        self._load_text()
        self.clip = self.recipe.clip
        self.done = 0
        self.curve: list[tuple[int, float]] = []
        self.watch = Watch()

    def _load_text(self) -> None:
        cell = self.cell
        corpus = load_corpus(cell.corpus)
        tokenizer = load_tokenizer(cell.tokenizer, corpus)
        self.texts = {"corpus": corpus.checksum, "tokenizer": tokenizer.checksum}
        self.bos = tokenizer.bos_id if self.recipe.bos_windows else None
        scored = load_corpus(cell.score_corpus) if cell.score_corpus else corpus
        split: Split = "valid" if scored.documents("valid") else "test"
        self.held_out = documents(scored, split, tokenizer)[: cell.documents]
        scoring.check_contexts(self.held_out, cell.contexts or ())
        self.stream = encode_split(corpus, "train", tokenizer)
        self.batches = self._batches(0)
        windows = count_windows(self.stream, cell.length)
        if windows < cell.batch:
            raise UserError(
                f'corpus "{cell.corpus}" has {windows} windows of {cell.length} tokens to train '
                f"on, fewer than one batch of {cell.batch}; take a smaller batch or a larger corpus"
            )

    def _batches(self, start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        cell = self.cell
        return train_batches(self.stream, cell.batch, cell.length, cell.seed, start, self.bos)

    def peak_learning_rate(self) -> float:
        rate = self.cell.peak_learning_rate()
        assert rate is not None
        return rate

    def facts(self) -> Iterable[Sample]:
        return ()

    def step(self) -> None:
        rate = self.peak_learning_rate() * self.recipe.rate_factor(self.done, self.steps)
        for group in self.optimiser.adamw.param_groups:
            group["lr"] = rate
        super().step()
        self.done += 1

    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        """All of the training, then the scoring. The steps are not timing samples: nothing is
        interleaved here, so they are recorded as losses, and their speed is `train`'s to tell."""
        self._train(clock)
        for seen, loss in self.curve:
            yield Sample("train_loss_nat", "nat", (loss,), "train", {"tokens_seen": seen})
        yield from self._scores(Live(clock, self.report))

    # --- training ------------------------------------------------------------------------------

    def _train(self, clock: Clock) -> None:
        self.model.train()
        torch.manual_seed(self.cell.seed)  # dropout's draws depend on nothing that ran before
        self._resume()
        self.board.open(self.done * self._step_tokens)
        live, first = Live(clock, self.report), self.done
        waiting: list[torch.Tensor] = []
        while self.done < self.steps:
            self.step()
            waiting.append(self.last_loss)
            at = self._due()
            if not at and len(waiting) < LOOK_EVERY:
                continue
            loss = self._look(waiting)
            live.training(self.done, first, self.steps, self._step_tokens, loss)
            if "curve" in at:
                self._note(loss)
            if "checkpoint" in at:
                self._save()
        self.board.close()

    def _due(self) -> set[str]:
        """What is to be done after the step just taken."""
        if self.done == self.steps:
            return {"curve", "checkpoint"}
        found = set()
        if (self.done - 1) % max(1, self.steps // CURVE_POINTS) == 0:
            found.add("curve")
        if self.done % (self.cell.checkpoint_every or max(1, self.steps // 10)) == 0:
            found.add("checkpoint")
        return found

    def _look(self, waiting: list[torch.Tensor]) -> float:
        """Read the losses of the last steps from the device; the last one. Raises Diverged."""
        losses = torch.stack(waiting).tolist()
        waiting.clear()
        for step, loss in enumerate(losses, self.done - len(losses) + 1):
            self.watch.see(step, loss, self.recipe)
        return losses[-1]

    @property
    def _step_tokens(self) -> int:
        return self.cell.batch * self.cell.length

    def _note(self, loss: float) -> None:
        seen = self.done * self._step_tokens
        self.curve.append((seen, loss))
        rate = self.optimiser.adamw.param_groups[0]["lr"]
        self.board.write(seen, train_loss_nat=loss, learning_rate=rate)

    # --- checkpoints ---------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """Whose training a checkpoint is: the cell, but for how often it is kept, and its texts."""
        return {"cell": replace(self.cell, checkpoint_every=None).canonical(), **self.texts}

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        tensors = optimiser_tensors(self.optimiser.adamw) | generator_tensors(self.device)
        header = {
            "of": self._identity(),
            "step": self.done,
            "curve": self.curve,
            "watch": asdict(self.watch),
            "scaler": self.optimiser.scaler.state_dict(),
        }
        meta = {
            **{name: getattr(self.cell, name) for name in CHECKPOINT_FIELDS},
            **{f"{name}_checksum": checksum for name, checksum in self.texts.items()},
            "step": self.done,
            "tokens": self.done * self._step_tokens,
            "bos_windows": self.recipe.bos_windows,
        }
        Checkpoints(self.checkpoints).save(self.done, self.model, meta, tensors, header)

    def _resume(self) -> None:
        """Go on from the last whole checkpoint, if there is one. A damaged one is set aside."""
        if self.checkpoints is None:
            return
        kept = Checkpoints(self.checkpoints)
        for step in reversed(kept.steps()):
            try:
                found = kept.read(step)
            except UserError as error:
                self.report(f"{error}; set aside as {kept.set_aside(step)}")
                continue
            self._restore(kept.path(step), *found)
            return

    def _restore(self, path: Path, weights: dict, tensors: dict, header: dict[str, Any]) -> None:
        if header["of"] != self._identity():
            raise UserError(
                f"{path} is from another training than this one (its settings or its texts "
                f"differ); remove it, or write to another folder"
            )
        self.model.load_state_dict(weights)
        restore_optimiser(self.optimiser.adamw, tensors)
        restore_generators(self.device, tensors)
        self.optimiser.scaler.load_state_dict(header["scaler"])
        self.done = header["step"]
        self.curve = [(seen, loss) for seen, loss in header["curve"]]
        self.watch = Watch(**header["watch"])
        self.batches = self._batches(self.done)
        self.report(f"goes on from {path} after step {self.done} of {self.steps}")

    # --- scoring -------------------------------------------------------------------------------

    def _context(self, kind: str | None) -> scoring.Context:
        length = self.cell.length
        stride = self.cell.stride or max(1, length // 2)
        return scoring.Context(kind=kind or "chunked", window=length, stride=stride, bos=self.bos)

    def _scores(self, live: Live) -> Iterator[Sample]:
        self.model.eval()
        with self.optimiser.autocast:
            for i, document in enumerate(self.held_out):
                yield from self._score(document)
                live.scoring(i + 1, len(self.held_out))

    def _score(self, document: ScoredDocument) -> Iterator[Sample]:
        context = self._context(self.cell.context)
        nll = scoring.token_nll(self.model, document.ids, context)
        where = {"document": document.name, "context": context.kind}
        for metric, unit, value in (
            ("document_nll_nat", "nat", nll.sum().item()),
            ("document_tokens", "tokens", document.n_tokens),
            ("document_words", "words", document.n_words),
            ("document_bytes", "bytes", document.n_bytes),
        ):
            yield Sample(metric, unit, (float(value),), SCORE, where)
        if self.cell.by_position:
            if context.kind != "carried":
                nll = scoring.token_nll(self.model, document.ids, self._context("carried"))
            parts = scoring.by_position(nll, self.cell.length)
            carried = where | {"context": "carried"}
            yield from _curve("position", "position", parts, carried)
        if self.cell.contexts:
            parts = scoring.by_context(self.model, document.ids, self.cell.contexts, self.bos)
            window = where | {"context": "window"}
            yield from _curve("context", "context_length", parts, window)


def _curve(
    name: str, coordinate: str, parts: Iterable[tuple[int, float, int]], where: Mapping[str, str]
) -> Iterator[Sample]:
    """Two samples a point of the coordinate `coordinate`: `<name>_nll_nat` and `<name>_tokens`."""
    for at, nat, tokens in parts:
        for metric, unit, value in (
            (f"{name}_nll_nat", "nat", nat),
            (f"{name}_tokens", "tokens", tokens),
        ):
            yield Sample(metric, unit, (float(value),), SCORE, {**where, coordinate: at})


def _repeatable(device: torch.device) -> None:
    """Ask CUDA for algorithms that repeat bit by bit; on CPU they do. Never run on hardware."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
