"""The table of a study's sweep: what was tried for each arm, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from rich.table import Table

from retnet_bench.analysis.tables import tuning
from retnet_bench.report import layout
from retnet_bench.results.numbers import quantity

CAPTION = (
    "*: the best of the arm at that size, by the mean loss on validation documents, which no score "
    "in other tables is of."
)


def sweep_table(
    records: pd.DataFrame, unfinished: Mapping[tuple[str, str], str] | None = None
) -> Table | None:
    """A row for each point of the sweep. Where that is `unfinished` no point is said to be the
    best, but how far it is."""
    unfinished = unfinished or {}
    if not (records["workload"] == tuning.WORKLOAD).any():
        return None
    found = tuning.points(tuning.trainings(records)).sort_values(
        ["arm", "d_model", *tuning.AXES], kind="stable"
    )
    others = [axis for axis in tuning.AXES[1:] if found[axis].nunique(dropna=False) > 1]
    shown = [tuning.RATE, *others, *_varying(found)]
    columns = "|".join(
        [
            *("arm", "size", *(f">{name.replace('_', ' ')}" for name in shown)),
            *("", ">bits per byte (validation)", ">seeds", "remark"),
        ]
    )
    places = zip(found["arm"], found["size"], strict=True)
    ended = np.array([place not in unfinished for place in places], dtype=bool)
    found = found.assign(best=found["best"] & ended)
    table = layout.table("Sweep: each arm's settings", columns, caption=_caption(found, unfinished))
    for _, row in found.iterrows():
        loss = "" if pd.isna(row["loss"]) else quantity(row["loss"])
        seeds = str(row["seeds"]) if row["scored"] else f"0 of {row['seeds']}"
        mark = "*" if row["best"] else ""
        cells = [row["arm"], row["size"], *(_plain(row[name]) for name in shown)]
        table.add_row(*cells, mark, loss, seeds, "; ".join(_remarks(row)))
    return table


def _caption(found: pd.DataFrame, unfinished: Mapping[tuple[str, str], str]) -> str:
    """What the stars mean, if there are any, and what is not known yet."""
    left = "; ".join(f"{arm} at size {size}: {far}" for (arm, size), far in unfinished.items())
    said = [CAPTION] if found["best"].any() else []
    return " ".join([*said, *([f"Not chosen yet: {left}."] if left else [])])


def choices_table(records: pd.DataFrame) -> Table | None:
    """A row for each arm and size that was trained with what the sweep led to."""
    found = tuning.choices(records)
    if found.empty:
        return None
    rows = (
        [row["arm"], row["size"], f"{row[tuning.RATE]:g}", str(row["how"])]
        for _, row in found.iterrows()
    )
    return layout.table("Learning rates by the sweep", "arm|size|>learning rate|how", rows)


def _varying(found: pd.DataFrame) -> list[str]:
    """What else differs between the trainings of one arm and size."""
    names = [name for name in ("budget", "length", "corpus") if name in found]
    groups = found.groupby(["arm", "size"])
    return [name for name in names if (groups[name].nunique(dropna=False) > 1).any()]


def _remarks(row: pd.Series) -> Iterator[str]:
    if 0 < row["scored"] < row["seeds"]:
        yield f"{row['seeds'] - row['scored']} of {row['seeds']} seeds have no score"
    if isinstance(row["why"], str):
        yield row["why"]
    if row["best"] and row["at_end"]:
        yield "best at an end of the sweep, so perhaps better beyond"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if pd.isna(value) else str(value)  # type: ignore[call-overload]
