"""The table of scores on tasks."""

from __future__ import annotations

import pandas as pd
from rich.table import Table
from rich.text import Text

from retnet_bench.analysis.tables.downstream import scores
from retnet_bench.base import printable
from retnet_bench.results.numbers import interval, quantity


def scores_table(records: pd.DataFrame) -> Table | None:
    """Every score with its interval, standard error and number of documents; with its checkpoint
    where an arm has more than one. Below it, what to know of them."""
    frame = scores(records)
    if frame.empty:
        return None
    table = Table(title="Scores on tasks", title_justify="left", header_style="bold")
    table.caption_justify = "left"
    named = ["task", "phase", "arm", "metric"]
    if frame.groupby("arm")["checkpoint"].nunique().max() > 1:
        named.insert(3, "checkpoint")
    for name in named:
        table.add_column({"phase": "shots"}.get(name, name))
    for name in ("parameters", "score [95 % interval]", "standard error", "documents"):
        table.add_column(name, justify="right")
    for _, row in frame.sort_values(["task", "phase", "metric"], kind="stable").iterrows():
        error = "" if pd.isna(row["stderr"]) else quantity(row["stderr"])
        names = [str(row[name]) for name in named]
        counts = f"{row['n_params']:,}", f"{row['n']:.0f}"
        table.add_row(*names, counts[0], interval(row), error, counts[1])
    noted = frame.dropna(subset="reason")[["task", "arm", "reason"]].drop_duplicates()
    lines = [": ".join(map(str, row)) for row in noted.itertuples(index=False)]
    table.caption = Text(printable("\n".join(lines), keep="\n")) if lines else None
    return table
