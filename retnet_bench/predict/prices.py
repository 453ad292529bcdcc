"""What an hour of a machine costs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retnet_bench.base import UserError, quoted


@dataclass(frozen=True)
class Price:
    """What an hour costs."""

    per_hour: float
    currency: str

    def of(self, seconds: float) -> str:
        return f"{self.per_hour * seconds / 3600:.2f} {self.currency}"


def price(text: str) -> Price:
    """ "2.50USD" or "2.50 EUR". UserError where a currency is missing or the price is negative."""
    given = quoted(text)
    found = re.fullmatch(r"\s*(-?\d{1,15}(?:\.\d+)?)\s*([A-Za-z]{3})?\s*", text)
    if found is None:
        raise UserError(f'--price "{given}" is no price per hour; write it like 2.50USD')
    if found[2] is None:
        raise UserError(f'--price "{given}" has no currency; write it like {quoted(found[1])}USD')
    if float(found[1]) < 0:
        raise UserError(f'--price "{given}" is negative; write it like 2.50{found[2].upper()}')
    return Price(float(found[1]), found[2].upper())
