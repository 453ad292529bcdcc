"""The ground every room stands on: user-facing errors and registries with suggestions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake the user can mend. Its message is the one line they see; exit code 2."""


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """`; did you mean "x"?` for a near miss, else `; choose from a, b, c`."""
    known = sorted(choices)
    same = [choice for choice in known if choice.lower() == str(word).lower()]
    close = same or difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; choose from {', '.join(known)}" if known else ""


class Registry(Generic[T]):
    """Named things of one kind, in the order they were added."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        assert name not in self._items, f"{self.kind} {name!r} is registered twice"
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add`."""
        return lambda item: self.add(name, item)

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            raise UserError(
                f'unknown {self.kind} "{name}"{did_you_mean(name, self._items)}'
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def items(self) -> Iterable[tuple[str, T]]:
        return self._items.items()
