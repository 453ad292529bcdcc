"""The settings of each workload, declared once: type, range and meaning.

A study's keys, a cell's fields, the check that a workload reads what it is given and the list that
`retnet-bench list settings` prints are all made from these. They stand apart from the workloads
because a cell has to know them, and a workload a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal, get_type_hints

from pydantic import ConfigDict, Field

from retnet_bench.fields import Count, Flag, Index, Integer, Number, Once, Place, Word

MOST_TOKENS = 2**50
"""Of a training: beyond what anyone trains on, and still a whole number in any format."""
MOST_RANKS = 4096
"""Of a world along one of its dimensions."""
Ranks = Annotated[Count, Field(le=MOST_RANKS)]


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """A cell as a world of data x tensor ranks: processes that run one model together, each on a
    device of its own."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    data: Ranks = 1
    """Ranks (with `tensor`: groups of them) that take their share of each batch."""
    shard: Literal["none", "fsdp"] = "none"
    """Whether these share weights, gradients and AdamW's state (FSDP2) or hold them all (DDP)."""
    tensor: Ranks = 1
    """Ranks that share the heads, the feed-forward and the vocabulary of one model."""

    @property
    def ranks(self) -> int:
        return self.data * self.tensor

    def __str__(self) -> str:
        kind = "fsdp" if self.shard == "fsdp" else "data"
        both = [f"{kind} {self.data}"] * (self.data > 1) + [f"tensor {self.tensor}"] * (
            self.tensor > 1
        )
        return " x ".join(both) or "one rank"


ONE_RANK = Parallel()
"""A world of one: a cell that one process runs."""


@dataclass(frozen=True, kw_only=True)
class ParallelSettings:
    """Of every workload that a world of several processes can run."""

    parallel: Annotated[
        Parallel | None,
        Field(
            description="a world of data x tensor ranks, {data: N, shard: fsdp or none, tensor: "
            "M}; one process unless it is given"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Of the workload `decode`."""

    positions: Annotated[
        Count | None, Field(description="points along the sequence at which steps are timed")
    ] = None


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """Of the workload `generate`."""

    new_tokens: Annotated[
        Annotated[Count, Field(le=2**16)] | None,
        Field(description="tokens generated after a prompt of `length`; 64 by default"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Of every workload that trains."""

    dropout: Annotated[
        Annotated[Number, Field(ge=0, lt=1)] | None,
        Field(description="instead of the recipe's; none in timed training unless it is given"),
    ] = None
    micro_batch: Annotated[
        Count | None,
        Field(
            description="sequences that go through the model at once; gradients add up to `batch`"
        ),
    ] = None
    recompute: Annotated[Flag | None, Field(description="activation checkpointing")] = None


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """Of every workload that trains for what the model then can do."""

    learning_rate: Annotated[
        Annotated[Number, Field(gt=0)] | None,
        Field(
            description="peak learning rate of AdamW, or `tuned`: what the study's sweep led to; "
            "the recipe's by default"
        ),
    ] = None
    warmup_share: Annotated[
        Annotated[Number, Field(ge=0, lt=1)] | None,
        Field(
            description="share of the steps in which the learning rate rises; the recipe's by "
            "default"
        ),
    ] = None
    checkpoint_every: Annotated[
        Count | None,
        Field(description="steps between checkpoints; a tenth of the training by default"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Of every workload that learns from text."""

    token_budget: Annotated[
        Annotated[Integer, Field(gt=0, le=MOST_TOKENS)] | None,
        Field(description="tokens to train on"),
    ] = None
    tokens_per_param: Annotated[
        Annotated[Number, Field(gt=0, le=10_000)] | None,
        Field(
            description="instead of token_budget: tokens for each body parameter of the size's "
            "Transformer, in whole batches"
        ),
    ] = None
    documents: Annotated[
        Count | None, Field(description="held-out documents to score; all by default")
    ] = None
    recipe: Annotated[Word | None, Field(description="how it is trained: small or paper")] = None


@dataclass(frozen=True, kw_only=True)
class PerplexitySettings:
    """Of the workload `perplexity`, beside those of training and learning."""

    context: Annotated[
        Literal["chunked", "sliding", "carried"] | None,
        Field(
            description="what documents are scored from: chunked (by default), sliding or carried"
        ),
    ] = None
    stride: Annotated[
        Count | None,
        Field(
            description="tokens that a sliding window of `length` moves on; half of it by default"
        ),
    ] = None
    contexts: Annotated[
        Annotated[tuple[Count, ...], Once] | None,
        Field(
            min_length=1,
            max_length=100,
            description="context lengths to compare on the same tokens (Table 8)",
        ),
    ] = None
    by_position: Annotated[
        Flag | None,
        Field(description="also loss against position in the document, by carried context"),
    ] = None
    score_corpus: Annotated[
        Place | None,
        Field(description="corpus whose held-out documents are scored; `corpus` by default"),
    ] = None
    score_split: Annotated[
        Literal["valid", "test"] | None,
        Field(
            description="held-out documents to score: valid (by default), or test (what is tuned)"
        ),
    ] = None
    ar_hits: Annotated[
        Count | None,
        Field(
            description="also score tokens apart that end a bigram seen before in their context "
            "and at most so many times in the training text (Zoology: 1250)"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CorpusLimits:
    """Of every workload that learns from text: what a plan is held to. It decides nothing of what
    is run, so no cell has it."""

    max_epochs: Annotated[
        Annotated[Number, Field(gt=0)] | None,
        Field(
            description="most times that training may read the corpus; 4 with tokens_per_param, "
            "else any number by default"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """Of the workload `recall`, beside those of training and learning."""

    steps: Annotated[Count | None, Field(description="training steps of `batch` new sequences")] = (
        None
    )
    train_pairs: Annotated[
        Annotated[tuple[Count, ...], Once] | None,
        Field(
            min_length=1,
            max_length=100,
            description="numbers of pairs to train on, one drawn for each step",
        ),
    ] = None
    test_pairs: Annotated[
        Annotated[tuple[Count, ...], Once] | None,
        Field(
            min_length=1,
            max_length=100,
            description="numbers of pairs to test with; `train_pairs` by default",
        ),
    ] = None
    test_sequences: Annotated[
        Count | None,
        Field(description="sequences to test on, and as many to validate on; 500 by default"),
    ] = None
    vocabulary: Annotated[
        Count | None,
        Field(description="tokens of the task, half of them keys, half values; 1024 by default"),
    ] = None
    filler: Annotated[
        Literal["zero", "random"] | None,
        Field(description="what stands between queries: zero (by default), or random tokens"),
    ] = None
    rounds: Annotated[
        Annotated[Count, Field(le=512)] | None,
        Field(
            description="times that the mixer (of a pattern: all its entries) stands in the model; "
            "as many as the size's layers by default"
        ),
    ] = None
    key_dim: Annotated[
        Count | None,
        Field(description="key dimension of every arm's heads, instead of its option head_dim"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DownstreamSettings:
    """Of the workload `downstream`."""

    task: Annotated[
        Word | None, Field(description="a task of lm-eval, or a list such as grammar")
    ] = None
    shots: Annotated[
        Index | None,
        Field(
            description="solved examples in front of a question; the task's own number by default"
        ),
    ] = None
    limit: Annotated[
        Count | None, Field(description="first documents of the task to take; all by default")
    ] = None
    include: Annotated[Place | None, Field(description="folder of the user's own task files")] = (
        None
    )


EVERY = (
    ParallelSettings,
    DecodeSettings,
    GenerateSettings,
    TrainingSettings,
    LearningSettings,
    TextSettings,
    PerplexitySettings,
    CorpusLimits,
    RecallSettings,
    DownstreamSettings,
)


@cache  # a plan asks for each of its cells
def meanings(settings: type) -> dict[str, str]:
    """The settings of a class above by name, in its order."""
    declared = get_type_hints(settings, include_extras=True)
    return {name: kind.__metadata__[-1].description for name, kind in declared.items()}
