"""Multi-query associative recall (MQAR), made from a seed: arXiv:2312.04927, section 4 and App. E.

A sequence is D pairs of a key and its value, and then each key once more, among filler; the target
where a key comes again is its value. Of V tokens 0 is filler, 1 .. V/2 - 1 are keys, the others are
values; keys and values of a sequence are drawn without replacement. Behind the pairs lie slots
j = 0, 1, ... of two tokens; D of them are drawn without replacement with p(j) in proportion to
(j + 1)^(SLOT_POWER - 1), and key i stands at the beginning of its own.

As `multiquery_ar` of HazyResearch/zoology does it (d88d6f54), but for its defects: here all comes
from one seed, and random filler never repeats a key of its sequence, whose target it would ask for
without saying so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal, NamedTuple

import numpy as np

from retnet_bench.base import UserError

SLOT_POWER = 0.01
"""Zoology's a: 1 would draw all slots alike. So near 0, of 4 pairs in 64 tokens one key comes again
at once in 72 % of the sequences, so that a short memory answers some queries."""
Split = Literal["train", "valid", "test"]
_STREAMS: dict[Split, int] = {"train": 0, "valid": 1, "test": 2}
"""First word of each split's seeds, so that no two splits have a sequence from the same draw."""


class Queries(NamedTuple):
    """Sequences and what they are asked, int64: `inputs` (B, T), `positions` (B, D) of the keys
    that come again, in the order in which the pairs stand, and `targets` (B, D), their values."""

    inputs: np.ndarray
    positions: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Mqar:
    """The task at one vocabulary and length. UserError where they don't go together."""

    vocabulary: int
    length: int
    filler: Literal["zero", "random"] = "zero"
    """`random`: any token of the vocabulary but the keys of the sequence."""

    def __post_init__(self) -> None:
        if self.length % 2:
            raise UserError(f"length {self.length} is odd; pairs and slots have two tokens each")
        if self.vocabulary <= self.length:
            raise UserError(
                f"vocabulary {self.vocabulary} is too small for length {self.length}; "
                f"it must be above the length"
            )

    def check(self, pairs: int) -> None:
        """UserError where a sequence has no room for so many pairs and their queries."""
        if pairs < 1:
            raise UserError(f"a sequence has at least one pair, not {pairs}")
        if 4 * pairs > self.length:
            raise UserError(
                f"{pairs} pairs don't fit in length {self.length}: each pair needs 4 tokens, "
                f"so take at most {self.length // 4} pairs, or a length of {4 * pairs}"
            )

    def draw(self, random: np.random.Generator, n: int, pairs: int) -> Queries:
        """`n` sequences of that many pairs. UserError as `check`."""
        self.check(pairs)
        half = self.vocabulary // 2
        keys = 1 + _without_replacement(random, n, pairs, half - 1)
        values = half + _without_replacement(random, n, pairs, self.vocabulary - half)
        slots = (self.length - 2 * pairs) // 2
        power_law = np.arange(1.0, slots + 1) ** (SLOT_POWER - 1)
        chosen = _without_replacement(random, n, pairs, slots, power_law)
        positions = 2 * pairs + 2 * chosen
        if self.filler == "zero":
            inputs = np.zeros((n, self.length), np.int64)
        else:
            inputs = _none_of(random, keys, self.vocabulary, self.length)
        inputs[:, 0 : 2 * pairs : 2] = keys
        inputs[:, 1 : 2 * pairs : 2] = values
        np.put_along_axis(inputs, positions, keys, axis=1)
        return Queries(inputs, positions, values)

    def training(
        self, seed: int, batch: int, pairs: tuple[int, ...], start: int = 0
    ) -> Iterator[Queries]:
        """Endless batches of new sequences, each with as many pairs as one of `pairs`, drawn for
        the batch. `start`: batches to leave out, so that training goes on where it stopped."""
        for step in count(start):
            random = np.random.default_rng([_STREAMS["train"], seed, step])
            yield self.draw(random, batch, pairs[random.integers(len(pairs))])

    def held_out(self, split: Split, n: int, pairs: int) -> Queries:
        """The first `n` sequences of a split, the same for every model and seed of training."""
        random = np.random.default_rng([_STREAMS[split], pairs])
        return self.draw(random, n, pairs)


def _without_replacement(
    random: np.random.Generator, n: int, k: int, among: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """(n, k) places 0 .. among - 1 in the order in which they are drawn one by one, with
    probability in proportion to `weights` (among,), or alike.

    Whose exponential time of that rate comes first is drawn first (Efraimidis and Spirakis 2006);
    where all rates are alike any numbers give the order.
    """
    shape = (n, among)
    if weights is None:
        times = random.random(shape, np.float32)
    else:
        times = random.standard_exponential(shape) / weights
    first = np.argpartition(times, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(times, first, axis=1), axis=1)
    return np.take_along_axis(first, order, axis=1)


def _none_of(
    random: np.random.Generator, refused: np.ndarray, vocabulary: int, length: int
) -> np.ndarray:
    """(n, length) tokens, uniform over those that are none of the row's `refused` (n, D)."""
    n, D = refused.shape
    free = np.sort(refused, axis=1) - np.arange(D)  # tokens allowed below each refused one
    drawn = random.integers(vocabulary - D, size=(n, length))
    rows = vocabulary * np.arange(n)[:, None]  # one ascending list for all rows
    below = np.searchsorted((free + rows).ravel(), drawn + rows, side="right")
    return drawn + below.reshape(n, length) - D * np.arange(n)[:, None]
