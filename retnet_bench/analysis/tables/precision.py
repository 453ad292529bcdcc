"""The same training in several dtypes: what the lower one costs in loss and gains in speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import replication
from retnet_bench.analysis.statistics.replication import Scores
from retnet_bench.analysis.tables import rows

REFERENCE = "fp32"
"""The dtype that others are compared with."""


def precisions(records: pd.DataFrame) -> pd.DataFrame:
    """Each dtype of a training against fp32, seed by seed: equal first weights and batches.

    Columns [arm, size, token_budget, dtype, estimate, low, high, n, between_seeds, seeds, within,
    tokens_per_s, speed]: `estimate` is the relative difference of perplexity per byte to fp32's
    (0.01: 1 % worse) with its 95 % interval over seeds and documents; `between_seeds` the standard
    deviation of fp32's perplexity over seeds, relative; `within` whether the interval contains 0 or
    lies within one such deviation; `tokens_per_s` the median of the trainings' own readings and
    `speed` its ratio to fp32's (nan where not recorded). Two seeds in common at least.
    """
    scored = rows.documents(records)
    contract = ["arm", *(n for n in (*rows.PAIR_KEYS, "context") if n not in ("seed", "dtype"))]
    found = [
        row for _, group in scored.groupby(contract, dropna=False) for row in _rows(group, records)
    ]
    columns = ["arm", "size", "token_budget", "dtype", "estimate", "low", "high", "n"]
    columns += ["between_seeds", "seeds", "within", "tokens_per_s", "speed"]
    return pd.DataFrame(found, columns=columns)


def _rows(group: pd.DataFrame, records: pd.DataFrame) -> Iterator[dict[str, Any]]:
    reference = group[group["dtype"] == REFERENCE]
    for dtype, other in group.groupby("dtype"):
        seeds = {*reference["seed"]} & {*other["seed"]}
        if dtype == REFERENCE or len(seeds) < 2:
            continue
        a, b = (_by_seed(part[part["seed"].isin(seeds)]) for part in (other, reference))
        shared = a.columns.intersection(b.columns)
        if shared.empty:
            continue
        units = group.groupby("document")["document_bytes"].first()[shared].to_numpy(dtype=float)
        nats = b[shared].to_numpy(dtype=float)
        difference = replication.loss(Scores(a[shared].to_numpy(dtype=float) - nats, units))
        between = float((nats.sum(axis=1) / units.sum()).std(ddof=1))
        estimate, low, high = map(float, np.expm1(difference[:3]))
        speeds = [_speed(records, part) for part in (other, reference)]
        yield {
            **other[["arm", "size", "token_budget"]].iloc[0],
            "dtype": dtype,
            "estimate": estimate,
            "low": low,
            "high": high,
            "n": difference.n,
            "between_seeds": between,
            "seeds": len(seeds),
            "within": low <= 0 <= high or max(abs(low), abs(high)) <= between,
            "tokens_per_s": speeds[0],
            "speed": speeds[0] / speeds[1],
        }


def _by_seed(scored: pd.DataFrame) -> pd.DataFrame:
    """Nats (S, D) of the documents that every seed scored."""
    rows.one_cell_per_seed(scored)
    table = scored[scored["document_bytes"] > 0]
    return table.pivot(index="seed", columns="document", values="value").dropna(axis="columns")


def _speed(records: pd.DataFrame, scored: pd.DataFrame) -> float:
    own = records["cell_id"].isin(scored["cell_id"])
    return float(rows.measured(records[own], "training_tokens_per_second")["value"].median())
