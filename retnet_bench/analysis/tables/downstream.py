"""Scores on tasks: a value, and an interval from the documents it was made of."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import replication
from retnet_bench.analysis.statistics.intervals import LEVEL, z_quantile
from retnet_bench.results.schema import METRICS

SCORES = ("fraction", "relative", "bit", "")
"""Units of downstream metrics that are scores, not counts."""
SETTING = ("shots", "filter", "score")
"""Columns of how a task was set, beside its name."""
_PER = {"word_perplexity": "scored_words", "byte_perplexity": "scored_bytes"}
_PER |= {"bits_per_byte": "scored_bytes"}


def scores(records: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, task, metric and setting, of its latest run.

    Columns [arm, checkpoint, n_params, task, *SETTING, metric, reason, estimate, low, high, stderr,
    n]; `checkpoint` is the folder that the cell names, `reason` what to know of the score. For
    means of documents' values the standard error is sd / sqrt(n), as lm-eval's; the 95 % interval
    is Wilson's for shares of right answers, else +- 1.96 errors. Perplexities and bits per byte:
    the bootstrap over documents. NaN where the documents' values were not kept.
    """
    chosen = records[(records["workload"] == "downstream") & records["value"].notna()]
    chosen = chosen.sort_values("recorded_at", kind="stable")
    keys = ["cell_id", "task", *SETTING, "metric"]
    chosen = chosen.drop_duplicates(keys, keep="last")
    shown = [m.name for m in METRICS.values() if m.workload == "downstream" and m.unit in SCORES]
    columns = ["arm", "checkpoint", "n_params", "task", *SETTING, "metric", "reason"]
    named = chosen[chosen["metric"].isin(shown)]
    named = named.assign(checkpoint=[json.loads(c).get("checkpoint") for c in named["cell_json"]])
    rows = [
        {name: row[name] for name in columns} | _estimate(row, chosen)
        for _, row in named.iterrows()
    ]
    return pd.DataFrame(rows, columns=[*columns, "estimate", "low", "high", "stderr", "n"])


def _estimate(row: pd.Series, records: pd.DataFrame) -> dict[str, float]:
    value = float(row["value"])
    if row["metric"] in _PER:
        return {"estimate": value, "stderr": math.nan, **_per_document(row, records)}
    values = row["samples"]
    if values is None or len(values) < 2:
        n = 0 if values is None else len(values)
        return {"estimate": value, "low": math.nan, "high": math.nan, "stderr": math.nan, "n": n}
    stderr = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    share = set(values) <= {0.0, 1.0}
    low, high = _wilson(value, len(values)) if share else _around(value, stderr)
    return {"estimate": value, "stderr": stderr, "n": len(values), "low": low, "high": high}


def _around(value: float, stderr: float) -> tuple[float, float]:
    reach = z_quantile(LEVEL) * stderr
    return value - reach, value + reach


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval: inside [0, 1], and of some width for 0 and 1, too."""
    from scipy.stats import binomtest  # half a second that other records need not spend

    found = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _per_document(row: pd.Series, records: pd.DataFrame) -> dict[str, float]:
    same = records[(records["cell_id"] == row["cell_id"]) & (records["task"] == row["task"])]
    kept = same.set_index("metric")["samples"]
    wanted = ("request_loglikelihood_nat", _PER[row["metric"]])
    if not set(wanted) <= set(kept.index):
        return {"low": math.nan, "high": math.nan, "n": 0}
    logs, units = (np.asarray(kept[name], dtype=float) for name in wanted)
    scored = units > 0  # a document that is empty, or that the tokenizer can't spell
    if not scored.any():
        return {"low": math.nan, "high": math.nan, "n": 0}
    found = replication.perplexity(-logs[scored], units[scored])
    ends = [found.low, found.high]
    if row["metric"] == "bits_per_byte":
        ends = [math.log2(end) if end > 0 else math.nan for end in ends]
    return {"low": ends[0], "high": ends[1], "n": int(scored.sum())}
