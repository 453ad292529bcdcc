"""The ground every room stands on: user-facing errors, text made printable, registries with
suggestions."""

from __future__ import annotations

import difflib
import hashlib
import logging
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Generic, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake the user can mend. Its message is the one line they see; exit code 2."""


class PackageMissing(UserError):
    """Of a part of what was asked for, which can be left out."""


@contextmanager
def located(place: str) -> Iterator[None]:
    """A UserError raised within says the place first."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


UNPRINTABLE = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
"""Unicode categories that no output may contain: control and format characters (escape sequences,
changes of writing direction), lone surrogates, noncharacters, and line ends other than "\\n"."""
QUOTED_LENGTH = 80
"""Characters of a user's value that a message repeats."""
LISTED_LENGTH = 240
"""Characters of a list of choices."""


def printable(value: object, most: int | None = None, keep: str = "") -> str:
    """`value` as text that is safe for a terminal, SVG and XML: what is unprintable is written as
    its escape (`\\n`, `\\x1b`, `\\u202e`), except for the characters in `keep`. Longer than `most`
    characters, it is cut and ends in "..."."""
    text = str(value)
    if most is not None and len(text) > most:
        text = text[: most - 3] + "..."
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if char in keep or unicodedata.category(char) not in UNPRINTABLE
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def quoted(value: object) -> str:
    """A user's value as a message repeats it: on one line, printable, shortened."""
    return printable(value, QUOTED_LENGTH)


def short_hash(text: str) -> str:
    """16 hex digits of the SHA-256 of `text`: the id of a cell, from its canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_SUFFIX = {"k": 1e3, "M": 1e6, "B": 1e9}


def natural(text: str) -> tuple[float, str]:
    """A key that sorts `0.8M` before `3M`, `512` before `4096` and names after numbers."""
    number, factor = (text[:-1], _SUFFIX[text[-1]]) if text[-1:] in _SUFFIX else (text, 1.0)
    try:
        value = factor * float(number)
    except ValueError:
        return math.inf, text
    return (math.inf if math.isnan(value) else value), text


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """`; did you mean "x"?` for a near miss, else `; choose from a, b, c`, shortened."""
    known = sorted(choices, key=natural)
    word = str(word)[:QUOTED_LENGTH]  # the comparison is quadratic in the length
    same = [choice for choice in known if choice.lower() == word.lower()]
    close = same or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; choose from {_listed(known)}" if known else ""


def _listed(words: list[str]) -> str:
    """The first words, and one at least."""
    whole = ", ".join(words)
    most = max(LISTED_LENGTH, len(words[0]))
    return whole if len(whole) <= most else f"{whole[:most]}..."


@cache
def warn_once(words: str) -> None:
    """A line on stderr, once however often what it is about is read."""
    logging.getLogger("retnet_bench").warning(words)


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
                f'unknown {self.kind} "{quoted(name)}"{did_you_mean(name, self._items)}'
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def items(self) -> Iterable[tuple[str, T]]:
        return self._items.items()

    def add_entry_points(self, group: str) -> None:
        """Add what installed packages offer as entry points of `group`, by their names. UserError
        for one that can't be loaded or has a name that is taken."""
        from importlib import metadata  # slow, and few commands need it

        for entry in metadata.entry_points(group=group):
            package = entry.dist.name if entry.dist else "a package"
            where = f"{printable(package)}, entry point {group}: {quoted(entry.name)}"
            if entry.name in self:
                raise UserError(f"{where}: there is a {self.kind} of this name already")
            try:
                self.add(entry.name, entry.load())
            except Exception as error:
                raise UserError(
                    f"{where}: can't be loaded: {printable(error, 200)}; mend or uninstall it"
                ) from error
