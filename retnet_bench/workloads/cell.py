"""A cell: one fully resolved point of a study, immutable, with an id of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from retnet_bench.base import UserError, short_hash
from retnet_bench.fields import problem
from retnet_bench.kernels import Setting, best
from retnet_bench.models.agreement import DTYPES
from retnet_bench.models.config import size
from retnet_bench.models.matching import Matched, match, probe
from retnet_bench.models.mixers.base import HeadOptions
from retnet_bench.models.options import MixerOptions, names, read
from retnet_bench.models.pattern import AUTO, LayerChoice, opened, options_of
from retnet_bench.workloads.recipe import RECIPES, Recipe, default_recipe
from retnet_bench.workloads.settings import (
    DecodeSettings,
    DownstreamSettings,
    GenerateSettings,
    LearningSettings,
    PerplexitySettings,
    RecallSettings,
    TextSettings,
    TrainingSettings,
)

LEARNING = ("perplexity", "tune", "recall")
"""Workloads that train for what the model then can do."""
IN_EVERY_CELL = {"chunk": 128}
"""In the JSON of every cell, whatever its mixer: ids were made with it before options were each
mixer's own. Not where the mixer has an option of this name."""


@dataclass(frozen=True, kw_only=True)
class Cell(
    DecodeSettings,
    GenerateSettings,
    TrainingSettings,
    LearningSettings,
    TextSettings,
    PerplexitySettings,
    RecallSettings,
    DownstreamSettings,
):
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
    options: MixerOptions
    """The mixer's own, as the arm says them: of its class `Options`."""
    open: tuple[str, ...] | None = None
    """Of kernel and chunk, what is chosen by measurement where the cell runs; `kernel` and
    `options` hold what stands in for it. Of a pattern each entry says its own."""
    layers: tuple[LayerChoice, ...] | None = None
    """A pattern of mixers that repeats over the depth; `mixer` is then HYBRID, and `kernel` joins
    those of its entries."""
    arm_family: str | None = None
    """The arm's own block family, where it is not the pair's `family`."""
    tuned: str | None = None
    """Settings, joined by ", ", that each arm of the pair has from its own sweep: they are no part
    of what the arms have in common."""
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
        "options",
        "open",
        "layers",
        "checkpoint",
        "weights",
        "arm_family",
    )

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Cell:
        """The cell whose canonical JSON this was read from. UserError for a field that this version
        lacks (left out, it would make another cell) and for a value that a field does not take."""
        kind = options_of(str(raw.get("mixer")))
        own = _option_names(kind)  # type: ignore[arg-type]  # mypy: a dataclass's type has a hash
        raw = {k: v for k, v in raw.items() if k in own or IN_EVERY_CELL.get(k) != v}
        known = own | {field.name for field in fields(cls)} - {"options"}
        if unknown := raw.keys() - known:
            raise UserError(f"this revision does not know the setting {', '.join(sorted(unknown))}")
        left = opened(raw)
        options = read(kind, {k: v for k, v in raw.items() if k in own and k not in left})
        others = {k: v for k, v in raw.items() if k not in own}
        if isinstance(others.get("layers"), list):
            others["layers"] = tuple(map(LayerChoice.read, others["layers"]))
            if any(entry.open for entry in others["layers"]):
                others["kernel"] = _joined(others["layers"])
        elif left:
            one = {"kernel": raw.get("kernel"), **options.given(), **dict.fromkeys(left, AUTO)}
            entry = LayerChoice.read({"mixer": raw.get("mixer"), **one})
            others |= {"kernel": entry.kernel, "open": left}
        try:
            return _adapter().validate_python({**others, "options": options})
        except ValidationError as error:
            raise UserError(f"a cell's {problem(error, lambda _: [])}") from None

    def canonical(self, without: tuple[str, ...] = ()) -> str:
        """Sorted JSON without the fields that are not set, so that a new optional field leaves
        old ids as they are. The mixer's options stand among the other fields."""
        values = {k: v for k, v in vars(self).items() if v is not None and k not in without}
        if "options" in values:
            kind: type = type(self.options)
            own = _option_names(kind)
            values |= {k: v for k, v in IN_EVERY_CELL.items() if k not in own}
            values |= values.pop("options").given()
        values |= dict.fromkeys(values.pop("open", ()), AUTO)
        if "layers" in values:
            values["layers"] = [entry.flat() for entry in values["layers"]]
            values["kernel"] = self.asked_kernel
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @property
    def cell_id(self) -> str:
        return short_hash(self.canonical())

    @property
    def pair_id(self) -> str:
        """Equal for cells that differ in the arm only: speed ratios exist only inside it."""
        own = self.tuned.split(", ") if self.tuned else ()
        return short_hash(self.canonical(without=(*self.ARM_FIELDS, *own)))

    @property
    def name(self) -> str:
        """Short words for a progress line."""
        return f"{self.workload} {self.size} {self.arm} length {self.length} batch {self.batch}"

    @property
    def block_family(self) -> str:
        return self.arm_family or self.family

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels of its layers."""
        entries = self.layers or ()
        return tuple(dict.fromkeys(entry.kernel for entry in entries)) or (self.kernel,)

    @property
    def asked_kernel(self) -> str:
        """The kernel, or the kernels of its layers, as the study says them: AUTO where it is
        open."""
        asked = (AUTO if "kernel" in entry.open else entry.kernel for entry in self.entries)
        return "+".join(dict.fromkeys(asked))

    @property
    def entries(self) -> tuple[LayerChoice, ...]:
        """Its pattern; the one mixer of a cell without one."""
        one = LayerChoice(
            mixer=self.mixer, kernel=self.kernel, options=self.options, open=self.open or ()
        )
        return self.layers or (one,)

    @property
    def is_open(self) -> bool:
        """Whether something is left to be chosen by measurement."""
        return any(entry.open for entry in self.entries)

    def taking(self, entries: tuple[LayerChoice, ...]) -> Cell:
        """The cell with these as its `entries`."""
        if self.layers:
            return replace(self, layers=entries, kernel=_joined(entries))
        (one,) = entries
        return replace(self, kernel=one.kernel, options=one.options, open=one.open or None)

    def matched(self) -> Matched:
        """The model config, sized to equal the reference Transformer, or as `recall` has it. Raises
        UserError."""
        if self.workload == "recall":
            return self._probe()
        one: dict[str, Any] = {"kernel": self.kernel, "options": self.options}
        return match(
            self.size,
            self.mixer,
            family=self.block_family,
            vocab_size=self.vocab_size,
            by=self.match,
            length=self.length,
            element_bytes=DTYPES[self.dtype].itemsize,
            layers=self.layers or (),
            dropout=self.training_recipe.dropout,
            **({} if self.layers else one),
        )

    def _probe(self) -> Matched:
        convolution = best("short_conv", Setting(self.device, self.dtype, mode=self.mode))
        return probe(
            self.size,
            tuple(_with_key_dim(entry, self.key_dim) for entry in self.entries),
            LayerChoice(
                mixer="gated_conv", kernel=convolution.name, options=options_of("gated_conv")()
            ),
            self.rounds,
            family=self.block_family,
            vocab_size=self.vocab_size,
            dropout=self.training_recipe.dropout,
        )

    @property
    def training_recipe(self) -> Recipe:
        """The recipe with the cell's own dropout and warm-up. Timed training has no dropout unless
        told."""
        recipe = RECIPES[self.recipe or default_recipe(self.workload)]
        if self.warmup_share is not None:
            recipe = replace(recipe, warmup_share=self.warmup_share, warmup_steps=None)
        return recipe if self.dropout is None else replace(recipe, dropout=self.dropout)

    def peak_learning_rate(self) -> float | None:
        """Peak of the schedule of a training for quality: the cell's, or the recipe's by width."""
        if self.workload not in LEARNING:
            return None
        return self.learning_rate or self.training_recipe.learning_rate(size(self.size).d_model)


def _joined(entries: tuple[LayerChoice, ...]) -> str:
    """What stands for the kernel of a pattern."""
    return "+".join(dict.fromkeys(entry.kernel for entry in entries))


def _with_key_dim(entry: LayerChoice, key_dim: int | None) -> LayerChoice:
    """The same with that key dimension of a head. UserError for a mixer that has no such option, or
    that is told another."""
    if key_dim is None:
        return entry
    if not isinstance(entry.options, HeadOptions):
        raise UserError(f"mixer {entry.mixer} has no option head_dim, which key_dim would set")
    if entry.options.head_dim not in (None, key_dim):
        raise UserError(f"key_dim is {key_dim}, but the arm says head_dim {entry.options.head_dim}")
    return replace(entry, options=replace(entry.options, head_dim=key_dim))


@cache
def _option_names(kind: type) -> frozenset[str]:
    """Names of a mixer's options. UserError for one that a cell has a field of: in its JSON they
    stand side by side."""
    own = frozenset(names(kind))
    if taken := own & {field.name for field in fields(Cell)}:
        raise UserError(f"{kind.__name__}: a cell has a field {min(taken)}; rename the option")
    return own


@cache
def _adapter() -> TypeAdapter[Cell]:
    return TypeAdapter(Cell)
