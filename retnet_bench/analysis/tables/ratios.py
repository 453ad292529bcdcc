"""Comparisons inside pairs: ratios of two arms, and where their order changes.

Arms are compared only where their `pair_id` is the same, and only block by block of one run: a
ratio of values taken at different times would contain the weather in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import crossings, estimates, intervals
from retnet_bench.analysis.statistics.crossings import Crossover
from retnet_bench.analysis.statistics.intervals import UNKNOWN, Interval
from retnet_bench.analysis.statistics.replication import perplexity_ratio
from retnet_bench.analysis.statistics.resampling import of_values
from retnet_bench.analysis.tables import baselines, rows
from retnet_bench.analysis.tables.floor import Floor, Floors
from retnet_bench.base import UserError
from retnet_bench.results.coordinates import COORDINATES
from retnet_bench.results.schema import EXACT, OK_STATUSES, PARTS, TIMES

BASELINE_MIXER = "attention"
"""The Transformer's: arms that have it are the baselines of a study that names none."""
_RESULT = ["estimate", "low", "high", "n"]
_ALONG = {"decode": "position"}
"""What the arms of a workload may cross over, if not length."""
_BYTES = (
    *("peak_rss_bytes", "peak_tensor_bytes", "cuda_peak_allocated_bytes"),
    *("cuda_peak_reserved_bytes", "nvml_used_bytes", "weight_bytes", "state_bytes"),
)
_PLACE = ["pair_id", *COORDINATES, *rows.BLOCK_KEYS]
_SHOWN = ["workload", *rows.PAIR_KEYS]
_WHOLE = ["threads", "vocab_size", "seed", "token_budget", "new_tokens"]


def sides(records: pd.DataFrame) -> list[tuple[str, str]]:
    """The arms to compare, as (a, b): each arm of a study with the study's baseline; the arms of
    studies that state none with each Transformer among them.

    Where all of those are Transformers, or none is, the first by name with each other one.
    """
    arms = set(records["arm"])
    stated = {
        str(study): str(arm) for study, arm in baselines.stated(records).items() if arm in arms
    }
    arms_of = records.groupby("study")["arm"].unique()
    compared = {
        (str(arm), baseline)
        for study, baseline in stated.items()
        for arm in arms_of[study]
        if arm != baseline
    }
    others = _unstated(records[~records["study"].isin(stated)])
    return [*sorted(compared), *(pair for pair in others if pair not in compared)]


def _unstated(records: pd.DataFrame) -> list[tuple[str, str]]:
    arms, transformers = set(records["arm"]), sorted(_transformers(records))
    others = sorted(arms - set(transformers))
    if not (transformers and others):
        first, *rest = sorted(arms) or [""]
        return [(first, arm) for arm in rest]
    return [(a, b) for a in others for b in transformers]


def _transformers(records: pd.DataFrame) -> set[str]:
    mixers = records.dropna(subset="mixer").groupby("arm")["mixer"].first()
    return set(mixers.index[mixers == BASELINE_MIXER])


def crossovers(records: pd.DataFrame) -> pd.DataFrame:
    """From which length (train, prefill) or position (decode) on which arm costs less time.

    Columns [workload, a, b, x, *separators, estimate, low, high, n, fraction, reason]; estimate is
    nan when there is no crossover in range, and `reason` then says who is ahead.
    """
    found = [
        row
        for workload, metric in TIMES.items()
        for row in _crossovers(records, workload, metric, _ALONG.get(workload, "length"))
    ]
    separators = list(dict.fromkeys(key for row in found for key in row["per"]))
    flat = [row | row.pop("per") for row in found]
    columns = ["workload", "a", "b", "x", *separators, *_RESULT, "fraction", "reason"]
    return pd.DataFrame(flat, columns=columns)


def _crossovers(
    records: pd.DataFrame, workload: str, metric: str, x: str
) -> Iterator[dict[str, Any]]:
    steps = rows.measured(records, metric, workload)
    given = ["length", "batch"] if x == "position" else []
    for a, b in sides(steps) if len(steps) else []:
        of_a = steps[steps["arm"] == a]
        per = rows.separators(of_a, of_a.iloc[:0], x, given)
        paired = pair_up(steps, a, b)
        lines = paired.groupby(per, dropna=False) if per else [((), paired)]
        for key, line in lines:
            crossover = _crossover(line, x, (a, b))
            yield {
                "workload": workload,
                "a": a,
                "b": b,
                "x": x,
                "per": dict(zip(per, key, strict=True)),
                **(crossover.interval or UNKNOWN)._asdict(),
                "fraction": crossover.fraction,
                "reason": crossover.reason,
            }


def _crossover(line: pd.DataFrame, x: str, names: tuple[str, str]) -> Crossover:
    (a, b), process = rows.aligned_blocks(line, x, ["a", "b"])
    if a.shape[1] < 2:
        return Crossover(None, np.nan, f"fewer than two values of {x} with both arms")
    return crossings.crossover(a.columns, a, b, process, names)


def pair_ratios(records: pd.DataFrame, floors: Floors | None = None) -> pd.DataFrame:
    """a / b inside each pair: a row per pair, metric and phase, with a verdict in words.

    Times are per block (decode: its mean over positions), bytes as read, perplexity per byte over
    the documents both arms scored, from all of their seeds (`pair_id` is then one seed's). Columns
    [pair_id, metric, phase, a, b, workload, *rows.PAIR, estimate, low, high, n, status, verdict];
    `phase` is the context of a score.
    `floors` are the noise floors of the timed metrics: a ratio below its own shows no difference.
    """
    found = [
        row
        for a, b in sides(records)
        for row in (
            *_timed(records, a, b, floors or {}),
            *perplexity_ratios(records, a, b),
            *_lost(records, a, b),
        )
    ]
    columns = ["pair_id", "metric", "phase", "a", "b", *_SHOWN, *_RESULT, "status", "verdict"]
    return pd.DataFrame(found, columns=columns).astype(dict.fromkeys(_WHOLE, "Int64"))


def _timed(records: pd.DataFrame, a: str, b: str, floors: Floors) -> Iterator[dict[str, Any]]:
    for metric in (*TIMES.values(), *PARTS, *_BYTES):
        values = rows.measured(records, metric)
        if values.empty:
            continue
        if metric == "decode_step_s":
            values = rows.over_positions(values)
        values = rows.at_last_position(values[values["value"] > 0])
        paired = pair_up(values, a, b)
        for _, pair in paired.groupby(["pair_id", "phase"], dropna=False):
            yield _row(pair, metric, a, b, of_blocks(pair), floors.get(metric))
        yield from _apart(values, paired, metric, a, b)


def of_blocks(paired: pd.DataFrame) -> Interval:
    """The ratio a / b of blocks that `pair_up` paired."""
    process = rows.processes(paired)
    return estimates.log_ratio(of_values(process, paired["a"]), of_values(process, paired["b"]))


def _apart(
    values: pd.DataFrame, paired: pd.DataFrame, metric: str, a: str, b: str
) -> Iterator[dict[str, Any]]:
    """Pairs whose arms have values, but none taken side by side."""
    of = {arm: set(values.loc[values["arm"] == arm, "pair_id"]) for arm in (a, b)}
    apart = values[values["pair_id"].isin((of[a] & of[b]) - set(paired["pair_id"]))]
    for _, pair in apart.groupby(["pair_id", "phase"], dropna=False):
        row = _row(pair, metric, a, b, UNKNOWN)
        yield row | {"verdict": "no comparison: the arms were not measured side by side"}


def perplexity_ratios(records: pd.DataFrame, a: str, b: str) -> Iterator[dict[str, Any]]:
    """A row per contract but the seed: seeds replicate a pair, documents pair its arms."""
    documents = rows.in_common(rows.documents(records))
    chosen = documents[documents["arm"].isin([a, b])]
    contract = [name for name in (*rows.PAIR_KEYS, "context") if name != "seed"]
    for _, pair in chosen.groupby(contract, dropna=False):
        sides = [pair[pair["arm"] == arm] for arm in (a, b)]
        if any(side.empty for side in sides):
            continue
        scores = rows.scores(sides, "bytes")
        if scores[0].units.size:
            row = _row(pair, "perplexity_per_byte", a, b, perplexity_ratio(*scores))
            row["phase"] = pair["context"].iloc[0]
            seeds = min(len(side.nll) for side in scores)
            yield row if seeds > 1 else row | {"verdict": f"{row['verdict']} (one seed)"}
    yield from _elsewhere(chosen, a, b, [name for name in contract if name != "machine"])


def _elsewhere(
    documents: pd.DataFrame, a: str, b: str, contract: list[str]
) -> Iterator[dict[str, Any]]:
    """Contracts whose arms were scored, but on no machine both."""
    for _, pair in documents.groupby(contract, dropna=False):
        on = [set(pair.loc[pair["arm"] == arm, "machine"]) for arm in (a, b)]
        if all(on) and not on[0] & on[1]:
            names = [f"{arm} on {' and '.join(sorted(where))}" for arm, where in zip((a, b), on)]
            row = _row(pair, "perplexity_per_byte", a, b, UNKNOWN)
            words = f"no comparison: the arms ran on unlike machines, {', '.join(names)}"
            yield row | {"phase": pair["context"].iloc[0], "verdict": words}


def _lost(records: pd.DataFrame, a: str, b: str) -> Iterator[dict[str, Any]]:
    """Pairs with a failed arm: a row that says which and how."""
    measured = records.loc[records["status"].isin(OK_STATUSES), "cell_id"]
    lost = (records["metric"] == "outcome") & records["arm"].isin([a, b])
    for _, pair in records[lost & ~records["cell_id"].isin(measured)].groupby("pair_id"):
        last = pair.sort_values("recorded_at").drop_duplicates("cell_id", keep="last")
        whose = ", ".join(f"{row.arm} {row.status}" for row in last.itertuples())
        row = _row(pair, "outcome", a, b, UNKNOWN)
        yield row | {"status": pair["status"].iloc[0], "verdict": f"no comparison: {whose}"}


def _row(
    pair: pd.DataFrame, metric: str, a: str, b: str, ratio: Interval, floor: Floor | None = None
) -> dict[str, Any]:
    shared = {name: pair[name].iloc[0] for name in ("pair_id", "phase", *_SHOWN)}
    status = "impure" if (pair["status"] == "impure").any() else "ok"
    known = {"metric": metric, "a": a, "b": b, "status": status}
    return {**shared, **known, **ratio._asdict(), "verdict": verdict(metric, a, b, ratio, floor)}


def verdict(metric: str, a: str, b: str, ratio: Interval, floor: Floor | None = None) -> str:
    """The ratio a / b in words: `retnet 1.5 x faster than transformer`, and how sure it is."""
    if np.isnan(ratio.estimate):
        return "no comparison"
    timed = metric in (*TIMES.values(), *PARTS)
    more, less = ("slower", "faster") if timed else ("more", "less")
    if metric == "perplexity_per_byte":
        more, less = "worse", "better"
    size = max(ratio.estimate, 1 / ratio.estimate)
    part = 1 - ratio.estimate if ratio.estimate < 1 and not timed else size - 1
    amount = f"{size:.3g} x" if size >= 1.1 else f"{100 * part:.2g} %"
    words = f"{a} {amount} {less if ratio.estimate < 1 else more} than {b}"
    if np.isnan(ratio.low):
        known = (
            "exact" if metric in EXACT else intervals.why_no_interval(ratio.n, rows.replica(metric))
        )
        return f"{'equal' if size == 1 else words} ({known})"
    if ratio.low <= 1 <= ratio.high:
        return "no difference shown"
    if floor and floor.value is not None and size <= 1 + floor.value:
        return f"no difference shown (below the noise floor of {100 * floor.value:.2g} %)"
    return words


def pair_up(values: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Rows of `a` with its block's median as column a, and that of the same block of b as b."""
    medians = [np.median(samples) for samples in values["samples"]]
    values = values.assign(median=np.array(medians, dtype=float))
    of_a, of_b = (values[values["arm"] == arm] for arm in (a, b))
    for side in (of_a, of_b):
        _one_cell_per_pair(side)
    kept = of_b[[*_PLACE, "median", "status"]]
    paired = of_a.merge(kept, on=_PLACE, suffixes=("", "_b"))
    impure = (paired["status"] == "impure") | (paired["status_b"] == "impure")
    paired = paired.assign(status=np.where(impure, "impure", "ok"))
    return paired.rename(columns={"median": "a", "median_b": "b"})


def _one_cell_per_pair(side: pd.DataFrame) -> None:
    cells = side.groupby("pair_id")["cell_id"].nunique()
    if (cells > 1).any():
        raise UserError(
            f'arm "{side["arm"].iloc[0]}" has {cells.max()} cells in pair {cells.idxmax()}: '
            "give arms that differ in kernel or settings names of their own"
        )
