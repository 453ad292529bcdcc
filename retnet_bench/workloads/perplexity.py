"""Perplexity: train on a token budget of real text, then score held-out documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from retnet_bench.base import UserError
from retnet_bench.data import (
    ScoredDocument,
    bigrams,
    count_windows,
    documents,
    encode_split,
    load_corpus,
    train_batches,
)
from retnet_bench.data.corpora import Split
from retnet_bench.workloads import scoring
from retnet_bench.workloads.base import SCORE, WORKLOADS, Sample
from retnet_bench.workloads.learning import Learning
from retnet_bench.workloads.progress import Live
from retnet_bench.workloads.settings import (
    CorpusLimits,
    ParallelSettings,
    PerplexitySettings,
    TextSettings,
)

ALONE = (
    "one reading of the whole training, alone: not timed by the protocol, so no speed to compare"
)
"""Of a training's speed."""


@WORKLOADS.register("perplexity")
class Perplexity(Learning):
    """Documents' negative log-likelihoods after training on `token_budget` tokens."""

    phase = "perplexity"
    settings = (
        *Learning.settings,
        TextSettings,
        PerplexitySettings,
        CorpusLimits,
        ParallelSettings,
    )

    def planned_steps(self) -> int:
        cell = self.cell
        return max(1, round((cell.token_budget or 0) / (cell.batch * cell.length)))

    def load(self) -> None:
        cell = self.cell
        corpus, tokenizer = self.read_corpus()
        self.bos = tokenizer.bos_id if self.recipe.bos_windows else None
        scored = corpus
        if cell.score_corpus:
            scored = load_corpus(cell.score_corpus)
            self.texts["score_corpus"] = scored.checksum
        self.held_out = documents(scored, self.split, tokenizer, cell.documents)
        scoring.check_contexts(self.held_out, cell.contexts or ())
        self.stream = encode_split(corpus, "train", tokenizer)
        windows = count_windows(self.stream, cell.length)
        if 1 <= windows < cell.batch:
            raise UserError(
                f'corpus "{cell.corpus}" has {windows} windows of {cell.length} tokens to train '
                f"on, fewer than one batch of {cell.batch}; take a smaller batch or a larger corpus"
            )
        if cell.ar_hits is not None:
            self.frequent = bigrams.frequent(self.stream, cell.vocab_size, cell.ar_hits)

    @property
    def split(self) -> Split:
        """Whose documents are scored."""
        return "test" if self.cell.score_split == "test" else "valid"

    def batches_from(self, start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        cell = self.cell
        return train_batches(self.stream, cell.batch, cell.length, cell.seed, start, self.bos)

    def scored_from(self, kind: str | None) -> scoring.Context:
        length = self.cell.length
        stride = self.cell.stride or max(1, length // 2)
        return scoring.Context(kind=kind or "chunked", window=length, stride=stride, bos=self.bos)

    def scores(self, live: Live) -> Iterator[Sample]:
        yield from self.trained()
        for i, document in enumerate(self.held_out):
            yield from self._score(document)
            live.scoring(i + 1, len(self.held_out))

    def trained(self) -> Iterator[Sample]:
        """On how much it was trained, and how fast that went."""
        trained = float(self.steps * self._step_tokens)
        epoch = count_windows(self.stream, self.cell.length) * self.cell.length
        yield Sample("tokens_trained", "tokens", (trained,), "train")
        yield Sample("epochs", "epochs", (trained / epoch,), "train")
        if self.seconds > 0:
            rate = trained / self.seconds
            yield Sample("training_tokens_per_second", "tokens/s", (rate,), "train", note=ALONE)

    def _score(self, document: ScoredDocument) -> Iterator[Sample]:
        context = self.scored_from(self.cell.context)
        nll = scoring.token_nll(self.model, document.ids, context)
        where = {"document": document.name, "context": context.kind}
        for metric, unit, value in (
            ("document_nll_nat", "nat", nll.sum().item()),
            ("document_tokens", "tokens", document.n_tokens),
            ("document_words", "words", document.n_words),
            ("document_bytes", "bytes", document.n_bytes),
        ):
            yield Sample(metric, unit, (float(value),), SCORE, where)
        if self.cell.ar_hits is not None:
            yield from self._ar_hits(document, nll, context, where)
        if self.cell.by_position:
            if context.kind != "carried":
                nll = scoring.token_nll(self.model, document.ids, self.scored_from("carried"))
            parts = scoring.by_position(nll, self.cell.length)
            carried = where | {"context": "carried"}
            yield from _curve("position", "position", parts, carried)
        if self.cell.contexts:
            parts = scoring.by_context(self.model, document.ids, self.cell.contexts, self.bos)
            window = where | {"context": "window"}
            yield from _curve("context", "context_length", parts, window)

    def _ar_hits(
        self,
        document: ScoredDocument,
        nll: torch.Tensor,
        context: scoring.Context,
        where: Mapping[str, str],
    ) -> Iterator[Sample]:
        """The same nats and tokens in two parts: AR hits, and all other tokens."""
        hits = scoring.ar_hits(document.ids, context, self.frequent, self.cell.vocab_size)
        for name, part in (("ar_hit", nll[hits]), ("ar_other", nll[~hits])):
            yield Sample(f"{name}_nll_nat", "nat", (part.sum().item(),), SCORE, where)
            yield Sample(f"{name}_tokens", "tokens", (float(len(part)),), SCORE, where)


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
