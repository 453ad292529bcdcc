"""How the arms look on a page: the figures' colours and marks, legible on white and on black."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.colors import to_hex, to_rgb

from retnet_bench.figures.style import ArmStyle, Dashes, arm_styles

LIGHT, DARK = "#ffffff", "#14171b"
"""The grounds of the two themes."""
CONTRAST = 4.5
"""Least contrast with the ground: names stand in an arm's colour, too (WCAG 2.1, 1.4.3)."""
_DASHES: dict[str, list[float]] = {
    "-": [1, 0],
    "--": [6, 3],
    "-.": [7, 3, 1.5, 3],
    ":": [1.5, 2.5],
}
_SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "P": "cross",
    "d": "M0,-1L0.6,0L0,1L-0.6,0Z",
    "X": "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z",
    "x": "M-1,-0.8L-0.8,-1L0,-0.2L0.8,-1L1,-0.8L0.2,0L1,0.8L0.8,1L0,0.2L-0.8,1L-1,0.8L-0.2,0Z",
    "+": "M-0.15,-1L0.15,-1L0.15,-0.15L1,-0.15L1,0.15L0.15,0.15L0.15,1L-0.15,1L-0.15,0.15"
    "L-1,0.15L-1,-0.15L-0.15,-0.15Z",
    "*": "M0,-1L0.24,-0.31L0.95,-0.31L0.38,0.12L0.59,0.81L0,0.38L-0.59,0.81L-0.38,0.12"
    "L-0.95,-0.31L-0.24,-0.31Z",
    "p": "M0,-1L0.95,-0.31L0.59,0.81L-0.59,0.81L-0.95,-0.31Z",
    "h": "M0,-1L0.87,-0.5L0.87,0.5L0,1L-0.87,0.5L-0.87,-0.5Z",
}
"""Marks of the figures and the same for Vega, as a name or as a path from -1 to 1."""


@dataclass(frozen=True)
class Look:
    """How one arm is drawn."""

    name: str
    light: str
    """Colour on LIGHT."""
    dark: str
    shape: str
    dash: list[float]


def looks(arms: Iterable[str]) -> list[Look]:
    """A look per arm, that of the figures as far as the ground allows."""
    return [_look(name, style) for name, style in sorted(arm_styles(arms).items())]


def _look(name: str, style: ArmStyle) -> Look:
    light, dark = legible(style.color, LIGHT), legible(style.color, DARK)
    return Look(name, light, dark, _SHAPES.get(style.marker, "circle"), _dash(style.linestyle))


def _dash(line: Dashes) -> list[float]:
    return _DASHES[line] if isinstance(line, str) else [1.4 * part for part in line[1]]


def legible(color: str, ground: str) -> str:
    """`color`, mixed with as much black (on light ground) or white as CONTRAST needs."""
    towards = 0.0 if luminance(ground) > 0.5 else 1.0
    parts = to_rgb(color)
    for step in range(21):
        red, green, blue = (part + (towards - part) * step / 20 for part in parts)
        mixed = to_hex((red, green, blue))
        if contrast(mixed, ground) >= CONTRAST:
            break
    return mixed


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2.1)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.1)."""
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
