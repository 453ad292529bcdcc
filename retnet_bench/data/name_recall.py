"""Cloze of names: a short text, and whether its last word is a name that was there before.

`seen`: one of two names stands in the text. `bound`: both do, each with a thing of its own, and the
last sentence asks for one thing's. `near` and `far` have one or eight sentences in between. Items
come in twos that mirror each other, as those of `grammar`: the same words and the same neighbours
in good and bad texts.
"""

from __future__ import annotations

from collections.abc import Callable

from retnet_bench.data import grammar
from retnet_bench.data.grammar import ITEMS, SEED, Dice, Pair, Two
from retnet_bench.data.lexicon import KINDS, NAMES, PEOPLE, PLACES, STATES, THINGS

NEAR, FAR = 1, 8
"""Sentences between the name and the question."""


def _seen(dice: Dice, between: int) -> Two:
    a, b = _names(dice)
    person = dice.noun(PEOPLE)[0]
    middle = _filler(dice, between)

    def text(name: str, last: str) -> str:
        head = f"{name} came to the {place} with the {person}."
        return f"{head} {middle} In the evening the {person} thanked {last}."

    place = dice.noun(THINGS)[0]
    return Pair(text(a, a), text(a, b)), Pair(text(b, b), text(b, a))


def _bound(dice: Dice, between: int) -> Two:
    a, b = _names(dice)
    first, second = _different(dice, list(THINGS))
    head = f"The {first} was given to {a}. The {second} was given to {b}."
    middle = _filler(dice, between)

    def text(thing: str, last: str) -> str:
        return f"{head} {middle} In the evening the {thing} still belonged to {last}."

    return Pair(text(first, a), text(first, b)), Pair(text(second, b), text(second, a))


def _filler(dice: Dice, sentences: int) -> str:
    return " ".join(_sentence(dice) for _ in range(sentences))


def _sentence(dice: Dice) -> str:
    """One that names nobody."""
    place = f"{dice.one(PLACES)} the {dice.one(KINDS)} {dice.either(THINGS)}"
    return dice.one(
        (
            f"The {dice.noun(PEOPLE)[0]} {place} was {dice.one(STATES)}.",
            f"They saw the {dice.either(THINGS)} {place}.",
            f"There were many {dice.noun(PEOPLE)[1]} {place}.",
        )
    )


def _names(dice: Dice) -> tuple[str, str]:
    return _different(dice, NAMES)


def _different(dice: Dice, words: tuple[str, ...] | list[str]) -> tuple[str, str]:
    first = dice.one(words)
    return first, dice.one([word for word in words if word != first])


KINDS_OF_TEXT: dict[str, tuple[Callable[[Dice, int], Two], int]] = {
    f"{kind}_{distance}": (make, between)
    for kind, make in (("seen", _seen), ("bound", _bound))
    for distance, between in (("near", NEAR), ("far", FAR))
}


def items(name: str, n: int = ITEMS, seed: int = SEED) -> list[Pair]:
    """`n` (even) different items of a key of KINDS_OF_TEXT, mirrors side by side."""
    make, between = KINDS_OF_TEXT[name]
    place = len(grammar.PHENOMENA) + list(KINDS_OF_TEXT).index(name)
    return grammar.draw(lambda dice: make(dice, between), n, [seed, place])
