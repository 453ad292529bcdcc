"""A cell: one fully resolved point of a study, immutable, with an id of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from retnet_bench.base import short_hash
from retnet_bench.models.config import size
from retnet_bench.models.pairs import Matched, match
from retnet_bench.workloads.recipe import DEFAULT_RECIPE, RECIPES, Recipe
from retnet_bench.workloads.settings import (
    DecodeSettings,
    DownstreamSettings,
    PerplexitySettings,
    TrainingSettings,
)


@dataclass(frozen=True, kw_only=True)
class Cell(DecodeSettings, TrainingSettings, PerplexitySettings, DownstreamSettings):
    """Everything that decides what is run. How it is timed is the protocol's, not the cell's.

    Settings of other workloads than its own are None. ARM_FIELDS may differ between the arms of a
    pair; all others are their contract.
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
    checkpoint: str | None = None
    """Downstream: folder of the arm's trained model."""
    weights: str | None = None
    """Downstream: checksum of what is in it, so that other weights make another cell."""
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
        return short_hash(self.canonical())

    @property
    def pair_id(self) -> str:
        """Equal for cells that differ in the arm only: speed ratios exist only inside it."""
        return short_hash(self.canonical(without=self.ARM_FIELDS))

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
            dropout=self.training_recipe.dropout,
        )

    @property
    def training_recipe(self) -> Recipe:
        """The recipe with the cell's own dropout. Timed training has none unless told."""
        recipe = RECIPES[self.recipe or DEFAULT_RECIPE]
        return recipe if self.dropout is None else replace(recipe, dropout=self.dropout)

    def peak_learning_rate(self) -> float | None:
        """Peak of the schedule in a perplexity cell: its own, or the recipe's for its width."""
        if self.workload != "perplexity":
            return None
        return self.learning_rate or self.training_recipe.learning_rate(size(self.size).d_model)
