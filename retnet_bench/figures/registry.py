"""The list of figures. Each file of this room adds its own with `@figure(name)`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench.base import Registry, printable
from retnet_bench.figures import sheet, style

Draw = Callable[[pd.DataFrame], Figure]


class Styled(Protocol):
    """A figure in the list: `notes` are lines at the end of its caption."""

    def __call__(self, records: pd.DataFrame, notes: Sequence[str] = ()) -> Figure: ...


FIGURES: Registry[Styled] = Registry("figure")


def figure(name: str) -> Callable[[Draw], Styled]:
    """Register a function `records -> Figure`; it always draws in the shared style."""

    def add(draw: Draw) -> Styled:
        @functools.wraps(draw)
        def styled(records: pd.DataFrame, notes: Sequence[str] = ()) -> Figure:
            with style.context(), sheet.telling([printable(note) for note in notes]):
                return draw(style.printable_names(records))

        return FIGURES.add(name, styled)

    return add
