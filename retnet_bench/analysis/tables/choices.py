"""What a sweep led to: an arm's settings at a size, and how they follow from the sizes tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEEPEST = -1.0
"""Least exponent of a learning rate in the width beyond the sweep: one over the width, as muP
(arXiv:2203.03466) has it for hidden weights. The greatest is 0: no rate rises with the width."""
USUAL = -0.5
"""The same where one width was tried: the recipe's own rule, one over the root of the width."""


@dataclass(frozen=True)
class Choice:
    """Settings of one arm's cells at one size, or why there are none."""

    settings: Mapping[str, Any]
    how: str
    """How they were chosen, in words."""
    refused: str | None = None
    """Why no cell can be run with them."""


@dataclass(frozen=True)
class Best:
    """The best point of an arm's sweep at one size."""

    size: str
    width: int
    settings: Mapping[str, Any]
    remark: str = ""
    """What to know of it: that it lies at the end of the grid."""

    @property
    def rate(self) -> float:
        return float(self.settings["learning_rate"])

    @property
    def place(self) -> str:
        return f"{self.rate:g} at size {self.size} (width {self.width})"


def choose(size: str, width: int, found: Sequence[Best]) -> Choice:
    """The settings of a size from the best ones of the sizes tried, at least one.

    A size that was tried has its own. Between widths the learning rate is interpolated, its
    logarithm against the width's; beyond them the line through the two outermost is followed, its
    exponent held between STEEPEST and 0. Rates have three digits. All else is that of the nearest
    width.
    """
    by_width = sorted(found, key=lambda best: best.width)
    own = next((best for best in by_width if best.size == size), None)
    if own is not None:
        return Choice(own.settings, _words(f"the best of the sweep at size {size}", [own]))
    rate, how, used = _rate(width, by_width)
    nearest = min(by_width, key=lambda best: abs(math.log(best.width / width)))
    settings = {**nearest.settings, "learning_rate": float(f"{rate:.3g}")}
    others = [f"{key} {value:g}" for key, value in settings.items() if key != "learning_rate"]
    more = f"; {', '.join(others)} of size {nearest.size}" if others else ""
    return Choice(settings, _words(how, used) + more)


def _rate(width: int, found: list[Best]) -> tuple[float, str, list[Best]]:
    """The learning rate at a width, how it follows, and from which of the best points."""
    points: dict[int, list[Best]] = {}
    for best in found:
        points.setdefault(best.width, []).append(best)
    rates = {at: _mean([best.rate for best in group]) for at, group in points.items()}
    if width in rates:
        return rates[width], "as at the same width: " + _places(points[width]), points[width]
    if len(rates) == 1:
        ((at, rate),) = rates.items()
        how = f"from {_places(points[at])} by the width to the power {USUAL:g}"
        return rate * (width / at) ** USUAL, how, points[at]
    low, high, inside = _neighbours(width, list(rates))
    slope = math.log(rates[high] / rates[low]) / math.log(high / low)
    used = points[low] + points[high]
    if inside:
        how = f"interpolated in log-log of the width between {_places(used)}"
        return rates[low] * (width / low) ** slope, how, used
    held = min(0.0, max(STEEPEST, slope))
    end = high if width > high else low
    how = f"extrapolated in log-log of the width from {_places(used)}, exponent {held:.2g}"
    return rates[end] * (width / end) ** held, how, used


def _neighbours(width: int, widths: list[int]) -> tuple[int, int, bool]:
    """The two of `widths` around a width, or the two that are nearest to it; and which of both."""
    below = [at for at in widths if at < width]
    above = [at for at in widths if at > width]
    if below and above:
        return below[-1], above[0], True
    return (below[-2], below[-1], False) if below else (above[0], above[1], False)


def _mean(rates: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, rates)) / len(rates))


def _places(found: Sequence[Best]) -> str:
    return " and ".join(best.place for best in found)


def _words(how: str, used: Sequence[Best]) -> str:
    return "; ".join([how, *(f"size {best.size}: {best.remark}" for best in used if best.remark)])
