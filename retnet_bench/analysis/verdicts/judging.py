"""Claims judged on records: holds, does not hold, inconclusive or not measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import (
    compute_optimal,
    crossings,
    estimates,
    intervals,
    replication,
)
from retnet_bench.analysis.statistics.intervals import UNKNOWN, Interval
from retnet_bench.analysis.tables import best_rates, curves, optimum, ratios, rows, scaling
from retnet_bench.analysis.verdicts.claims import COMPARISONS, CROSSES, PERPLEXITY, RATES, Claim
from retnet_bench.base import UserError, natural
from retnet_bench.results.quantities import SLOPE
from retnet_bench.results.schema import EXACT, METRICS, TIMES

Verdict = Literal["holds", "does not hold", "inconclusive", "not measured"]

_UNITS = {"ratio": "x", "equal_compute": "x", "slope": SLOPE.unit, "growth": "%", "exponent": ""}
_X_UNITS = {"length": "tokens", "position": "tokens", "n_params": "parameters"}


@dataclass(frozen=True)
class Finding:
    """What the records say to a claim: our number in `unit`, and why if there is none."""

    claim: Claim
    verdict: Verdict
    interval: Interval
    unit: str
    at: str = ""
    """The cells it was taken from, such as "size 3M, length 8192, batch 8"."""
    reason: str = ""


class _NotMeasured(Exception):
    """Why the records do not give a claim's number."""


def evaluate(records: pd.DataFrame, claims: Sequence[Claim]) -> list[Finding]:
    """A finding per claim, in order."""
    return [_finding(records, claim) for claim in claims]


def _finding(records: pd.DataFrame, claim: Claim) -> Finding:
    try:
        cells = _chosen(records, claim)
        interval = _KINDS[claim.measure.kind](cells, claim)
    except _NotMeasured as why:
        return Finding(claim, "not measured", UNKNOWN, _unit(claim), reason=str(why))
    if np.isnan(interval.low) and claim.measure.metric in EXACT:
        interval = interval._replace(low=interval.estimate, high=interval.estimate)
    of = rows.replica(_base(claim))
    reason = intervals.why_no_interval(interval.n, of) if np.isnan(interval.low) else ""
    verdict = judge(claim, interval)
    return Finding(claim, verdict, interval, _unit(claim), _conditions(cells, claim), reason)


def judge(claim: Claim, interval: Interval) -> Verdict:
    """The claim's comparison with the interval's ends."""
    if np.isnan(interval.low):
        return "inconclusive"
    name = next(name for name in COMPARISONS if getattr(claim, name) is not None)
    holds, fails = COMPARISONS[name](interval.low, interval.high, getattr(claim, name))
    return "holds" if holds else "does not hold" if fails else "inconclusive"


def _unit(claim: Claim) -> str:
    kind, metric = claim.measure.kind, claim.measure.metric
    if kind == "crossover":
        return _X_UNITS[CROSSES[claim.where.workload]]
    if kind == "level":
        assert metric is not None
        known = METRICS.get(metric)
        return known.unit if known else "" if metric == PERPLEXITY else "tokens/s"
    return _UNITS[kind]


def _chosen(records: pd.DataFrame, claim: Claim) -> pd.DataFrame:
    """The records of the claim's arms and cells; raises _NotMeasured when they hold no value."""
    where = claim.where.model_dump(exclude_none=True, exclude={"position"})
    cells = records[records["arm"].isin(claim.arms)]
    largest = [key for key, value in where.items() if value == "max"]
    best = [key for key, value in where.items() if value == "best"]
    for key in where.keys() - {*largest, *best}:
        cells = cells[cells[key] == where[key]]
    _refuse_empty(cells, claim)
    if best:
        cells = best_rates.at_best(cells)
    for key in largest:
        cells = cells[cells[key] == _largest(cells, key, claim)]
    _refuse_empty(cells, claim)
    return cells


def _largest(cells: pd.DataFrame, key: str, claim: Claim) -> Any:
    """The largest value of `key` that was measured for every arm."""
    measured = cells[cells["cell_id"].isin(_measured(cells, claim)["cell_id"])]
    arms = [set(measured.loc[measured["arm"] == arm, key]) for arm in claim.arms]
    shared = measured[measured[key].isin(set.intersection(*arms))]
    if shared.empty:
        raise _NotMeasured(f"{' and '.join(claim.arms)} were measured at no {key} in common")
    return shared.sort_values("n_params" if key == "size" else key)[key].iloc[-1]


def _base(claim: Claim) -> str:
    """The metric of the records that the claim's number comes from."""
    metric = claim.measure.metric
    if claim.where.workload == "perplexity" and metric in (None, PERPLEXITY):
        return "document_nll_nat"
    if metric is None:
        return TIMES[claim.where.workload]
    return RATES[metric][0] if metric in RATES else metric


def _measured(cells: pd.DataFrame, claim: Claim) -> pd.DataFrame:
    workload = claim.where.workload
    phase = workload if METRICS[_base(claim)].unit == "bytes" else None
    return rows.measured(cells, _base(claim), workload, phase)


def _refuse_empty(cells: pd.DataFrame, claim: Claim) -> None:
    measured = _measured(cells, claim)
    lacking = [arm for arm in claim.arms if arm not in set(measured["arm"])]
    if not lacking:
        return
    lost = rows.failed(cells, _base(claim), claim.where.workload)
    lost = lost[lost["arm"].isin(lacking)].sort_values("recorded_at")
    if len(lost):
        last = lost.iloc[-1]
        raise _NotMeasured(f"{last['arm']} {last['status']}: {last['reason']}")
    raise _NotMeasured(f"no {_base(claim)} of {' and '.join(lacking)} at {_asked(claim)}")


def _asked(claim: Claim) -> str:
    settings = claim.where.model_dump(exclude_none=True)
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _values(cells: pd.DataFrame, claim: Claim) -> pd.DataFrame:
    """The measured rows, one position a block, with samples in the unit of the claim's metric."""
    values = _measured(cells, claim)
    position = claim.where.position
    if position is None and _base(claim) == "decode_step_s":
        values = rows.over_positions(values)
    elif position in (None, "max"):
        values = rows.at_last_position(values)
    else:
        values = values[values["position"] == position]
    values = values[values["value"] > 0]
    if values.empty:
        at = "" if position is None else f" at position {position}"
        raise _NotMeasured(f"no {_base(claim)} above 0{at}")
    if claim.measure.metric in RATES:
        tokens = RATES[claim.measure.metric][1](values).astype(float)
        pairs_ = zip(tokens, values["samples"], strict=True)
        values = rows.with_samples(values, [count / seconds for count, seconds in pairs_])
    return values


def _refuse_several(values: pd.DataFrame, free: str = "") -> None:
    """A number comes from one contract, but for column `free`; the rest must be said."""
    x = free if free in ("length", "size") else "length"
    left_open = rows.separators(values, values.iloc[:0], x, [], free)
    if x != free and values[x].nunique() > 1:
        left_open = [x, *left_open]
    if left_open:
        found = [
            f"{key} ({', '.join(sorted(map(str, values[key].dropna().unique()), key=natural))})"
            for key in left_open
        ]
        raise _NotMeasured(f"where leaves open: {', '.join(found)}; say which")


def _conditions(cells: pd.DataFrame, claim: Claim) -> str:
    """What the number was taken at, as far as it is one value."""
    measured = _measured(cells, claim)
    known = [key for key in ("size", "length", "batch") if measured[key].nunique() == 1]
    settings = [f"{key} {measured[key].iloc[0]}" for key in known]
    budgets = measured["token_budget"].dropna().unique()
    if len(budgets) == 1:
        settings.append(f"after {int(budgets[0]):,} tokens")
    if claim.measure.kind == "equal_compute":
        settings = ["the most compute of both, each at its best size by the joint law"]
    position = claim.where.position
    if position is not None:
        settings.append("last position" if position == "max" else f"position {position}")
    if claim.where.learning_rate is not None:
        rate = claim.where.learning_rate
        settings.append(
            "each arm's best learning rate" if rate == "best" else f"learning rate {rate:g}"
        )
    return ", ".join(settings)


def _ratio(cells: pd.DataFrame, claim: Claim) -> Interval:
    of, over = claim.arms
    if claim.measure.metric == PERPLEXITY:
        _refuse_several(_any_seed(_measured(cells, claim)))
        found = list(ratios.perplexity_ratios(cells, of, over))
        if not found:
            raise _NotMeasured("the arms scored no document in common")
        return Interval(*(found[0][name] for name in Interval._fields))
    values = _values(cells, claim)
    _refuse_several(values)
    paired = ratios.pair_up(values, of, over)
    if paired.empty:
        raise _NotMeasured("the arms were not measured side by side")
    return ratios.of_blocks(paired)


def _level(cells: pd.DataFrame, claim: Claim) -> Interval:
    if claim.measure.metric == PERPLEXITY:
        _refuse_several(_any_seed(_measured(cells, claim)))
        frame = curves.perplexities(cells).dropna(subset="estimate")
        return Interval(*(frame[name].iloc[0] for name in Interval._fields))
    values = _values(cells, claim)
    _refuse_several(values)
    return estimates.center(rows.blocks(values))


def _slope(cells: pd.DataFrame, claim: Claim) -> Interval:
    return _over_positions(cells, claim, curves.slope, SLOPE.factor)


def _growth(cells: pd.DataFrame, claim: Claim) -> Interval:
    return _over_positions(cells, claim, curves.growth, 100)


def _over_positions(
    cells: pd.DataFrame,
    claim: Claim,
    of: Callable[[pd.DataFrame], Interval],
    factor: float,
) -> Interval:
    steps = _measured(cells, claim)
    _refuse_several(steps, "position")
    found = of(steps)
    if np.isnan(found.estimate):
        raise _NotMeasured(curves.TOO_SHORT)
    estimate, low, high = (factor * end for end in found[:3])
    return Interval(estimate, low, high, found.n)


def _exponent(cells: pd.DataFrame, claim: Claim) -> Interval:
    values = _values(cells, claim)
    _refuse_several(values, "length")
    found = curves.exponent(values)
    if np.isnan(found.estimate):
        raise _NotMeasured("fewer than two lengths")
    return found


def _crossover(cells: pd.DataFrame, claim: Claim) -> Interval:
    x = CROSSES[claim.where.workload]
    if x == "n_params":
        return _perplexity_crossover(cells, claim)
    values = _measured(cells, claim)
    _refuse_several(values, x)
    line = ratios.pair_up(values, *claim.arms)
    (a, b), process = rows.aligned_blocks(line, x, ["a", "b"])
    if a.shape[1] < 2:
        raise _NotMeasured(f"fewer than two values of {x} with both arms")
    return crossings.last_crossover(a.columns, a, b, process)


def _perplexity_crossover(cells: pd.DataFrame, claim: Claim) -> Interval:
    """Sizes are named by the parameters of the arm `of`; the documents are those of every size."""
    _refuse_several(_any_seed(_measured(cells, claim)), "size")
    documents = rows.documents(cells)
    paired = documents[documents.groupby("pair_id")["arm"].transform("nunique") == 2]
    of, over = (paired[paired["arm"] == arm] for arm in claim.arms)
    sizes = of.sort_values("n_params").drop_duplicates("size")
    if len(sizes) < 2:
        raise _NotMeasured("fewer than two sizes with both arms")
    points = rows.scores(
        [arm[arm["size"] == size] for arm in (of, over) for size in sizes["size"]], "bytes"
    )
    if not points[0].units.size:
        raise _NotMeasured("the sizes scored no document in common")
    half = len(sizes)
    return replication.perplexity_last_crossover(sizes["n_params"], points[:half], points[half:])


def _equal_compute(cells: pd.DataFrame, claim: Claim) -> Interval:
    """Losses by the joint laws of both arms, where both have most compute."""
    try:
        found = scaling.fits(cells, variable=scaling.JOINT)
    except UserError as error:
        raise _NotMeasured(str(error)) from None
    best = optimum.optimum(found)
    of, over = claim.arms
    if best is None or not {of, over} <= best.frontiers.keys():
        lacks = "; ".join(found.missing) or "one token budget, or no FLOPs recorded"
        raise _NotMeasured(f"no joint law of both arms: {lacks}")
    for arm in (of, over):
        if beyond := best.beyond(arm, best.high):
            raise _NotMeasured(f"the best {arm} for the most compute would have {beyond}")
    return compute_optimal.loss_ratio(best.frontiers[of], best.frontiers[over], best.high)


def _any_seed(values: pd.DataFrame) -> pd.DataFrame:
    """Scores of trainings from several seeds are replicas: the seed leaves nothing open."""
    return values.assign(seed=0)


_KINDS: Mapping[str, Callable[[pd.DataFrame, Claim], Interval]] = {
    "ratio": _ratio,
    "level": _level,
    "slope": _slope,
    "growth": _growth,
    "exponent": _exponent,
    "crossover": _crossover,
    "equal_compute": _equal_compute,
}
