"""Accuracy on the package's own tasks against what the training of each checkpoint took.

Items come in twos that mirror each other (`data.grammar`), so the mean of each two is what is
resampled; checkpoints of one arm, size and training that differ in their seed are replicas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import replication
from retnet_bench.analysis.statistics.replication import Scores

GROUPS = {
    "agreement": ("number", "anaphor", "determiner", "quantifier"),
    "structure": ("filler", "polarity", "verb"),
    "names": ("",),
}
"""Groups of tasks -> how the names of its phenomena begin."""
TITLES = {
    "agreement": "Agreement",
    "structure": "Gaps, scope and verbs",
    "names": "Names seen before",
}
_PREFIX = {"names": "names_"}
CHANCE = 0.5
_RESAMPLES = 500
_TRAINING = ["arm", "size", "n_params", "tokens", "compute"]
_VALUES = ["estimate", "low", "high", "seeds", "tasks", "of_seeds"]


def by_compute(records: pd.DataFrame) -> pd.DataFrame:
    """A row for each group of tasks, arm and training: columns [group, arm, size, n_params, tokens,
    compute, estimate, low, high, seeds, tasks, of_seeds]. `compute` in FLOPs, `of_seeds` the share
    of each checkpoint by itself; checkpoints that don't say their tokens are left out."""
    return _shares(answers(records), "group")


def by_task(records: pd.DataFrame) -> pd.DataFrame:
    """The same for each task: `task` in place of `group`."""
    return _shares(answers(records), "task")


def answers(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of `records` with right and wrong answers, a row for each cell and task, latest run:
    with `group`, `tokens` and `compute` (FLOPs) of the training, and `weights`, which tells
    checkpoints apart."""
    chosen = records[(records["workload"] == "downstream") & records["value"].notna()]
    chosen = chosen.sort_values("recorded_at", kind="stable")
    trained = chosen[chosen["metric"] == "tokens_trained"].drop_duplicates("cell_id", keep="last")
    found = chosen[(chosen["metric"] == "acc") & chosen["task"].map(group_of).notna()]
    found = found.drop_duplicates(["cell_id", "task", "shots"], keep="last")
    found = found.merge(
        trained[["cell_id", "value"]].rename(columns={"value": "tokens"}), on="cell_id"
    )
    compute = found["tokens"] * found["flops_per_token"].astype(float)
    return found.assign(
        group=found["task"].map(group_of),
        compute=compute,
        weights=found["cell_json"].map(_weights),
    ).dropna(subset="compute")


def group_of(task: object) -> str | None:
    """The group of a task's name; None for tasks from elsewhere."""
    for group, beginnings in GROUPS.items():
        prefix = _PREFIX.get(group, "grammar_")
        if str(task).startswith(tuple(prefix + beginning for beginning in beginnings)):
            return group
    return None


def _shares(found: pd.DataFrame, of: str) -> pd.DataFrame:
    """The share of right answers by the column `of` and training, over checkpoints and items."""
    keys = [of, *_TRAINING]
    return pd.DataFrame(_rows(found, keys), columns=[*keys, *_VALUES])


def _rows(found: pd.DataFrame, keys: list[str]) -> Iterator[dict[str, object]]:
    for values, part in found.groupby(keys):
        marks = part.drop_duplicates(["weights", "task"], keep="last")
        marks = marks.pivot(index="weights", columns="task", values="samples")
        marks = marks.dropna(axis="columns")
        if marks.shape[1] == 0:
            continue  # no task that every checkpoint answered
        right = np.stack([np.concatenate(list(map(_of_twos, row))) for row in marks.to_numpy()])
        share = replication.draw([Scores(right, np.ones(right.shape[1]))], _RESAMPLES)
        ends = share.interval([1.0])
        low, high = np.clip([ends.low, ends.high], 0.0, 1.0)  # of few, unlike seeds it goes beyond
        yield dict(zip(keys, values, strict=True)) | {
            "estimate": ends.estimate,
            "low": float(low),
            "high": float(high),
            "seeds": len(marks),
            "tasks": marks.shape[1],
            "of_seeds": right.mean(axis=1).tolist(),
        }


def _weights(cell_json: str) -> str:
    """What tells checkpoints apart, whatever task their cells are of."""
    cell = json.loads(cell_json)
    return f"{cell.get('checkpoint')} {cell.get('weights')}"


def _of_twos(right: np.ndarray) -> np.ndarray:
    """The mean of each item and its mirror; a last item without one stands alone."""
    values = np.asarray(right, dtype=float)
    even = values[: len(values) // 2 * 2].reshape(-1, 2).mean(axis=1)
    return np.append(even, values[len(even) * 2 :])
