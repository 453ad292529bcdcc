"""The table of scores on tasks."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

from retnet_bench.analysis.tables.downstream import scores
from retnet_bench.report import layout
from retnet_bench.results.numbers import interval, quantity


def scores_table(records: pd.DataFrame) -> Table | None:
    """Every score with its interval, standard error and number of documents; with its checkpoint
    where an arm has more than one. Below it, what to know of them."""
    frame = scores(records)
    if frame.empty:
        return None
    frame = frame.assign(shots=[_setting(row) for _, row in frame.iterrows()])
    named = ["task", "shots", "arm", "metric"]
    if frame.groupby("arm")["checkpoint"].nunique().max() > 1:
        named.insert(3, "checkpoint")
    columns = [*named, ">parameters|>score [95 % interval]|>standard error|>documents"]

    def text(row: pd.Series) -> list[str]:
        error = "" if pd.isna(row["stderr"]) else quantity(row["stderr"])
        names = (str(row[name]) for name in named)
        return [*names, f"{row['n_params']:,}", interval(row), error, f"{row['n']:.0f}"]

    noted = frame.dropna(subset="reason")[["task", "arm", "reason"]].drop_duplicates()
    lines = [": ".join(map(str, row)) for row in noted.itertuples(index=False)]
    ordered = frame.sort_values(["task", "shots", "metric"], kind="stable")
    rows = (text(row) for _, row in ordered.iterrows())
    return layout.table("Scores on tasks", "|".join(columns), rows, caption="\n".join(lines))


def _setting(row: pd.Series) -> str:
    """`4-shot`, with lm-eval's names of a filter and a metric where there are any."""
    names = (row[name] for name in ("filter", "score"))
    return " ".join([f"{row['shots']}-shot", *(name for name in names if not pd.isna(name))])
