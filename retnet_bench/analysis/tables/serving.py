"""Generation in a server's terms: time to the first token, time of a token, tokens/s, and which of
them 50, 90 and 99 % of requests reach."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import quantiles
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.tables import curves, rows

REACHED = (0.5, 0.9, 0.99)
"""Shares of requests that are at least so fast: p50, p90, p99."""
TIMES = ("first_token_s", "output_token_s")
RATE = "tokens_per_s"
KEYS = ["batch", "new_tokens"]


def medians(records: pd.DataFrame, what: str) -> pd.DataFrame:
    """One of TIMES or RATE against the prompt's `length`, per batch and new tokens: the columns of
    `curves.curve`, the median over blocks."""
    measured, failed = _taken(records, what)
    return curves.summarised(measured, failed, "length", KEYS)


def reached(records: pd.DataFrame, what: str, share: float) -> pd.DataFrame:
    """The same, but what `share` of all requests reach: a time is at most that, a rate at least.
    `n` counts requests."""
    measured, failed = _taken(records, what)
    q = 1 - share if what == RATE else share

    def summary(points: pd.DataFrame) -> Interval:
        return quantiles.quantile(rows.blocks(points), q)

    frame = curves.summarised(measured, failed, "length", KEYS, summary)
    short = frame["estimate"].isna() & (frame["n"] > 0)
    reason = f"p{100 * share:g} needs {quantiles.needed(q)} requests"
    return frame.assign(reason=frame["reason"].mask(short, reason))


def _taken(records: pd.DataFrame, what: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows with a sample a request, and those that say why there is none."""
    metric = "request_s" if what == RATE else what
    measured = rows.measured(records, metric, "generate")
    if what == RATE:
        tokens = measured["batch"].astype(float) * measured["new_tokens"].astype(float)
        samples = zip(tokens, measured["samples"], strict=True)
        measured = rows.with_samples(measured, [n / np.asarray(s) for n, s in samples])
    return measured, rows.failed(records, metric, "generate")
