"""Tidy summaries of records: one row per point of a curve, with estimate, interval and status.

A point never mixes two contracts: columns that vary at one x separate curves by themselves. A
measured value wins over a failure of the same cell; what was not measured stays nan with its
status and reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import estimates, intervals, replication
from retnet_bench.analysis.statistics.intervals import UNKNOWN, Interval
from retnet_bench.analysis.tables import rows
from retnet_bench.base import UserError, did_you_mean
from retnet_bench.results.schema import EXACT, METRICS, OK_STATUSES, TIMES

SUMMARY = ["estimate", "low", "high", "n", "status", "reason"]
TOO_SHORT = "no block reached two positions"
MIN_TIMED_SHARE = 0.9
"""Least part of an energy window that must be timed steps: the rest is not work of tokens."""
Summary = Callable[[pd.DataFrame], Interval]
_READ = (
    *(*rows.BLOCK_KEYS, "arm", "cell_id", "metric", "length", "seed", "position", "document"),
    *(f"document_{unit}" for unit in rows.UNITS),
    *("samples", "value", "status", "reason", "recorded_at", "has_value"),
)
"""What a summary may read of a point, beside its keys: every further column of a thousand small
frames costs time."""
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
    return summarised(measured, rows.failed(records, metric, workload, phase), x, per or [])


def separators(frame: pd.DataFrame) -> list[str]:
    """The columns of a curve that tell its lines apart, besides the arm."""
    return list(frame.columns[2 : list(frame.columns).index("estimate")])


def throughput(records: pd.DataFrame, per: Sequence[str] = ()) -> pd.DataFrame:
    """Training tokens/s against length, per `per`: batch * length / step, sample by sample."""
    steps = rows.measured(records, "train_step_s", "train")
    failed = rows.failed(records, "train_step_s", "train")
    tokens = steps["batch"].astype(float) * steps["length"].astype(float)
    return summarised(_per_second(steps, tokens), failed, "length", per)


def energy_per_token(records: pd.DataFrame) -> pd.DataFrame:
    """Training joules per token against length: energy of a block / tokens of its steps.

    A GPU cell's energy is the GPU's (counter, else integrated power), a CPU cell's that of all
    processor packages; `source` names the metric. Blocks whose steps fill less than
    `MIN_TIMED_SHARE` of the window the energy was counted over are left out.
    """
    joules = rows.energies(records)
    steps = rows.measured(records, "train_step_s", "train")
    both = steps.merge(joules, on=["cell_id", *rows.BLOCK_KEYS], how="inner")
    timed_s = both["samples"].map(np.sum).astype(float)
    both = both[timed_s >= MIN_TIMED_SHARE * both["window_s"]]
    tokens = both["batch"].astype(float) * both["length"].astype(float) * both["samples"].map(len)
    per_token = [np.array([value]) for value in both["joules"] / tokens]
    return summarised(rows.with_samples(both, per_token), steps.iloc[:0], "length", ["source"])


def decode_throughput(records: pd.DataFrame, per: Sequence[str] = ("batch",)) -> pd.DataFrame:
    """Decoded tokens/s against length, per batch (Figure 6b): batch / mean step over positions."""
    steps = rows.over_positions(rows.measured(records, "decode_step_s", "decode"))
    failed = rows.failed(records, "decode_step_s", "decode")
    return summarised(_per_second(steps, steps["batch"].astype(float)), failed, "length", per)


def final_latency(records: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a decode step at the last position against batch, per length (Figure 6c)."""
    steps = rows.at_last_position(rows.measured(records, "decode_step_s", "decode"))
    failed = rows.failed(records, "decode_step_s", "decode")
    return summarised(steps, failed, "batch", ["length"])


def latency_by_position(records: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a decode step against position, per length and batch.

    A cell that failed stands at its length, the position it was to reach.
    """
    steps = rows.measured(records, "decode_step_s", "decode")
    failed = rows.failed(records, "decode_step_s", "decode")
    return summarised(
        steps, failed.assign(position=failed["length"]), "position", ["length", "batch"]
    )


def memory_by_length(
    records: pd.DataFrame, phase: str, metric: str, per: Sequence[str] = ()
) -> pd.DataFrame:
    """Bytes of `metric` against length in `phase` (train, prefill or decode).

    Where the metric was read at several positions: the reading without a position if there is
    one, else that at the last.
    """
    read = rows.at_last_position(rows.measured(records, metric, phase, phase))
    return summarised(read, rows.failed(records, metric, phase, phase), "length", per)


def memory_metric(records: pd.DataFrame, workload: str) -> str:
    """The metric of the tensors' peak memory: counted on the CPU, read from CUDA elsewhere."""
    known = records[(records["workload"] == workload) & records["value"].notna()]
    read_from_cuda = (known["metric"] == "cuda_peak_allocated_bytes").any()
    counted = (known["metric"] == "peak_tensor_bytes").any()
    return "cuda_peak_allocated_bytes" if read_from_cuda and not counted else "peak_tensor_bytes"


def slopes(records: pd.DataFrame) -> pd.DataFrame:
    """Slope of decode latency over position, in s/position.

    Columns [arm, length, batch, *separators, *SUMMARY, includes_zero]; `includes_zero` is null
    where there is no interval, `n` counts the blocks that reached every position.
    """
    steps = rows.measured(records, "decode_step_s", "decode")
    failed = rows.failed(records, "decode_step_s", "decode")
    frame = summarised(steps, failed, "length", ["batch"], slope, over="position")
    short = frame["status"].isin(OK_STATUSES) & frame["estimate"].isna()
    frame.loc[short, "reason"] = TOO_SHORT
    zero = ((frame["low"] <= 0) & (frame["high"] >= 0)).astype("boolean")
    return frame.assign(includes_zero=zero.where(frame["low"].notna()))


def slope(points: pd.DataFrame) -> Interval:
    """s/position, from the decode steps of one contract; nan where no block has two positions."""
    return _over_positions(points, lambda places, steps: steps)


def growth(points: pd.DataFrame) -> Interval:
    """`slope` times the span of the positions, as a share of the block's mean step: how much more
    the last position takes than the first. Of no unit, so that sizes and machines compare."""
    return _over_positions(
        points,
        lambda places, steps: np.ptp(places) * steps / steps.mean(axis=1, keepdims=True),
    )


def _over_positions(
    points: pd.DataFrame, scaled: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Interval:
    """The slope of `scaled(positions, seconds (blocks, positions))` over positions."""
    table = rows.block_table(points, "position")
    if table.shape[1] < 2 or table.empty:
        return UNKNOWN
    processes = table.groupby(rows.PROCESS_KEYS, dropna=False).ngroup().to_numpy()
    places = table.columns.to_numpy(dtype=float)
    return estimates.slope(places, scaled(places, table.to_numpy()), processes)


def exponent(points: pd.DataFrame) -> Interval:
    """The p of cost = c length^p, from the rows of one contract; of fewer than two lengths: nan."""
    medians = points.assign(median=[np.median(samples) for samples in points["samples"]])
    (table,), process = rows.aligned_blocks(medians, "length", ["median"])
    if table.shape[1] < 2:
        return UNKNOWN
    return estimates.exponent(table.columns, table, process)


def exponents(records: pd.DataFrame) -> pd.DataFrame:
    """How the costs of training, prefill and decoding grow: the p of cost = c length^p (Table 1).

    Columns [arm, workload, what, size, batch, *separators, *SUMMARY, shortest, longest]; the last
    are the range of lengths. `what` is `time` (seconds per sequence, of decode: of a step at the
    last position), `memory` (peak bytes) or `state` (decode: bytes of KV cache or state). Bytes
    are compared at one batch only; of time `batch` is null where one length has one batch. Bytes
    that were counted have an interval of no width.
    """
    found = [
        _exponents(records, workload, what, metric)
        for workload, time in TIMES.items()
        for what, metric in (("time", time), ("memory", memory_metric(records, workload)))
    ]
    found.append(_exponents(records, "decode", "state", "state_bytes"))
    table = pd.concat([part for part in found if len(part)] or found[:1], ignore_index=True)
    last = [*SUMMARY, "shortest", "longest"]
    return table[[*(name for name in table if name not in last), *last]]


def _exponents(records: pd.DataFrame, workload: str, what: str, metric: str) -> pd.DataFrame:
    phase = None if what == "time" else workload
    measured = rows.at_last_position(rows.measured(records, metric, workload, phase))
    failed = rows.failed(records, metric, workload, phase)
    measured, failed = (
        part.assign(what=what, batch=part["batch"].astype(float))
        for part in (measured[measured["value"] > 0], failed)
    )
    if what == "time":
        measured, failed = _per_sequence(measured, failed)
    summary = _counted_exponent if metric in EXACT else exponent
    per = ["what", "size", "batch"]
    frame = summarised(measured, failed, "workload", per, summary, over="length")
    lengths = measured.groupby(["arm", "workload", *separators(frame)], dropna=False)["length"]
    ranges = lengths.agg(shortest="min", longest="max").reset_index()
    return _explained(frame.merge(ranges, how="left"), metric in EXACT)


def _per_sequence(steps: pd.DataFrame, failed: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Times of one sequence; a batch that only follows length is no longer named."""
    samples = zip(steps["samples"], steps["batch"], strict=True)
    steps = rows.with_samples(steps, [seconds / batch for seconds, batch in samples])
    if "batch" in rows.separators(steps, failed, "length", []):
        return steps, failed
    return steps.assign(batch=np.nan), failed.assign(batch=np.nan)


def _counted_exponent(points: pd.DataFrame) -> Interval:
    found = exponent(points)
    return found._replace(low=found.estimate, high=found.estimate)


def _explained(frame: pd.DataFrame, counted: bool) -> pd.DataFrame:
    """`frame` with its reasons; too few lengths are told once of an arm that has no exponent."""
    known = frame["estimate"].notna()
    short = frame["status"].isin(OK_STATUSES) & ~known
    frame.loc[short, "reason"] = "fewer than two lengths at one batch"
    if counted:
        frame.loc[known & frame["reason"].isna(), "reason"] = "counted"
    lacking = short & ~frame["arm"].isin(frame.loc[known, "arm"])
    return pd.concat([frame[~short], frame[lacking].drop_duplicates("arm")])


def perplexities(records: pd.DataFrame, per: str = "byte") -> pd.DataFrame:
    """Held-out perplexity per byte, word or token against n_params, per size and token budget.

    The mean over seeds. Columns [arm, n_params, size, token_budget, *separators, *SUMMARY,
    bits_per_byte, bits_low, bits_high, seeds]; `n` counts documents. With one seed the interval is
    of documents only, and `reason` says so.
    """
    if per not in UNITS:
        raise UserError(f'unknown unit of perplexity "{per}"{did_you_mean(per, UNITS)}')
    frame, bits = (over_seeds(records, "document", "n_params", loss_per(u)) for u in (per, "byte"))
    nats = bits[["estimate", "low", "high"]] / np.log(2)
    frame[["estimate", "low", "high"]] = np.exp(frame[["estimate", "low", "high"]])
    frame[["bits_per_byte", "bits_low", "bits_high"]] = nats
    return frame[[*(name for name in frame if name != "seeds"), "seeds"]]


def by_context(records: pd.DataFrame) -> pd.DataFrame:
    """Perplexity per token against the length of context (Table 8), mean over seeds.

    Columns [arm, context_length, size, token_budget, *separators, *SUMMARY, seeds].
    """
    frame = over_seeds(records, "context", "context_length", loss_per("token"))
    frame[["estimate", "low", "high"]] = np.exp(frame[["estimate", "low", "high"]])
    return frame


def by_position(records: pd.DataFrame) -> pd.DataFrame:
    """Loss in nat per token against position in the document, mean over seeds.

    `position` is the end of a bucket; `length`, which is kept, is the length trained on. Columns
    [arm, position, size, token_budget, length, *separators, *SUMMARY, seeds].
    """
    return over_seeds(records, "position", "position", loss_per("token"), ["length"])


def loss_curve(records: pd.DataFrame) -> pd.DataFrame:
    """Training loss in nat per token against tokens seen, mean over seeds.

    The interval is of seeds, by Student's t. Columns [arm, tokens_seen, size, token_budget,
    *separators, *SUMMARY, seeds].
    """
    losses = rows.measured(records, "train_loss_nat", "perplexity")
    per = ["size", "token_budget"]
    frame = summarised(losses, losses.iloc[:0], "tokens_seen", per, mean_over_seeds, over="seed")
    return count_seeds(frame, losses)


def over_seeds(
    records: pd.DataFrame, kind: str, x: str, summary: Summary, per: Sequence[str] = ()
) -> pd.DataFrame:
    """The points of what was scored (`rows.documents`), with `seeds`; seeds are replicas and
    separate nothing."""
    scored = rows.documents(records, kind)
    failed = rows.failed(records, f"{kind}_nll_nat", "perplexity")
    if x != "n_params":
        failed = failed.iloc[:0]  # a failed cell has no place on such an axis
    frame = summarised(scored, failed, x, ["size", "token_budget", *per], summary, over="seed")
    frame = count_seeds(frame, scored)
    alone = (frame["seeds"] == 1) & frame["reason"].isna()
    return frame.assign(reason=frame["reason"].mask(alone, "one seed: interval of documents only"))


def count_seeds(frame: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """`frame` of `summarised` with how many cells of `scored` each of its rows is of."""
    keys = list(frame.columns[: list(frame.columns).index("estimate")])
    seeds = scored.groupby(keys, dropna=False)["cell_id"].nunique().rename("seeds")
    counted = frame.merge(seeds.reset_index(), on=keys, how="left")
    return counted.assign(seeds=counted["seeds"].fillna(0).astype(int))


def mean_over_seeds(points: pd.DataFrame) -> Interval:
    """The mean of one value a cell."""
    levels = points.groupby("cell_id")["value"].last().to_numpy(dtype=float)
    return replication.mean(levels)


def loss_per(per: str) -> Summary:
    """The loss in nat per byte, word or token of one point's scores."""

    def summary(scored: pd.DataFrame) -> Interval:
        (point,) = rows.scores([scored], f"{per}s")
        return replication.loss(point)

    return summary


def _center(points: pd.DataFrame) -> Interval:
    return estimates.center(rows.blocks(points))


def _per_second(steps: pd.DataFrame, units: pd.Series) -> pd.DataFrame:
    """`steps` with each sample turned from seconds into `units` (one number a row) a second."""
    pairs = zip(units, steps["samples"], strict=True)
    return rows.with_samples(steps, [count / seconds for count, seconds in pairs])


def summarised(
    measured: pd.DataFrame,
    failed: pd.DataFrame,
    x: str,
    per: Sequence[str],
    summary: Summary = _center,
    over: str = "",
) -> pd.DataFrame:
    """A row for each arm, value of `x` and set of separators (`rows.separators`): `summary` of its
    measured rows, of which it reads columns in `_READ`, or why there is none."""
    if measured.empty and failed.empty:  # as most are, of a study that asks one thing
        frame = measured.reindex(columns=[*dict.fromkeys(["arm", x, *per]), *SUMMARY])
        return frame.astype({"status": object, "reason": object})
    failed = failed[~failed["cell_id"].isin(measured["cell_id"])]
    keys = ["arm", x, *rows.separators(measured, failed, x, per, over)]
    both = pd.concat([measured.assign(has_value=True), failed.assign(has_value=False)])
    both = both[[*dict.fromkeys([*keys, *(name for name in _READ if name in both)])]]
    points = [[*key, *_point(group, summary)] for key, group in both.groupby(keys, dropna=False)]
    frame = pd.DataFrame(points, columns=[*keys, *SUMMARY])
    return frame.astype({key: both[key].dtype for key in keys} | {"reason": object})


def _point(
    group: pd.DataFrame, summary: Summary
) -> tuple[float, float, float, int, str, str | None]:
    has_value = group["has_value"].to_numpy(dtype=bool)
    if not has_value.any():
        last = group.sort_values("recorded_at").iloc[-1]
        return (np.nan, np.nan, np.nan, 0, last["status"], _text(last["reason"]))
    whole = has_value.all()  # nearly always: a copy takes longer than the rest
    measured = group if whole else group[has_value]
    interval = summary(measured)
    impure = measured["reason"][measured["status"] == "impure"]
    if len(impure):
        return (*interval, "impure", "; ".join(impure.dropna().unique()))
    lost = group.iloc[:0] if whole else group[~has_value]
    return (*interval, "ok", _caveat(interval, str(measured["metric"].iloc[0]), lost))


def _caveat(interval: Interval, metric: str, lost: pd.DataFrame) -> str | None:
    if len(lost):
        last = lost.sort_values("recorded_at").drop_duplicates("cell_id", keep="last")
        return f"without {len(last)} that failed: {', '.join(sorted(last['status'].unique()))}"
    if metric in EXACT or not np.isnan(interval.low):
        return None
    return intervals.why_no_interval(interval.n, rows.replica(metric))


def _text(reason: object) -> str | None:
    return reason if isinstance(reason, str) else None
