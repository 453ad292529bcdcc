"""The list of figures. Each file of this room adds its own with `@figure(name)`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench.base import Registry
from retnet_bench.figures import style

Draw = Callable[[pd.DataFrame], Figure]

FIGURES: Registry[Draw] = Registry("figure")


def figure(name: str) -> Callable[[Draw], Draw]:
    """Register a function `records -> Figure`; it always draws in the shared style."""

    def add(draw: Draw) -> Draw:
        @functools.wraps(draw)
        def styled(records: pd.DataFrame) -> Figure:
            with style.context():
                return draw(style.printable_names(records))

        return FIGURES.add(name, styled)

    return add
