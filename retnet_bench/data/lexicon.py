"""Words of the project's grammar: all of them are in the train split of the corpus `bundle`."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


def _pairs(words: str) -> dict[str, str]:
    found = _words(words)
    return dict(zip(found[::2], found[1::2], strict=True))


MEN = _pairs(
    "king kings man men boy boys father fathers son sons brother brothers husband husbands "
    "prince princes knight knights gentleman gentlemen"
)
WOMEN = _pairs(
    "queen queens woman women girl girls mother mothers daughter daughters sister sisters "
    "wife wives lady ladies maid maids widow widows"
)
PEOPLE = _pairs(
    "servant servants soldier soldiers judge judges priest priests captain captains "
    "prophet prophets shepherd shepherds stranger strangers friend friends teacher teachers"
)
THINGS = _pairs(
    "house houses city cities ship ships garden gardens river rivers mountain mountains "
    "tree trees wall walls gate gates field fields tower towers table tables stone stones "
    "bridge bridges horse horses book books letter letters sword swords"
)
"""Singular and plural."""
MASS = _words("gold silver water bread wine wood oil iron wool corn")
"""What one has much, and not many, of."""
PLACES = _words("near behind beside beyond")
STATES = _words("happy sick rich poor wise strong famous weak angry silent")
"""What people are said to be."""
KINDS = _words("old new great small good white strange beautiful")
"""What things are said to be, in front of them."""
TRANSITIVE = _words("saw knew heard found called followed helped praised met")
OF_SOMETHING = _words("found brought made took destroyed built bought carried sent")
"""Verbs that need an object."""
OF_NOTHING = _words("slept died arrived wept fell stood sat lived came")
"""Verbs that take none."""
FORMS = _pairs(
    "saw seen took taken gave given chose chosen wrote written broke broken stole stolen "
    "forgot forgotten knew known hid hidden drew drawn threw thrown"
)
"""Past tense and participle, where they differ."""
ON_ONESELF = _words("saw praised killed loved blamed saved hated helped hurt")
QUESTIONED = _words("know remember see hear")
"""What takes "that" and a clause, or "what" and one with a gap."""
ENDED = _words("spoken returned slept fallen wept fled laughed sinned")
"""Participles that may stand alone."""
NAMES = _words(
    "Mary Martha Peter James John Thomas Paul Simon David Jacob Joseph Rachel Sarah Ruth Daniel "
    "Samuel Henry Edward Richard Robert William George Charles Philip Stephen Andrew Michael "
    "Elizabeth Margaret Helen"
)
