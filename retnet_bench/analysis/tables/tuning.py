"""The sweep that a study begins with: its trainings by arm and size, and the best of each.

The best is that of the least mean loss per byte of the validation documents, among the points at
which the most seeds have a score: elsewhere some diverged. What is reported of the models that
follow is of test documents, which had no part in the choice.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from retnet_bench.analysis.tables import rows
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


def choices(records: pd.DataFrame) -> pd.DataFrame:
    """What the sweep led to: [arm, size, d_model, learning_rate, how], a row for each that was
    trained. `how` is the latest: a grid may have been widened in between."""
    found = rows.measured(records, CHOSEN).sort_values("recorded_at", kind="stable")
    table = found.rename(columns={"value": "rate", "reason": "how"})
    table = table.drop_duplicates(["arm", "size", "rate"], keep="last")
    table = table[["arm", "size", "d_model", "rate", "how"]]
    return table.rename(columns={"rate": RATE}).sort_values(["arm", "d_model"])
