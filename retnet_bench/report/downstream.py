"""The tables of scores on tasks, and of right answers against what training took."""

from __future__ import annotations

import os.path

import pandas as pd
from rich.table import Table

from retnet_bench.analysis.tables import accuracy
from retnet_bench.analysis.tables.downstream import scores
from retnet_bench.report import layout
from retnet_bench.results.numbers import interval, quantity, short
from retnet_bench.results.quantities import COMPUTATION


def accuracy_table(records: pd.DataFrame) -> Table | None:
    """What the figure `accuracy` draws: the package's own tasks by group, arm and training."""
    frame = accuracy.by_compute(records)
    if frame.empty:
        return None
    frame["group"] = pd.Categorical(frame["group"], [*accuracy.GROUPS])
    frame = frame.sort_values(["group", "compute", "arm"], kind="stable")
    columns = f"tasks|arm|size|>tokens|>{COMPUTATION.label('compute')}"
    columns += "|>right answers, % [95 % interval]|>seeds"

    def text(row: pd.Series) -> list[str]:
        named = f"{accuracy.TITLES[row['group']]} ({row['tasks']})"
        compute = quantity(COMPUTATION.of(row["compute"]))
        own = [named, str(row["arm"]), str(row["size"]), short(row["tokens"]), compute]
        return [*own, interval(row, 100), str(row["seeds"])]

    rows = (text(row) for _, row in frame.iterrows())
    one = "With one seed the interval is of items alone. " if frame["seeds"].min() == 1 else ""
    note = f"{one}Chance, and all that words and pairs of neighbours tell: 50 %."
    return layout.table("Right answers against training", columns, rows, caption=note)


def tasks_table(records: pd.DataFrame) -> Table | None:
    """Each of the package's own tasks by size and training, a column an arm: the mean of the
    checkpoints that differ in their seed alone. None where there are no such checkpoints."""
    frame = accuracy.by_task(records)
    if frame.empty or frame["seeds"].max() == 1:
        return None
    arms = sorted(frame["arm"].unique())
    columns = "|".join(["task", "size", ">tokens", *(f">{arm}, %" for arm in arms), ">seeds"])

    def line(part: pd.DataFrame) -> list[str]:
        first = part.iloc[0]
        of_arm = {row["arm"]: interval(row, 100) for _, row in part.iterrows()}
        seeds = " and ".join(str(n) for n in sorted(set(part["seeds"])))
        found = (of_arm.get(arm, "not measured") for arm in arms)
        return [first["task"], first["size"], short(first["tokens"]), *found, seeds]

    frame = frame.sort_values(["task", "n_params", "tokens"], kind="stable")
    trainings = frame.groupby(["task", "size", "tokens"], sort=False)
    rows = (line(part) for _, part in trainings)
    note = (
        "Right answers [95 % interval of items and, where there are several, seeds]; chance: 50 %."
    )
    return layout.table("Right answers by task", columns, rows, caption=note)


def scores_table(records: pd.DataFrame) -> Table | None:
    """Every score with its interval, standard error and number of documents; with its checkpoint
    where an arm has more than one. Below it, what to know of them. Without those that
    `tasks_table` has."""
    if tasks_table(records) is not None:
        shown = accuracy.answers(records)["cell_id"]
        records = records[~records["cell_id"].isin(shown)]
    frame = scores(records)
    if frame.empty:
        return None
    frame = frame.assign(shots=[_setting(row) for _, row in frame.iterrows()])
    named = ["task", "shots", "arm", "metric"]
    if frame.groupby("arm")["checkpoint"].nunique().max() > 1:
        named.insert(3, "checkpoint")
        frame = frame.assign(checkpoint=_short(frame["checkpoint"]))
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


def _short(folders: pd.Series) -> pd.Series:
    """Without the folder that all are in."""
    names = folders.astype(str)
    if names.map(os.path.isabs).nunique() > 1:
        return names
    shared = os.path.commonpath([os.path.dirname(name) for name in names])
    return names.map(lambda name: os.path.relpath(name, shared or None))


def _setting(row: pd.Series) -> str:
    """`4-shot`, with lm-eval's names of a filter and a metric where there are any."""
    names = (row[name] for name in ("filter", "score"))
    return " ".join([f"{row['shots']}-shot", *(name for name in names if not pd.isna(name))])
