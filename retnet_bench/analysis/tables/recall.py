"""Recall by number of pairs: each arm at each of its learning rates, and at its best one.

The best is chosen on validation sequences, and what is reported is of test sequences, which had no
part in the choice.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import curves, rows
from retnet_bench.results.schema import OK_STATUSES

RATE = "learning_rate"
METRICS = ("recall_correct", "recall_queries", "recall_nll_nat")
_CONTRACT = ["arm", "key_dim", *(n for n in rows.PAIR_KEYS if n not in ("seed", RATE))]
"""What trainings have equal that differ in their rate and their seed only."""


def by_pairs(records: pd.DataFrame) -> pd.DataFrame:
    """Share of queries answered right against `pairs`, mean over seeds, interval by Student's t.

    Columns [arm, pairs, size, learning_rate, *separators, *SUMMARY, seeds, state_bytes, validated,
    best, at_end]: `state_bytes` of one sequence at its end, `validated` the share right of the
    validation sequences, all numbers of pairs alike; `best` at the arm's best learning rate, and
    `at_end` if that is the least or the greatest of several. What failed has a row at each number
    of pairs.
    """
    scored, lost = _answers(records, "score"), _failed(records)
    frame = curves.summarised(scored, lost, "pairs", ["size", RATE], _share_of_seeds, over="seed")
    frame = curves.count_seeds(frame, scored)
    alone = (frame["seeds"] == 1) & ~frame["reason"].astype(str).str.startswith("without")
    frame = frame.assign(reason=frame["reason"].mask(alone, "one seed: no interval"))
    keys = ["arm", *curves.separators(frame)]
    about = pd.concat([scored, lost]).drop(columns="state_bytes")  # of a whole batch, predicted
    about = about.merge(_trained(records), on="cell_id", how="left")
    facts = about.groupby(keys, dropna=False)[["state_bytes", "validated", "best", "at_end"]]
    means = facts.mean().reset_index()
    flags = {name: means[name].fillna(0).astype(bool) for name in ("best", "at_end")}
    return frame.merge(means.assign(**flags), on=keys, how="left")


def _answers(records: pd.DataFrame, phase: str) -> pd.DataFrame:
    """A row per cell and number of pairs, `value` the share of queries answered right, and METRICS
    beside it. Of what was asked twice the later answers count."""
    asked = records["metric"].isin(METRICS) & (records["phase"] == phase)
    kept = asked & records["value"].notna() & records["status"].isin(OK_STATUSES)
    found = records[kept].sort_values("recorded_at")
    last = found.drop_duplicates(["cell_id", "pairs", "metric"], keep="last")
    counts = last.pivot(index=["cell_id", "pairs"], columns="metric", values="value")
    counts = counts.reindex(columns=list(METRICS)).reset_index()
    table = last[last["metric"] == METRICS[0]].merge(counts, on=["cell_id", "pairs"])
    return table.assign(value=table[METRICS[0]] / table[METRICS[1]])


def _failed(records: pd.DataFrame) -> pd.DataFrame:
    """Failed cells, at each number of pairs that others were asked."""
    pairs = records.loc[records["metric"] == METRICS[0], ["pairs"]].drop_duplicates()
    lost = rows.failed(records, METRICS[0], "recall")
    return lost.drop(columns="pairs").merge(pairs, how="cross")


def _share_of_seeds(answers: pd.DataFrame) -> Interval:
    rows.one_cell_per_seed(answers)
    found = curves.mean_over_seeds(answers)
    low, high = np.clip([found.low, found.high], 0.0, 1.0)
    return found._replace(low=float(low), high=float(high))


def _trained(records: pd.DataFrame) -> pd.DataFrame:
    """A row per trained cell: state_bytes, validated, best and at_end."""
    cells = _validated(records)
    cells = cells.merge(_best_rates(cells), on="contract")
    best = cells[RATE] == cells["best_rate"]
    state = rows.measured(records, "sequence_state_bytes", "recall")
    state = state.drop_duplicates("cell_id", keep="last")[["cell_id", "value"]]
    cells = cells.assign(best=best, at_end=best & cells["ends"])
    cells = cells.merge(state.rename(columns={"value": "state_bytes"}), on="cell_id", how="left")
    return cells[["cell_id", "state_bytes", "validated", "best", "at_end"]]


def _validated(records: pd.DataFrame) -> pd.DataFrame:
    """By cell the share right in validation and the loss (null for cells that failed), and a number
    that says with which others it has its _CONTRACT in common."""
    cells = _answers(records, "validate").groupby(["cell_id", RATE, *_CONTRACT], dropna=False)
    found = cells.agg(
        validated=("value", "mean"), nats=(METRICS[2], "sum"), queries=(METRICS[1], "sum")
    ).reset_index()
    found = found.assign(loss=found["nats"] / found["queries"])
    lost = rows.failed(records, METRICS[0], "recall").drop_duplicates("cell_id")
    lost = lost[~lost["cell_id"].isin(found["cell_id"])]
    both = pd.concat([found, lost[["cell_id", RATE, *_CONTRACT]]], ignore_index=True)
    return both.assign(contract=both.groupby(_CONTRACT, dropna=False).ngroup())


def _best_rates(cells: pd.DataFrame) -> pd.DataFrame:
    """By contract the `best_rate`: of the greatest mean share right in validation, of equals the
    least loss; a failed cell got nothing right. `ends`: whether it is the last of several."""
    levels = cells.fillna({"validated": 0.0, "loss": np.inf})
    means = levels.groupby(["contract", RATE])[["validated", "loss"]].mean().reset_index()
    ordered = means.sort_values(["validated", "loss", RATE], ascending=[False, True, True])
    best = ordered.drop_duplicates("contract").set_index("contract")[RATE].sort_index()
    least, most = (means.groupby("contract")[RATE].agg(end) for end in ("min", "max"))
    ends = ((best == least) | (best == most)) & (least < most)
    return pd.DataFrame({"best_rate": best, "ends": ends}).reset_index()
