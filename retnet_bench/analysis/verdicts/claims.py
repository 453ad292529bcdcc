"""Claims as a study states them: what is asked of which cells, read and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from retnet_bench import paper, yaml_file
from retnet_bench.base import UserError, did_you_mean, located, printable, quoted
from retnet_bench.fields import Integer, Name, Number, Strict, Text, Word, problem
from retnet_bench.results.schema import METRICS

Bound = Integer | Number
MOST = 1000
"""Claims of a study: each becomes a row of what is printed."""

PERPLEXITY = "perplexity_per_byte"

RATES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "train_tokens_per_s": ("train_step_s", lambda steps: steps["batch"] * steps["length"]),
    "prefill_tokens_per_s": ("prefill_s", lambda steps: steps["batch"] * steps["length"]),
    "decode_tokens_per_s": ("decode_step_s", lambda steps: steps["batch"]),
    "generate_tokens_per_s": ("request_s", lambda of: of["batch"] * of["new_tokens"]),
}
"""Metrics that are so many tokens over a time of the records."""

CROSSES = {
    **dict.fromkeys(("train", "prefill", "generate"), "length"),
    "decode": "position",
    "perplexity": "n_params",
}


_SETTINGS = (
    *("size", "length", "batch", "new_tokens", "dtype", "mode"),
    *("seed", "token_budget", "tokens_per_param", "learning_rate"),
)
"""Of `Where`: those that a study's settings name, too."""


class Measure(Strict):
    """The number: `kind` of `metric` for arm `of`, against arm `over` where two are compared."""

    kind: Literal["ratio", "level", "slope", "growth", "exponent", "crossover", "equal_compute"]
    metric: Word | None = None
    """Ratio, level and exponent: a metric of the records, a rate or perplexity_per_byte."""
    of: Word
    over: Word | None = None
    """Ratio and equal_compute: the denominator. Crossover: the arm that is overtaken."""


class Where(Strict):
    """The cells: equal to what is said here. `max`: the largest one measured for every arm."""

    workload: Word
    size: Word | None = None
    length: Integer | Literal["max"] | None = None
    batch: Integer | Literal["max"] | None = None
    new_tokens: Integer | Literal["max"] | None = None
    """Generation."""
    position: Integer | Literal["max"] | None = None
    """Unsaid: the mean of times over all positions, and memory at the last one."""
    dtype: Word | None = None
    mode: Word | None = None
    device: Word | None = None
    seed: Integer | None = None
    token_budget: Integer | None = None
    tokens_per_param: Number | None = None
    learning_rate: Number | Literal["best"] | None = None
    """Perplexity. `best`: each arm at its own, of those that the study tries."""


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


def models() -> dict[str, type[BaseModel]]:
    """The parts of a claim by the key they stand under, for whoever explains a wrong key."""
    return {"claims": Claim, "measure": Measure, "where": Where, "paper": Paper}


def filled_in(written: object, figures: object) -> object:
    """A study's claims as written, those that name one of the paper's (`claim: decode_faster`)
    filled in: what is said beside the name stands instead of the paper's. The paper's figure
    counts where the study draws it. Raises UserError for a claim the paper does not make."""
    if not isinstance(written, list):
        return written
    known = paper.claims()
    figures = figures if isinstance(figures, list) else []  # else not the claims' to complain of
    return [
        _filled_in(c, known, figures) if isinstance(c, dict) and "claim" in c else c
        for c in written
    ]


def _filled_in(
    written: dict[str, Any], known: dict[str, dict[str, Any]], figures: Sequence[str]
) -> dict[str, Any]:
    own = dict(written)
    name = own.pop("claim")
    if not isinstance(name, str) or name not in known:
        choices = did_you_mean(name, known) + "; one of your own has name:"
        raise UserError(f'claims: the paper makes no claim "{quoted(name)}"{choices}')
    base = {"name": name, **known[name]}
    if base.get("figure") not in figures:
        base.pop("figure", None)
    if own.keys() & COMPARISONS.keys():
        base = {key: value for key, value in base.items() if key not in COMPARISONS}
    return base | own


def beside(results: Path) -> list[Claim]:
    """The claims of the study whose records are in `results`; none without its study.yaml. Raises
    UserError for claims that are none; what else the study says is not looked at."""
    path = results / "study.yaml"
    if not path.is_file():
        return []
    study = yaml_file.parse(yaml_file.read(path), path) or {}
    with located(printable(path)):
        if not isinstance(study, dict):
            raise UserError("a study is a mapping with name, question, arms and workloads")
        try:
            found = _LIST.validate_python(filled_in(study.get("claims", []), study.get("figures")))
        except ValidationError as error:
            raise UserError(f"claims: {problem(error, _keys_at)}") from None
        check(found)
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
        with located(f"claims.{claim.name}"):
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
        with located(f"claims.{claim.name}"):
            for arm in claim.arms:
                _one_of("arm", arm, arms)
            _one_of("where.workload", claim.where.workload, workloads)
            if claim.figure is not None:
                _one_of("figure", claim.figure, figures)
            for key in _SETTINGS:
                value, known = getattr(claim.where, key), points(claim.where.workload, key)
                if value not in (None, "max", "best") and known:
                    _one_of(f"where.{key}", value, known)


def _one_of(what: str, value: object, known: Collection[object]) -> None:
    if value not in known:
        near = did_you_mean(value, map(str, known))
        raise UserError(f'{what} "{quoted(value)}" is not in the study{near}')


def _check_comparison(claim: Claim) -> None:
    written = [name for name in COMPARISONS if getattr(claim, name) is not None]
    if len(written) != 1:
        given = " and ".join(written) or "none"
        raise UserError(f"give one of {', '.join(COMPARISONS)}; {given} stand here")
    if claim.between and claim.between[0] > claim.between[1]:
        raise UserError(f"between: {claim.between[0]} is above {claim.between[1]}")


def _check_measure(claim: Claim) -> None:
    measure, workload = claim.measure, claim.where.workload
    if (measure.over is not None) != (measure.kind in ("ratio", "crossover", "equal_compute")):
        need = "needs" if measure.over is None else "compares no arms, so it has no"
        raise UserError(f'measure: a {measure.kind} {need} "over"')
    if measure.over == measure.of:
        raise UserError(f'measure: "of" and "over" are both {quoted(measure.of)}')
    if claim.where.learning_rate is not None and workload != "perplexity":
        raise UserError(f"where.learning_rate is of perplexity, not of {quoted(workload)}")
    if measure.kind == "equal_compute" and workload != "perplexity":
        raise UserError(f"measure: equal_compute is of perplexity, not of {quoted(workload)}")
    if measure.kind in ("slope", "growth") and workload != "decode":
        what = f"measure: a {measure.kind} is over positions of decode"
        raise UserError(f"{what}, not of {quoted(workload)}")
    if measure.kind == "crossover" and workload not in CROSSES:
        near = did_you_mean(workload, CROSSES)
        raise UserError(f"measure: nothing is known to cross over in {quoted(workload)}{near}")
    if (measure.metric is not None) != (measure.kind in ("ratio", "level", "exponent")):
        what = "the loss" if measure.kind == "equal_compute" else "time"
        need = "needs a" if measure.metric is None else f"is of {what}, so it has no"
        raise UserError(f"measure: a {measure.kind} {need} metric")
    if measure.metric is not None:
        _check_metric(measure.metric, workload, measure.kind)


def _check_metric(metric: str, workload: str, kind: str) -> None:
    known = {name: METRICS[name].workload for name in METRICS if METRICS[name].unit}
    known |= {name: METRICS[base].workload for name, (base, _) in RATES.items()}
    known[PERPLEXITY] = "perplexity"
    here = [name for name, home in known.items() if home in ("", workload)]
    if metric not in here:
        near = did_you_mean(metric, here)
        raise UserError(f'measure.metric: {quoted(workload)} has no "{quoted(metric)}"{near}')
    if metric == PERPLEXITY and kind == "exponent":
        raise UserError("measure.metric: perplexity has no exponent over length")


COMPARISONS: dict[str, Callable[[float, float, Any], tuple[bool, bool]]] = {
    "at_least": lambda low, high, bound: (low >= bound, high < bound),
    "at_most": lambda low, high, bound: (high <= bound, low > bound),
    "between": lambda low, high, bounds: (
        low >= bounds[0] and high <= bounds[1],
        high < bounds[0] or low > bounds[1],
    ),
    "includes": lambda low, high, bound: (low <= bound <= high, not low <= bound <= high),
}
"""Per comparison: from low, high and what was said, whether it holds and whether it fails."""
