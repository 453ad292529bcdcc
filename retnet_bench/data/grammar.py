"""Minimal pairs: two sentences that differ in a word or two, one of them ungrammatical.

Made by a small grammar from a seed, a phenomenon each, after the paradigms of BLiMP
(arXiv:1912.00582) and of Linzen et al. (arXiv:1611.01368). Items come in twos that mirror each
other: what is added to the good sentence of one is added to the bad sentence of the other. So over
both all words, and all pairs of neighbouring words, are as frequent in good as in bad sentences: a
model that knows no more than these is right in exactly half (of two equal sentences the first
counts, and the good one is first in one of the two). What tells them apart lies farther away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from retnet_bench.data.lexicon import (
    ENDED,
    FORMS,
    KINDS,
    MASS,
    MEN,
    OF_NOTHING,
    OF_SOMETHING,
    ON_ONESELF,
    PEOPLE,
    PLACES,
    QUESTIONED,
    STATES,
    THINGS,
    TRANSITIVE,
    WOMEN,
)

T = TypeVar("T")
ITEMS = 1000
"""Of each phenomenon."""
SEED = 19
PERSONS = MEN | WOMEN | PEOPLE


class Pair(NamedTuple):
    """A grammatical text, and one that differs from it and is not."""

    good: str
    bad: str


Two = tuple[Pair, Pair]
"""Items that mirror each other."""


@dataclass(frozen=True)
class Dice:
    """Draws of words."""

    random: np.random.Generator

    def one(self, words: Sequence[T]) -> T:
        return words[int(self.random.integers(len(words)))]

    def noun(self, table: dict[str, str]) -> tuple[str, str]:
        """Singular and plural."""
        return self.one(list(table.items()))

    def either(self, table: dict[str, str]) -> str:
        """A noun of any number."""
        return self.one(self.noun(table))


def number_prepositional(dice: Dice) -> Two:
    """The verb agrees with the subject, not with the noun beside it."""
    return _agreeing(dice, f"{dice.one(PLACES)} the {dice.either(THINGS | PEOPLE)}")


def number_relative(dice: Dice) -> Two:
    """The same across a relative clause."""
    return _agreeing(dice, f"that the {dice.either(PERSONS)} {dice.one(TRANSITIVE)}")


def _agreeing(dice: Dice, between: str) -> Two:
    one, many = dice.noun(PERSONS)
    state = dice.one(STATES)
    return _two(
        *(
            [f"The {noun} {between} {verb} {state}." for verb in ("is", "are")]
            for noun in (one, many)
        )
    )


def number_coordination(dice: Dice) -> Two:
    """Two that are joined by "and" are many; one beside another is one."""
    a, b = dice.noun(PERSONS)[0], dice.noun(PERSONS)[0]
    place, state = dice.one(PLACES), dice.one(STATES)
    return _two(
        *(
            [f"The {a} {link} the {b} {verb} {state}." for verb in ("is", "are")]
            for link in (place, "and")
        )
    )


def number_inversion(dice: Dice) -> Two:
    """The verb of a question agrees with the subject behind it."""
    one, many = dice.noun(PERSONS)
    tail = f"{dice.one(PLACES)} the {dice.either(THINGS)} {dice.one(STATES)}"
    return _two(*([f"{verb} the {noun} {tail}?" for verb in ("Is", "Are")] for noun in (one, many)))


def anaphor_number(dice: Dice) -> Two:
    """A reflexive agrees in number with the subject, not with the noun beside it."""
    one, many = dice.noun(MEN)
    return _reflexive(dice, (one, many), ("himself", "themselves"))


def anaphor_gender(dice: Dice) -> Two:
    """A reflexive agrees in gender with the subject."""
    return _reflexive(dice, (dice.noun(MEN)[0], dice.noun(WOMEN)[0]), ("himself", "herself"))


def _reflexive(dice: Dice, nouns: tuple[str, str], forms: tuple[str, str]) -> Two:
    between = f"{dice.one(PLACES)} the {dice.either(THINGS | PEOPLE)} {dice.one(ON_ONESELF)}"
    return _two(*([f"The {noun} {between} {form}." for form in forms] for noun in nouns))


def determiner_noun(dice: Dice) -> Two:
    """A demonstrative agrees with its noun across an adjective."""
    forms = dice.one((("this", "these"), ("that", "those")))
    return _across_adjective(dice, forms, dice.noun(THINGS))


def quantifier_noun(dice: Dice) -> Two:
    """The word "many" is of what is counted, "much" of what is not."""
    return _across_adjective(dice, ("many", "much"), (dice.noun(THINGS)[1], dice.one(MASS)))


def _across_adjective(dice: Dice, forms: tuple[str, str], nouns: tuple[str, str]) -> Two:
    head = f"The {dice.either(PERSONS)} {dice.one(TRANSITIVE)}"
    kind = dice.one(KINDS)
    return _two(*([f"{head} {form} {kind} {noun}." for form in forms] for noun in nouns))


def filler_gap(dice: Dice) -> Two:
    """What is asked for leaves a gap, and where nothing is, there is none."""
    head = f"They {dice.one(QUESTIONED)}"
    clause = f"the {dice.either(PERSONS)} {dice.one(OF_SOMETHING)}"
    thing = f" the {dice.either(THINGS)}"
    return _two(
        *(
            [f"{head} {word} {clause}{filled} there." for word in ("what", "that")]
            for filled in ("", thing)
        )
    )


def polarity_scope(dice: Dice) -> Two:
    """The word "ever" needs a negation above it; one inside a relative clause is not. "No" is the
    earlier one in the good sentence of both items: words and neighbours are balanced, their order
    is not."""
    a, b = dice.noun(PERSONS)[0], dice.noun(PERSONS)[0]
    verb, ended = dice.one(TRANSITIVE), dice.one(ENDED)

    def pair(noun: str, other: str) -> Pair:
        return Pair(
            *(
                f"It is said that {first} {noun} that {second} {other} {verb} has ever {ended}."
                for first, second in (("no", "the"), ("the", "no"))
            )
        )

    return pair(a, b), pair(b, a)


def verb_argument(dice: Dice) -> Two:
    """Some verbs need an object, even one that is far in front; others take none."""
    verbs = (dice.one(OF_SOMETHING), dice.one(OF_NOTHING))
    person = dice.either(PERSONS)
    frames = (f"The {dice.either(THINGS)} that the", "The")
    tails = ("there will be remembered.", "there until the evening.")
    return _two(
        *(
            [f"{frame} {person} {verb} {tail}" for verb in verbs]
            for frame, tail in zip(frames, tails, strict=True)
        )
    )


def verb_form(dice: Dice) -> Two:
    """A participle with "has", and no other."""
    past, participle = dice.one(list(FORMS.items()))
    person, adverb = dice.noun(PERSONS)[0], dice.one(("never", "often", "always"))
    thing = f"the {dice.either(THINGS)}"
    return _two(
        *(
            [f"The {person}{has} {adverb} {form} {thing}." for form in (participle, past)]
            for has in (" has", "")
        )
    )


def _two(first: list[str], second: list[str]) -> Two:
    """From the two sentences of each frame: the first is good in one, the second in the other."""
    (a, b), (c, d) = first, second
    return Pair(a, b), Pair(d, c)


PHENOMENA: dict[str, Callable[[Dice], Two]] = {
    made.__name__: made
    for made in (
        *(number_prepositional, number_relative, number_coordination, number_inversion),
        *(anaphor_number, anaphor_gender, determiner_noun, quantifier_noun),
        *(filler_gap, polarity_scope, verb_argument, verb_form),
    )
}


def items(name: str, n: int = ITEMS, seed: int = SEED) -> list[Pair]:
    """`n` (even) different items of a phenomenon, those that mirror each other side by side."""
    return draw(PHENOMENA[name], n, [seed, list(PHENOMENA).index(name)])


def draw(make: Callable[[Dice], Two], n: int, seed: Sequence[int]) -> list[Pair]:
    """`n` (even) different items, by the draws of `seed`. An item and its mirror that are one are
    drawn again: nobody could tell which is good."""
    assert n % 2 == 0, "items come in twos"
    dice = Dice(np.random.default_rng(seed))
    found: dict[Pair, None] = {}
    while len(found) < n:
        first, second = make(dice)
        if first != second and not {first, second} & found.keys():
            found |= {first: None, second: None}
    return list(found)
