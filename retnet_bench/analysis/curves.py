"""Tidy summaries of records: one row per point of a curve, with estimate, interval and status.

A point never mixes two contracts: columns that vary at one x separate curves by themselves. A
measured value wins over a failure of the same cell; what was not measured stays nan with its
status and reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from retnet_bench.analysis import rows, statistics
from retnet_bench.analysis.captions import contract_text
from retnet_bench.analysis.pairs import crossovers, pair_ratios
from retnet_bench.analysis.statistics import Interval
from retnet_bench.base import UserError, did_you_mean
from retnet_bench.results.schema import METRICS, OK_STATUSES

__all__ = [
    "contract_text",
    "crossovers",
    "curve",
    "decode_throughput",
    "energy_per_token",
    "final_latency",
    "latency_by_position",
    "memory_by_length",
    "pair_ratios",
    "perplexities",
    "separators",
    "slopes",
    "throughput",
]

SUMMARY = ["estimate", "low", "high", "n", "status", "reason"]
MIN_TIMED_SHARE = 0.9
"""Least part of an energy window that must be timed steps: the rest is not work of tokens."""
UNITS = ("byte", "word", "token")
"""What perplexity is per: column `document_<unit>s` counts them."""


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
    (dtype, size, batch, ...) joins it: read all of them back with `separators`. Without `workload`
    it is the one the metric belongs to. Cells that failed have a nan estimate; `n` counts blocks.
    """
    workload = workload or METRICS[metric].workload or None
    measured = rows.measured(records, metric, workload, phase)
    return _points(measured, rows.failed(records, metric, workload, phase), x, per or [])


def separators(frame: pd.DataFrame) -> list[str]:
    """The columns of a curve that tell its lines apart, besides the arm."""
    return list(frame.columns[2 : list(frame.columns).index("estimate")])


def throughput(records: pd.DataFrame) -> pd.DataFrame:
    """Training tokens/s against length: batch * length / step, sample by sample."""
    steps = rows.measured(records, "train_step_s", "train")
    failed = rows.failed(records, "train_step_s", "train")
    tokens = steps["batch"].astype(float) * steps["length"].astype(float)
    return _points(_per_second(steps, tokens), failed, "length", [])


def energy_per_token(records: pd.DataFrame) -> pd.DataFrame:
    """Training joules per token against length: energy of a block / tokens of its steps.

    A GPU cell's energy is the GPU's (counter, else integrated power), a CPU cell's that of all
    processor packages; `source` names the metric. Blocks whose steps fill less than
    `MIN_TIMED_SHARE` of the window the energy was counted over are left out.
    """
    joules = rows.energies(records)
    steps = rows.measured(records, "train_step_s", "train")
    both = steps.merge(joules, on=["cell_id", *rows.BLOCK], how="inner")
    timed_s = both["samples"].map(np.sum).astype(float)
    both = both[timed_s >= MIN_TIMED_SHARE * both["window_s"]]
    tokens = both["batch"].astype(float) * both["length"].astype(float) * both["samples"].map(len)
    per_token = [np.array([value]) for value in both["joules"] / tokens]
    return _points(rows.with_samples(both, per_token), steps.iloc[:0], "length", ["source"])


def decode_throughput(records: pd.DataFrame) -> pd.DataFrame:
    """Decoded tokens/s against length, per batch (Figure 6b): batch / mean step over positions."""
    steps = rows.over_positions(rows.measured(records, "decode_step_s", "decode"))
    failed = rows.failed(records, "decode_step_s", "decode")
    return _points(_per_second(steps, steps["batch"].astype(float)), failed, "length", ["batch"])


def final_latency(records: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a decode step at the last position against batch, per length (Figure 6c)."""
    steps = rows.at_last_position(rows.measured(records, "decode_step_s", "decode"))
    failed = rows.failed(records, "decode_step_s", "decode")
    return _points(steps, failed, "batch", ["length"])


def latency_by_position(records: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a decode step against position, per length and batch.

    A cell that failed stands at its length, the position it was to reach.
    """
    steps = rows.measured(records, "decode_step_s", "decode")
    failed = rows.failed(records, "decode_step_s", "decode")
    return _points(steps, failed.assign(position=failed["length"]), "position", ["length", "batch"])


def memory_by_length(records: pd.DataFrame, phase: str, metric: str) -> pd.DataFrame:
    """Bytes of `metric` against length in `phase` (train, prefill or decode).

    Where the metric was read at several positions: the reading without a position if there is
    one, else that at the last.
    """
    read = rows.at_last_position(rows.measured(records, metric, phase, phase))
    return _points(read, rows.failed(records, metric, phase, phase), "length", [])


def slopes(records: pd.DataFrame) -> pd.DataFrame:
    """Slope of decode latency over position, in s per 1000 positions.

    Columns [arm, length, batch, *separators, *SUMMARY, includes_zero]; `includes_zero` is null
    where there is no interval, `n` counts the blocks that reached every position.
    """
    steps = rows.measured(records, "decode_step_s", "decode")
    failed = rows.failed(records, "decode_step_s", "decode")
    frame = _points(steps, failed, "length", ["batch"], _slope, along="position")
    short = frame["status"].isin(OK_STATUSES) & frame["estimate"].isna()
    frame.loc[short, "reason"] = "no block reached two positions"
    zero = ((frame["low"] <= 0) & (frame["high"] >= 0)).astype("boolean")
    return frame.assign(includes_zero=zero.where(frame["low"].notna()))


def _slope(points: pd.DataFrame) -> Interval:
    table = rows.block_table(points, "position")
    if table.shape[1] < 2 or table.empty:
        return Interval(np.nan, np.nan, np.nan, 0)
    processes = table.groupby(rows.RUN, dropna=False).ngroup().to_numpy()
    return statistics.slope(table.columns, 1000 * table.to_numpy(), processes)


def perplexities(records: pd.DataFrame, per: str = "byte") -> pd.DataFrame:
    """Held-out perplexity per byte, word or token against n_params, per size.

    Columns [arm, n_params, size, *separators, *SUMMARY, bits_per_byte]; `n` counts documents.
    """
    if per not in UNITS:
        raise UserError(f'unknown unit of perplexity "{per}"{did_you_mean(per, UNITS)}')
    scored = rows.documents(records)
    failed = rows.failed(records, "document_nll_nat", "perplexity")
    frames = [_points(scored, failed, "n_params", ["size"], _perplexity(u)) for u in (per, "byte")]
    return frames[0].assign(bits_per_byte=np.log2(frames[1]["estimate"]))


def _perplexity(per: str) -> Callable[[pd.DataFrame], Interval]:
    def summary(scored: pd.DataFrame) -> Interval:
        known = scored.dropna(subset=f"document_{per}s")
        return statistics.perplexity(known["value"], known[f"document_{per}s"])

    return summary


def _center(points: pd.DataFrame) -> Interval:
    return statistics.center(rows.blocks(points))


def _per_second(steps: pd.DataFrame, units: pd.Series) -> pd.DataFrame:
    """`steps` with each sample turned from seconds into `units` (one number a row) a second."""
    pairs = zip(units, steps["samples"], strict=True)
    return rows.with_samples(steps, [count / seconds for count, seconds in pairs])


def _points(
    measured: pd.DataFrame,
    failed: pd.DataFrame,
    x: str,
    per: Sequence[str],
    summary: Callable[[pd.DataFrame], Interval] = _center,
    along: str = "",
) -> pd.DataFrame:
    failed = failed[~failed["cell_id"].isin(measured["cell_id"])]
    keys = ["arm", x, *rows.separators(measured, failed, x, per, along)]
    both = pd.concat([measured.assign(has_value=True), failed.assign(has_value=False)])
    points = [[*key, *_point(group, summary)] for key, group in both.groupby(keys, dropna=False)]
    frame = pd.DataFrame(points, columns=[*keys, *SUMMARY])
    return frame.astype({key: both[key].dtype for key in keys} | {"reason": object})


def _point(
    group: pd.DataFrame, summary: Callable[[pd.DataFrame], Interval]
) -> tuple[float, float, float, int, str, str | None]:
    measured = group[group["has_value"]]
    if measured.empty:
        last = group.sort_values("recorded_at").iloc[-1]
        return (np.nan, np.nan, np.nan, 0, last["status"], _text(last["reason"]))
    interval = summary(measured)
    impure = measured[measured["status"] == "impure"]
    if len(impure):
        return (*interval, "impure", "; ".join(impure["reason"].dropna().unique()))
    return (*interval, "ok", "no interval from one block" if np.isnan(interval.low) else None)


def _text(reason: object) -> str | None:
    return reason if isinstance(reason, str) else None
