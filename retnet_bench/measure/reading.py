"""A measured value, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Reading(Generic[T]):
    """Exactly one of `value` and `reason` is None: what is unknown is never 0 and never silent."""

    value: T | None
    reason: str | None = None

    def __post_init__(self) -> None:
        assert (self.value is None) != (self.reason is None), self

    @classmethod
    def missing(cls, reason: str) -> Reading[T]:
        """No value, because of `reason`."""
        return cls(None, reason)


class Series(NamedTuple):
    """Values of one metric in the order they were taken; none, with the reason, when unknown."""

    metric: str
    unit: str
    values: tuple[float, ...]
    reason: str | None = None

    @classmethod
    def of(cls, metric: str, unit: str, reading: Reading[float]) -> Series:
        """One value, or why there is none."""
        values = () if reading.value is None else (float(reading.value),)
        return cls(metric, unit, values, reading.reason)


def unreported(series: Iterable[Series], reported: set[tuple[str, str]]) -> list[Series]:
    """`series` without those whose reason for lacking a value is in `reported` already, which grows
    by the others'.

    What a machine can't count it can't count in any block: one row says it.
    """
    kept = []
    for one in series:
        if one.reason is None or (one.metric, one.reason) not in reported:
            kept.append(one)
        if one.reason is not None:
            reported.add((one.metric, one.reason))
    return kept
