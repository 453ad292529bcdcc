"""Claims: statements about records, the paper's or a user's, with a verdict on each.

A claim names one number that the records give (a ratio of two arms, the level, slope or exponent
of one, the place where one overtakes another) and what it must be. The verdict comes from the
number's 95 % interval: `inconclusive` where the interval straddles the bound, `not measured`, with
the reason, where the records do not give the number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from retnet_bench import paper, yaml_file
from retnet_bench.analysis import curves, pairs, replication, rows, statistics
from retnet_bench.analysis.statistics import UNKNOWN, Interval
from retnet_bench.base import UserError, did_you_mean, printable, quoted
from retnet_bench.fields import Integer, Name, Number, Strict, Text, Word, problem
from retnet_bench.results.schema import EXACT, METRICS, TIMES

Verdict = Literal["holds", "does not hold", "inconclusive", "not measured"]
Bound = Integer | Number
MOST = 1000
"""Claims of a study: each becomes a row of what is printed."""

PERPLEXITY = "perplexity_per_byte"
_RATES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "train_tokens_per_s": ("train_step_s", lambda steps: steps["batch"] * steps["length"]),
    "prefill_tokens_per_s": ("prefill_s", lambda steps: steps["batch"] * steps["length"]),
    "decode_tokens_per_s": ("decode_step_s", lambda steps: steps["batch"]),
}
"""Metrics that are so many tokens over a time of the records."""

_CROSSES = {"train": "length", "prefill": "length", "decode": "position", "perplexity": "n_params"}
_X_UNITS = {"length": "tokens", "position": "tokens", "n_params": "parameters"}


class Measure(Strict):
    """The number: `kind` of `metric` for arm `of`, against arm `over` where two are compared."""

    kind: Literal["ratio", "level", "slope", "exponent", "crossover"]
    metric: Word | None = None
    """Ratio, level and exponent: a metric of the records, a rate or perplexity_per_byte."""
    of: Word
    over: Word | None = None
    """Ratio: the denominator. Crossover: the arm that is overtaken."""


class Where(Strict):
    """The cells: equal to what is said here. `max`: the largest one measured for every arm."""

    workload: Word
    size: Word | None = None
    length: Integer | Literal["max"] | None = None
    batch: Integer | Literal["max"] | None = None
    position: Integer | Literal["max"] | None = None
    """Unsaid: the mean of times over all positions, and memory at the last one."""
    dtype: Word | None = None
    mode: Word | None = None
    device: Word | None = None
    seed: Integer | None = None
    token_budget: Integer | None = None


class Paper(Strict):
    """The number as stated, and under what conditions."""

    value: Bound
    unit: Text
    at: Text
    """Model, length, batch, machine, ... of the stated number."""


class Claim(Strict):
    """One statement. Exactly one of the four comparisons is said."""

    name: Name
    says: Text
    source: Text
    """Section, table or figure of the paper, or whose claim it is."""
    measure: Measure
    where: Where
    at_least: Bound | None = None
    at_most: Bound | None = None
    between: tuple[Bound, Bound] | None = None
    """The whole interval lies inside: what "flat" or "equal" must show."""
    includes: Bound | None = None
    """The interval contains the number: no difference shown, which a wide interval makes easy."""
    paper: Paper | None = None
    figure: Name | None = None
    objection: Text | None = None
    """What critics hold against the stated number, or why ours may differ."""

    @property
    def arms(self) -> list[str]:
        return [arm for arm in (self.measure.of, self.measure.over) if arm]


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


# --- reading and checking -----------------------------------------------------------------------


def models() -> dict[str, type[BaseModel]]:
    """The parts of a claim by the key they stand under, for whoever explains a wrong key."""
    return {"claims": Claim, "measure": Measure, "where": Where, "paper": Paper}


def filled_in(said: object, figures: object) -> object:
    """A study's claims as written, those that name one of the paper's (`claim: decode_faster`)
    filled in: what is said beside the name stands instead of the paper's. The paper's figure
    counts where the study draws it. Raises UserError for a claim the paper does not make."""
    if not isinstance(said, list):
        return said
    known = paper.claims()
    figures = figures if isinstance(figures, list) else []  # else not the claims' to complain of
    return [
        _filled_in(c, known, figures) if isinstance(c, dict) and "claim" in c else c for c in said
    ]


def _filled_in(
    said: dict[str, Any], known: dict[str, dict[str, Any]], figures: Sequence[str]
) -> dict[str, Any]:
    own = dict(said)
    name = own.pop("claim")
    if not isinstance(name, str) or name not in known:
        choices = did_you_mean(name, known) + "; one of your own has name:"
        raise UserError(f'claims: the paper makes no claim "{quoted(name)}"{choices}')
    base = {"name": name, **known[name]}
    if base.get("figure") not in figures:
        base.pop("figure", None)
    if own.keys() & _COMPARISONS.keys():
        base = {key: value for key, value in base.items() if key not in _COMPARISONS}
    return base | own


def beside(results: Path) -> list[Claim]:
    """The claims of the study whose records are in `results`; none without its study.yaml. Raises
    UserError for claims that are none; what else the study says is not looked at."""
    path = results / "study.yaml"
    if not path.is_file():
        return []
    study = yaml_file.parse(yaml_file.read(path), path) or {}
    try:
        if not isinstance(study, dict):
            raise UserError("a study is a mapping with name, question, arms and workloads")
        found = _LIST.validate_python(filled_in(study.get("claims", []), study.get("figures")))
        check(found)
    except ValidationError as error:
        raise UserError(f"{printable(path)}: claims: {problem(error, _keys_at)}") from None
    except UserError as error:
        raise UserError(f"{printable(path)}: {error}") from None
    return found


_LIST = TypeAdapter(Annotated[list[Claim], Field(max_length=MOST)])


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed in a part of a claim."""
    parts = [part for part in place if part in models()]
    return list(models()[str(parts[-1]) if parts else "claims"].model_fields)


def check(claims: Sequence[Claim]) -> None:
    """UserError for a claim that could not be evaluated on any records."""
    names = Counter(claim.name for claim in claims)
    for claim in claims:
        with _named(claim):
            if names[claim.name] > 1:
                raise UserError("the name is given twice")
            _check_comparison(claim)
            _check_measure(claim)


def check_against(
    claims: Sequence[Claim],
    arms: Collection[str],
    workloads: Collection[str],
    figures: Collection[str],
    points: Callable[[str, str], Collection[Any]],
) -> None:
    """UserError for a claim about what a study lacks.

    `points(workload, setting)` are the values the study gives a setting; empty: not known.
    """
    for claim in claims:
        with _named(claim):
            for arm in claim.arms:
                _one_of("arm", arm, arms)
            _one_of("where.workload", claim.where.workload, workloads)
            if claim.figure is not None:
                _one_of("figure", claim.figure, figures)
            for key in ("size", "length", "batch", "dtype", "mode", "seed", "token_budget"):
                value, known = getattr(claim.where, key), points(claim.where.workload, key)
                if value not in (None, "max") and known:
                    _one_of(f"where.{key}", value, known)


@contextmanager
def _named(claim: Claim) -> Iterator[None]:
    """Put the claim's name in front of what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"claims.{claim.name}: {error}") from None


def _one_of(what: str, value: object, known: Collection[object]) -> None:
    if value not in known:
        near = did_you_mean(value, map(str, known))
        raise UserError(f'{what} "{quoted(value)}" is not in the study{near}')


def _check_comparison(claim: Claim) -> None:
    said = [name for name in _COMPARISONS if getattr(claim, name) is not None]
    if len(said) != 1:
        given = " and ".join(said) or "none"
        raise UserError(f"give one of {', '.join(_COMPARISONS)}; {given} stand here")
    if claim.between and claim.between[0] > claim.between[1]:
        raise UserError(f"between: {claim.between[0]} is above {claim.between[1]}")


def _check_measure(claim: Claim) -> None:
    measure, workload = claim.measure, claim.where.workload
    if (measure.over is not None) != (measure.kind in ("ratio", "crossover")):
        need = "needs" if measure.over is None else "compares no arms, so it has no"
        raise UserError(f'measure: a {measure.kind} {need} "over"')
    if measure.over == measure.of:
        raise UserError(f'measure: "of" and "over" are both {quoted(measure.of)}')
    if measure.kind == "slope" and workload != "decode":
        raise UserError(f"measure: a slope is over positions of decode, not of {quoted(workload)}")
    if measure.kind == "crossover" and workload not in _CROSSES:
        near = did_you_mean(workload, _CROSSES)
        raise UserError(f"measure: nothing is known to cross over in {quoted(workload)}{near}")
    if (measure.metric is not None) != (measure.kind in ("ratio", "level", "exponent")):
        need = "needs a" if measure.metric is None else "is of time, so it has no"
        raise UserError(f"measure: a {measure.kind} {need} metric")
    if measure.metric is not None:
        _check_metric(measure.metric, workload, measure.kind)


def _check_metric(metric: str, workload: str, kind: str) -> None:
    known = {name: METRICS[name].workload for name in METRICS if METRICS[name].unit}
    known |= {name: METRICS[base].workload for name, (base, _) in _RATES.items()}
    known[PERPLEXITY] = "perplexity"
    here = [name for name, home in known.items() if home in ("", workload)]
    if metric not in here:
        near = did_you_mean(metric, here)
        raise UserError(f'measure.metric: {quoted(workload)} has no "{quoted(metric)}"{near}')
    if metric == PERPLEXITY and kind == "exponent":
        raise UserError("measure.metric: perplexity has no exponent over length")


# --- evaluating ---------------------------------------------------------------------------------


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
    reason = statistics.why_no_interval(interval.n, of) if np.isnan(interval.low) else ""
    verdict = judge(claim, interval)
    return Finding(claim, verdict, interval, _unit(claim), _conditions(cells, claim), reason)


def judge(claim: Claim, interval: Interval) -> Verdict:
    """The claim's comparison with the interval's ends."""
    if np.isnan(interval.low):
        return "inconclusive"
    name = next(name for name in _COMPARISONS if getattr(claim, name) is not None)
    holds, fails = _COMPARISONS[name](interval.low, interval.high, getattr(claim, name))
    return "holds" if holds else "does not hold" if fails else "inconclusive"


_COMPARISONS: dict[str, Callable[[float, float, Any], tuple[bool, bool]]] = {
    "at_least": lambda low, high, bound: (low >= bound, high < bound),
    "at_most": lambda low, high, bound: (high <= bound, low > bound),
    "between": lambda low, high, bounds: (
        low >= bounds[0] and high <= bounds[1],
        high < bounds[0] or low > bounds[1],
    ),
    "includes": lambda low, high, bound: (low <= bound <= high, not low <= bound <= high),
}
"""Per comparison: from low, high and what was said, whether it holds and whether it fails."""


def _unit(claim: Claim) -> str:
    kind, metric = claim.measure.kind, claim.measure.metric
    if kind == "crossover":
        return _X_UNITS[_CROSSES[claim.where.workload]]
    if kind == "level":
        assert metric is not None
        known = METRICS.get(metric)
        return known.unit if known else "" if metric == PERPLEXITY else "tokens/s"
    return {"ratio": "x", "slope": "\N{MICRO SIGN}s/position", "exponent": ""}[kind]


# --- choosing the cells -------------------------------------------------------------------------


def _chosen(records: pd.DataFrame, claim: Claim) -> pd.DataFrame:
    """The records of the claim's arms and cells; raises _NotMeasured when they hold no value."""
    where = claim.where.model_dump(exclude_none=True, exclude={"position"})
    cells = records[records["arm"].isin(claim.arms)]
    largest = [key for key, value in where.items() if value == "max"]
    for key in where.keys() - set(largest):
        cells = cells[cells[key] == where[key]]
    _refuse_empty(cells, claim)
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
    return _RATES[metric][0] if metric in _RATES else metric


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
    said = claim.where.model_dump(exclude_none=True)
    return ", ".join(f"{key} {value}" for key, value in said.items())


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
    if claim.measure.metric in _RATES:
        tokens = _RATES[claim.measure.metric][1](values).astype(float)
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
            f"{key} ({', '.join(map(str, sorted(values[key].dropna().unique())))})"
            for key in left_open
        ]
        raise _NotMeasured(f"where leaves open: {', '.join(found)}; say which")


def _conditions(cells: pd.DataFrame, claim: Claim) -> str:
    """What the number was taken at, as far as it is one value."""
    measured = _measured(cells, claim)
    known = [key for key in ("size", "length", "batch") if measured[key].nunique() == 1]
    said = [f"{key} {measured[key].iloc[0]}" for key in known]
    position = claim.where.position
    if position is not None:
        said.append("last position" if position == "max" else f"position {position}")
    return ", ".join(said)


# --- the kinds ----------------------------------------------------------------------------------


def _ratio(cells: pd.DataFrame, claim: Claim) -> Interval:
    of, over = claim.arms
    if claim.measure.metric == PERPLEXITY:
        _refuse_several(_any_seed(_measured(cells, claim)))
        found = list(pairs.perplexity_ratios(cells, of, over))
        if not found:
            raise _NotMeasured("the arms scored no document in common")
        return Interval(*(found[0][name] for name in Interval._fields))
    values = _values(cells, claim)
    _refuse_several(values)
    paired = pairs.pair_up(values, of, over)
    if paired.empty:
        raise _NotMeasured("the arms were measured in different runs")
    process = paired.groupby(rows.RUN, dropna=False).ngroup()
    a, b = (list(zip(process, paired[[side]].to_numpy(), strict=True)) for side in ("a", "b"))
    return statistics.log_ratio(a, b)


def _level(cells: pd.DataFrame, claim: Claim) -> Interval:
    if claim.measure.metric == PERPLEXITY:
        _refuse_several(_any_seed(_measured(cells, claim)))
        frame = curves.perplexities(cells).dropna(subset="estimate")
        return Interval(*(frame[name].iloc[0] for name in Interval._fields))
    values = _values(cells, claim)
    _refuse_several(values)
    return statistics.center(rows.blocks(values))


def _slope(cells: pd.DataFrame, claim: Claim) -> Interval:
    _refuse_several(_measured(cells, claim), "position")
    found = curves.slopes(cells).iloc[0]
    if np.isnan(found["estimate"]):
        raise _NotMeasured(found["reason"])
    estimate, low, high = (1e3 * float(found[name]) for name in ("estimate", "low", "high"))
    return Interval(estimate, low, high, int(found["n"]))


def _exponent(cells: pd.DataFrame, claim: Claim) -> Interval:
    values = _values(cells, claim)
    _refuse_several(values, "length")
    found = curves.exponent(values)
    if np.isnan(found.estimate):
        raise _NotMeasured("fewer than two lengths")
    return found


def _crossover(cells: pd.DataFrame, claim: Claim) -> Interval:
    x = _CROSSES[claim.where.workload]
    if x == "n_params":
        return _perplexity_crossover(cells, claim)
    values = _measured(cells, claim)
    _refuse_several(values, x)
    line = pairs.pair_up(values, *claim.arms)
    (a, b), process = rows.along(line, x, ["a", "b"])
    if a.shape[1] < 2:
        raise _NotMeasured(f"fewer than two values of {x} with both arms")
    return statistics.overtaking(a.columns, a, b, process)


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
    return replication.perplexity_overtaking(sizes["n_params"], points[:half], points[half:])


def _any_seed(values: pd.DataFrame) -> pd.DataFrame:
    """Scores of trainings from several seeds are replicas: the seed leaves nothing open."""
    return values.assign(seed=0)


_KINDS: Mapping[str, Callable[[pd.DataFrame, Claim], Interval]] = {
    "ratio": _ratio,
    "level": _level,
    "slope": _slope,
    "exponent": _exponent,
    "crossover": _crossover,
}
