"""Tidy summaries of records: one row per point of a curve, with estimate, interval and status."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

SUMMARY = ["estimate", "low", "high", "n", "status", "reason"]


def curve(
    records: pd.DataFrame,
    metric: str,
    x: str,
    *,
    workload: str | None = None,
    phase: str | None = None,
    per: Sequence[str] | None = None,
) -> pd.DataFrame:
    """`metric` against column `x`: columns [arm, x, *per, estimate, low, high, n, status, reason].

    `per` names columns that separate curves; any further contract column that varies at one x
    (dtype, size, batch, ...) is added to it, so that no point ever mixes two contracts: read the
    separators back with `separators(frame)`. Cells that failed have a nan estimate.
    """
    raise NotImplementedError


def separators(frame: pd.DataFrame) -> list[str]:
    """The columns of a `curve` that tell its lines apart, besides the arm."""
    return list(frame.columns[2 : frame.columns.get_loc("estimate")])


def throughput(records: pd.DataFrame) -> pd.DataFrame:
    """Training tokens/s against length: [arm, length, *separators, *SUMMARY]."""
    raise NotImplementedError


def decode_throughput(records: pd.DataFrame) -> pd.DataFrame:
    """Decoded tokens/s against length (Figure 6b): [arm, length, batch, *separators, *SUMMARY]."""
    raise NotImplementedError


def final_latency(records: pd.DataFrame) -> pd.DataFrame:
    """Seconds of the step at the last position against batch (6c): [arm, batch, length, ...]."""
    raise NotImplementedError


def latency_by_position(records: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a decode step against position: [arm, position, length, batch, ..., *SUMMARY]."""
    raise NotImplementedError


def memory_by_length(records: pd.DataFrame, phase: str, metric: str) -> pd.DataFrame:
    """Bytes against length in `phase` (train, prefill, decode): [arm, length, ..., *SUMMARY]."""
    raise NotImplementedError


def slopes(records: pd.DataFrame) -> pd.DataFrame:
    """Decode latency slope in s per 1000 positions: [arm, length, batch, ..., *SUMMARY, includes_zero]."""
    raise NotImplementedError


def crossovers(records: pd.DataFrame) -> pd.DataFrame:
    """[workload, a, b, x, ..., estimate, low, high, n, fraction, reason]."""
    raise NotImplementedError


def perplexities(records: pd.DataFrame, per: str = "byte") -> pd.DataFrame:
    """Held-out perplexity per byte, word or token: [arm, n_params, size, ..., *SUMMARY, bits_per_byte]."""
    raise NotImplementedError


def pair_ratios(records: pd.DataFrame) -> pd.DataFrame:
    """retnet / other inside each pair_id: [pair_id, metric, a, b, ..., estimate, low, high, n, verdict]."""
    raise NotImplementedError


def contract_text(records: pd.DataFrame) -> str:
    """The caption: machine, dtype, mode, kernels, threads, sizes and blocks, from the records."""
    raise NotImplementedError
