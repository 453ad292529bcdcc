"""A cell: one fully resolved point of a study, immutable, with an id of its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from retnet_bench.models.config import size
from retnet_bench.models.pairs import Matched, match
from retnet_bench.workloads.recipe import DEFAULT_RECIPE, RECIPES, Recipe


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Everything that decides what is run. How it is timed is the protocol's, not the cell's.

    ARM_FIELDS may differ between the arms of a pair; all others are their contract.
    """

    workload: str
    arm: str
    mixer: str
    kernel: str
    size: str
    family: str
    match: str
    batch: int
    length: int
    dtype: str
    mode: str
    device: str
    threads: int
    corpus: str
    tokenizer: str
    vocab_size: int
    seed: int
    measure: tuple[str, ...]
    """What is taken: time, memory."""
    chunk: int = 128
    decay: str | None = None
    gate: bool | None = None
    head_norm: str | None = None
    head_dim: int | None = None
    arm_family: str | None = None
    """The arm's own block family, where it is not the pair's `family`."""
    positions: int | None = None
    """Decode: points along the sequence at which steps are timed."""
    token_budget: int | None = None
    """Perplexity: tokens to train on."""
    learning_rate: float | None = None
    """Perplexity: peak learning rate of AdamW."""
    documents: int | None = None
    """Perplexity: held-out documents to score; all when None."""
    recipe: str | None = None
    """Perplexity: row of RECIPES; DEFAULT_RECIPE when None."""
    dropout: float | None = None
    """Training: instead of the recipe's; none in timed training when None."""
    micro_batch: int | None = None
    """Training: sequences that go through the model at once; gradients add up to `batch`."""
    recompute: bool | None = None
    """Training: activation checkpointing."""
    checkpoint_every: int | None = None
    """Perplexity: steps between checkpoints; a tenth of the training when None."""
    context: str | None = None
    """Perplexity: what documents are scored from: chunked (when None), sliding or carried."""
    stride: int | None = None
    """Perplexity: tokens a sliding window of `length` moves on; half of it when None."""
    contexts: tuple[int, ...] | None = None
    """Perplexity: context lengths to compare on the same tokens (Table 8)."""
    by_position: bool | None = None
    """Perplexity: also loss against position in the document, by carried context."""
    score_corpus: str | None = None
    """Perplexity: corpus whose held-out documents are scored; `corpus` when None."""
    checkpoint: str | None = None
    """Downstream: folder of the arm's trained model."""
    weights: str | None = None
    """Downstream: checksum of what is in it, so that other weights make another cell."""
    task: str | None = None
    """Downstream: a task of lm-eval."""
    shots: int | None = None
    """Downstream: solved examples in front of each question; the task's own number when None."""
    limit: int | None = None
    """Downstream: first documents of the task to take; all when None."""
    include: str | None = None
    """Downstream: folder of the user's own task files."""
    tokenizer_checksum: str | None = None
    """Downstream: of a tokenizer.json, whose name says nothing; None for the built-in ones."""

    ARM_FIELDS: ClassVar[tuple[str, ...]] = (
        "arm",
        "mixer",
        "kernel",
        "chunk",
        "decay",
        "gate",
        "head_norm",
        "head_dim",
        "checkpoint",
        "weights",
        "arm_family",
    )

    def canonical(self, without: tuple[str, ...] = ()) -> str:
        """Sorted JSON without the fields that are not set, so that a new optional field leaves
        old ids as they are."""
        values = {k: v for k, v in asdict(self).items() if v is not None and k not in without}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @property
    def cell_id(self) -> str:
        return _hash(self.canonical())

    @property
    def pair_id(self) -> str:
        """Equal for cells that differ in the arm only: speed ratios exist only inside it."""
        return _hash(self.canonical(without=self.ARM_FIELDS))

    @property
    def name(self) -> str:
        """Short words for a progress line."""
        return f"{self.workload} {self.size} {self.arm} length {self.length} batch {self.batch}"

    @property
    def block_family(self) -> str:
        return self.arm_family or self.family

    def matched(self) -> Matched:
        """The model config, sized to equal the reference Transformer. Raises UserError."""
        return match(
            self.size,
            self.mixer,
            family=self.block_family,
            vocab_size=self.vocab_size,
            by=self.match,
            length=self.length,
            kernel=self.kernel,
            chunk=self.chunk,
            decay=self.decay,
            gate=self.gate,
            head_norm=self.head_norm,
            head_dim=self.head_dim,
            dropout=self.settings.dropout,
        )

    @property
    def settings(self) -> Recipe:
        """The recipe with the cell's own dropout. Timed training has none unless told."""
        recipe = RECIPES[self.recipe or DEFAULT_RECIPE]
        return recipe if self.dropout is None else replace(recipe, dropout=self.dropout)

    def peak_learning_rate(self) -> float | None:
        """Peak of the schedule in a perplexity cell: its own, or the recipe's for its width."""
        if self.workload != "perplexity":
            return None
        return self.learning_rate or self.settings.learning_rate(size(self.size).d_model)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
