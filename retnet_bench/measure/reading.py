"""A measured value, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

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
