"""The sweep that a study begins with: its trainings by arm and size, and the best of each.

The best is that of the least mean loss per byte of the validation documents, among the points at
which the most seeds have a score: elsewhere some diverged. What is reported of the models that
follow is of test documents, which had no part in the choice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.tables import rows
from retnet_bench.analysis.tables.choices import Best, choose
from retnet_bench.results.current import Listed
from retnet_bench.results.schema import OK_STATUSES

WORKLOAD = "tune"
RATE = "learning_rate"
AXES = (RATE, "batch", "warmup_share")
"""What a sweep may try."""
CHOSEN = "chosen_learning_rate"
_PLACE = ["arm", "size", "d_model"]
_OWN = ("seed", "size", "token_budget", *AXES)
_CONTRACT = [*(name for name in rows.PAIR_KEYS if name not in _OWN), "budget"]
"""What the trainings of one sweep have equal."""


def trainings(records: pd.DataFrame) -> pd.DataFrame:
    """A row per training of a sweep, its latest: [cell_id, arm, size, d_model, seed, *AXES, loss,
    status, reason], and what its sweep has in common. `loss` in bits per byte of all validation
    documents, nan where the training failed."""
    tried = records[records["workload"] == WORKLOAD]
    last = tried.sort_values("recorded_at").drop_duplicates("cell_id", keep="last")
    names = ["cell_id", "arm", "size", "d_model", "seed", RATE, "batch", "status", "reason"]
    ratio, tokens = (last[n].astype(float) for n in ("tokens_per_param", "token_budget"))
    last = last.assign(budget=ratio.fillna(tokens))  # whole batches: tokens differ by the batch
    found = last[[*dict.fromkeys([*names, *_CONTRACT])]]
    shares = [json.loads(text).get("warmup_share") for text in last["cell_json"]]
    found = found.assign(
        warmup_share=pd.Series(shares, index=found.index, dtype=float),
        reason=found["reason"].mask(found["status"].isin(OK_STATUSES)),
    )
    return found.merge(_losses(tried), on="cell_id", how="left")


def _losses(tried: pd.DataFrame) -> pd.DataFrame:
    """Columns [cell_id, loss]; of what was trained twice the later scores count."""
    metrics = ("validation_nll_nat", "validation_bytes")
    scored = tried[tried["metric"].isin(metrics) & tried["status"].isin(OK_STATUSES)]
    scored = scored.dropna(subset="value").sort_values("recorded_at")
    last = scored.drop_duplicates(["cell_id", "document", "metric"], keep="last")
    sums = last.pivot_table(index="cell_id", columns="metric", values="value", aggfunc="sum")
    sums = sums.reindex(columns=list(metrics)).astype(float)
    loss = sums["validation_nll_nat"] / sums["validation_bytes"] / np.log(2)
    return loss.rename("loss").reset_index()


def points(found: pd.DataFrame) -> pd.DataFrame:
    """`trainings` over seeds: [arm, size, d_model, *AXES, loss, scored, seeds, why, best, at_end].

    `loss` is the mean of the `scored` seeds, of `seeds` that were tried; `why` says what became of
    the others; `best` marks one point of each arm and size that has a score, and `at_end` that its
    learning rate is the least or the greatest tried with its other settings.
    """
    keys = [*_PLACE, *_CONTRACT, *AXES]
    groups = found.groupby(keys, dropna=False)
    table = groups.agg(
        loss=("loss", "mean"),
        scored=("loss", "count"),
        seeds=("cell_id", "nunique"),
        why=("reason", "first"),
    ).reset_index()
    place = [*_PLACE, *_CONTRACT]
    order = table.sort_values(["scored", "loss", *AXES], ascending=[False, True, True, True, True])
    first = order[order["scored"] > 0].drop_duplicates(place).index
    others = [*place, *(axis for axis in AXES if axis != RATE)]
    ends = table.groupby(others, dropna=False)[RATE].agg(["min", "max"]).reset_index()
    ends = table[others].merge(ends, on=others, how="left")
    at_end = (table[RATE] == ends["min"].to_numpy()) | (table[RATE] == ends["max"].to_numpy())
    best = pd.Series(table.index.isin(first), index=table.index)
    return table.assign(best=best, at_end=best & at_end)


def best_of(point: pd.Series, axes: Iterable[str]) -> Best:
    """The best of `points` of an arm at a size, where `axes` were tried."""
    settings = {axis: plain(point[axis]) for axis in axes}
    remark = f"{point[RATE]:g} is at the end of the grid, which was extended once"
    return Best(
        str(point["size"]), int(point["d_model"]), settings, remark if point["at_end"] else ""
    )


def plain(value: Any) -> Any:
    """A value of a table as a cell has it."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def choices(records: pd.DataFrame) -> pd.DataFrame:
    """What the sweep led to: [arm, size, d_model, learning_rate, how], a row for each that was
    trained. `how` follows from the sweep as it stands, for a grid may have been widened since; it
    is as the cell recorded it where these records have no sweep, or one that leads elsewhere."""
    found = rows.measured(records, CHOSEN).sort_values("recorded_at", kind="stable")
    table = found.rename(columns={"value": "rate", "reason": "how"})
    table = table.drop_duplicates(["arm", "size", "rate"], keep="last")
    sweep = points(trainings(records))
    how = [_how(row, sweep[sweep["best"]]) for _, row in table.iterrows()]
    table = table.assign(how=pd.Series(how, index=table.index, dtype=object))
    table = table[["arm", "size", "d_model", "rate", "how"]]
    return table.rename(columns={"rate": RATE}).sort_values(["arm", "d_model"])


def _how(row: pd.Series, best: pd.DataFrame) -> str:
    axes = row["tuned"].split(", ") if isinstance(row["tuned"], str) else [RATE]
    own = best[best["arm"] == row["arm"]]
    if own.empty:
        return str(row["how"])
    found = [best_of(point, axes) for _, point in own.iterrows()]
    now = choose(str(row["size"]), int(row["d_model"]), found)
    same = np.isclose(now.settings[RATE], row["rate"], rtol=1e-9)
    return now.how if same else f"{row['how']} (by the sweep as it was then)"


def unfinished(
    records: pd.DataFrame, listed: Sequence[Listed] | None = None
) -> dict[tuple[str, str], str]:
    """The arms and sizes whose sweep has not ended, with how far it is, in words.

    `listed` are the cells of the study, those that wait for the sweep among them. Without a list,
    as in folders of earlier versions, a sweep has ended where a cell has settings from it.
    """
    found = trainings(records).drop_duplicates("cell_id")
    done = Counter(zip(found["arm"], found["size"], strict=True))
    led = {*records.loc[records["tuned"].notna(), "arm"]}
    if listed is None:
        return {place: f"{_trainings(n)} done" for place, n in done.items() if place[0] not in led}
    of = Counter((cell.arm, cell.size) for cell in listed if cell.workload == WORKLOAD)
    waits = {cell.arm for cell in listed if cell.waits}
    return {
        place: f"{done[place]} of {_trainings(n)} done"
        for place, n in of.items()
        if place[0] in waits
    }


def _trainings(count: int) -> str:
    return f"{count} training{'s' if count > 1 else ''}"
