"""The largest batch or length that fits into a machine's memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from retnet_bench.predict.footprint import Step, footprint
from retnet_bench.results.numbers import size_bytes

LENGTH_STEP = 128
"""Lengths that would fit are given in multiples of this."""


def largest(step: Step, limit: int) -> str:
    """In words: the largest batch that fits into `limit` bytes, or, where not even one sequence
    does, the largest length."""
    batch = _largest_batch(step, limit)
    if batch:
        return f"batch {batch} would fit"
    length = _largest_length(replace(step, batch=1), limit)
    if length:
        return f"length {length} at batch 1 would fit"
    least = footprint(replace(step, batch=1, length=min(step.length, LENGTH_STEP))).peak_bytes
    return f"no batch or length would: at least {size_bytes(least)}"


def _largest_batch(step: Step, limit: int) -> int:
    """Of a step that does not fit; 0 where not even one sequence does. A line through two and three
    sequences tells about where (one alone spares some copies); runs tell exactly."""

    def fits(batch: int) -> bool:
        return footprint(replace(step, batch=batch)).peak_bytes <= limit

    step = replace(step, micro_batch=None)
    if step.batch == 1 or not fits(1):
        return 0
    two, three = (footprint(replace(step, batch=n)).peak_bytes for n in (2, 3))
    return _last(fits, 1, step.batch, 2 + (limit - two) // max(1, three - two))


def _largest_length(step: Step, limit: int) -> int:
    """A multiple of LENGTH_STEP below the step's own length, which does not fit; 0 where none does.
    A quadratic through three lengths tells about where; runs tell exactly."""

    def peak(steps: int) -> int:
        return footprint(replace(step, length=steps * LENGTH_STEP)).peak_bytes

    whole = -(-step.length // LENGTH_STEP)
    if whole < 2 or peak(1) > limit:
        return 0
    known = sorted({1, max(1, whole // 4), max(1, whole // 2), whole})[-3:]
    peaks = [peak(n) for n in known]
    guess = next((n for n in range(whole, 1, -1) if _through(known, peaks, n) <= limit), 1)
    return LENGTH_STEP * _last(lambda n: peak(n) <= limit, 1, whole, guess)


def _last(fits: Callable[[int], bool], low: int, high: int, guess: int) -> int:
    """The last n that fits: `low` does, `high` does not; tried first at and around `guess`."""
    tries = [guess, guess + 1, guess - 1]
    while high - low > 1:
        n = tries.pop(0) if tries else (low + high) // 2
        if low < n < high:
            low, high = (n, high) if fits(n) else (low, n)
    return low


def _through(xs: list[int], ys: list[int], x: int) -> float:
    """The quadratic through three points, at x (Lagrange)."""
    total = 0.0
    for i, y in enumerate(ys):
        others = [other for j, other in enumerate(xs) if j != i]
        total += y * math.prod((x - other) / (xs[i] - other) for other in others)
    return total
