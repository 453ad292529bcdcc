"""What is seen: named pictures drawn from records, the paper's own points beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from retnet_bench.base import UserError, did_you_mean
from retnet_bench.figures import (
    backend,  # the first of all that import matplotlib
    decode_position,
    downstream,
    fig5,
    fig6a,
    fig6b,
    fig6c,
    generate,
    isoflop,
    learning_rate,
    loss_curve,
    pareto,
    position,
    published,
    recall,
    scaling_law,
    style,
    table1,
    table3,
    table4,
    table5,
    table6,
    table8,
    throughput,
    train_memory,
)
from retnet_bench.figures.registry import FIGURES

__all__ = [
    "FIGURES",
    "backend",
    "decode_position",
    "downstream",
    "fig5",
    "fig6a",
    "fig6b",
    "fig6c",
    "generate",
    "isoflop",
    "learning_rate",
    "loss_curve",
    "pareto",
    "plot",
    "position",
    "published",
    "recall",
    "scaling_law",
    "table1",
    "table3",
    "table4",
    "table5",
    "table6",
    "table8",
    "throughput",
    "train_memory",
]


def plot(
    records: pd.DataFrame,
    names: Iterable[str],
    folder: Path,
    formats: Sequence[str] = ("svg", "png"),
) -> list[Path]:
    """Draw the figures called `names` into `folder` and return the files written.

    Each file is written whole or not at all, and the same records give the same SVG bytes.
    UserError for an unknown name or format, or when the records lack what a figure needs.
    """
    for form in formats:
        if form not in style.FORMATS:
            choices = did_you_mean(form, style.FORMATS)
            raise UserError(f'cannot write figures as "{form}"{choices}')
    draws = {name: FIGURES[name] for name in names}
    written = []
    for name, draw in draws.items():
        picture = draw(records)
        written += [style.save(picture, folder / f"{name}.{form}") for form in formats]
    return written
