"""A study: the YAML file, checked, and expanded into cells."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from retnet_bench import yaml_file
from retnet_bench.analysis.verdicts import claims
from retnet_bench.analysis.verdicts.claims import Claim
from retnet_bench.base import UserError, did_you_mean, located, printable, quoted
from retnet_bench.fields import Name, Strict, Text, problem
from retnet_bench.measure.protocol import Protocol
from retnet_bench.study.arms import Arm, said_of_an_arm, spread
from retnet_bench.study.settings import (
    DEFAULTS,
    TUNED,
    Group,
    ProtocolSettings,
    Settings,
    as_given,
    check_alternatives,
    check_values,
    put_over,
)
from retnet_bench.study.sweep import Sweep, check_chosen, check_sweep
from retnet_bench.workloads.settings import Parallel

MAX_CELLS = 10_000
"""Of a study: at one second a cell, three hours."""
MAX_STEP_TOKENS = 2**30
"""Of one step, batch x length: a thousand times what one accelerator takes. Tensors over pairs of
tokens still have fewer than 2^63 bytes, so that a plan can count them."""


class Study(Strict):
    """A study as written: a question, its arms, its workloads, and the figures it ends in."""

    name: Name
    question: Text
    takes: Text = "not measured"
    """How long it takes, and on what machine."""
    fixed: Settings = Settings()
    arms: dict[Name, Arm] = Field(min_length=1, max_length=100)
    baseline: Name | None = None
    """The arm that every other arm is compared with; by default its Transformer, or each of them.
    """
    tune: Sweep | None = None
    """A sweep that runs first; `learning_rate: tuned` is where it counts."""
    workloads: list[Group] = Field(min_length=1, max_length=1000)
    protocol: ProtocolSettings = ProtocolSettings()
    figures: list[Name] = Field(default=[], max_length=100)
    claims: list[Claim] = Field(default=[], max_length=claims.MOST)

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, given: Any) -> Any:
        """The paper's claims and `every` mixer's arms, where the study names them in short."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if "arms" in given:
            given["arms"] = spread(given["arms"])
        if "claims" in given:
            given["claims"] = claims.filled_in(given["claims"], given.get("figures"))
        return given

    @property
    def n_cells(self) -> int:
        """From the lengths of the axes, before they are multiplied out."""
        points = (math.prod(map(len, group.axes.values())) for group in self._groups())
        return len(self.arms) * sum(points)

    def _groups(self) -> list[Group]:
        return [*([self.tune.group()] if self.tune else []), *self.workloads]

    def points(self) -> Iterator[tuple[Group, Settings, Protocol]]:
        """Every group's axes multiplied out: (group, complete settings, protocol). Those of the
        sweep come first."""
        for group in self._groups():
            protocol = _protocol(self.protocol, group.protocol)
            base = put_over(*(as_given(layer) for layer in (DEFAULTS, self.fixed, group.fixed)))
            for values in itertools.product(*group.axes.values()):
                given = dict(zip(group.axes, values, strict=True))
                point = Settings.model_validate(put_over(base, given))
                _check_step(point)
                yield group, point, protocol


@dataclass(frozen=True)
class Source:
    """Where a study came from, for messages and for keeping a copy."""

    path: Path
    text: str
    changes: tuple[str, ...] = ()
    """What `--set` changed of the file's text, as it was written."""
    changed: tuple[str, ...] = ()
    """The places that it changed."""

    def named(self) -> AbstractContextManager[None]:
        """Name the file, and what changed it, in front of whatever is wrong with what it says."""
        words = "".join(f" --set {quoted(change)}" for change in self.changes)
        return located(f"{printable(self.path)}{' with' if words else ''}{words}")


def folder() -> Path:
    """The studies that come with the package: in the wheel, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "studies"
    return shipped if shipped.is_dir() else package.parent / "studies"


def names() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find(name_or_path: str) -> Path:
    """A study's file by path, or by the name of one that comes with the package."""
    path, shipped = Path(name_or_path), folder() / f"{name_or_path}.yaml"
    for there in (path, shipped):
        if os.path.isfile(there):  # False, too, for what can be no path
            return there
    if os.path.exists(path):
        return path  # reading it says what is wrong with it
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f'study file "{quoted(path)}" does not exist')
    raise UserError(f'unknown study "{quoted(name_or_path)}"{did_you_mean(name_or_path, names())}')


def load(name_or_path: str) -> tuple[Study, Source]:
    """Read and check a study. Raises UserError: file, field, what is wrong, what would be right."""
    path = find(name_or_path)
    source = Source(path, yaml_file.read(path))
    return parse(source), source


def parse(source: Source) -> Study:
    """The study that a file's text says, checked. Raises UserError as `load` does."""
    raw = yaml_file.parse(source.text, source.path)
    with source.named():
        if not isinstance(raw, dict):
            raise UserError("a study is a mapping with name, question, arms and workloads")
        try:
            study = Study.model_validate(raw)
            _check_baseline(study)
            _check_axes(study)
            _check_tune(study)
            points = list(study.points())  # each point's values are checked, too
        except ValidationError as error:
            raise UserError(problem(error, _keys_at, said_of_an_arm)) from None
        _check_claims(study, points)
    return study


def _check_baseline(study: Study) -> None:
    if study.baseline not in (None, *study.arms):
        near = did_you_mean(study.baseline, study.arms)
        raise UserError(f'baseline: "{study.baseline}" is not one of the arms{near}')


def _check_axes(study: Study) -> None:
    allowed = Settings.model_fields
    check_alternatives("fixed", as_given(study.fixed))
    for i, group in enumerate(study.workloads):
        for axis, values in group.axes.items():
            if axis not in allowed:
                near = said_of_an_arm(axis) or did_you_mean(axis, allowed)
                raise UserError(f'workloads.{i}.axes: unknown key "{quoted(axis)}"{near}')
            if not values:
                raise UserError(
                    f"workloads.{i}.axes.{axis} is empty, so the study has no cells; "
                    f"give it at least one value"
                )
    if study.n_cells > MAX_CELLS:
        raise UserError(f"the study has {study.n_cells:,} cells, at most {MAX_CELLS:,} are taken")
    for i, group in enumerate(study.workloads):
        for axis, values in group.axes.items():
            check_values(f"workloads.{i}.axes", axis, values)
            if axis in group.fixed.model_fields_set:
                raise UserError(
                    f"workloads.{i}: {axis} stands in fixed and in axes; keep one of them"
                )
        check_alternatives(f"workloads.{i}", {*group.axes, *as_given(group.fixed)})


def _check_tune(study: Study) -> None:
    """UserError for a sweep that is missing, lacks what it needs, or that nothing waits for."""
    given = [study.fixed, *(group.fixed for group in study.workloads)]
    rates = [one.learning_rate for one in given]
    rates += [r for group in study.workloads for r in group.axes.get("learning_rate", [])]
    if study.tune is None:
        if TUNED in rates:
            raise UserError(
                "learning_rate: tuned wants a key tune: the sweep that each arm's rate comes from"
            )
        return
    with located("tune"):
        check_sweep(study.tune, study.arms)
    check_alternatives("tune", as_given(study.tune.group().fixed))
    if TUNED not in rates:
        words = "nothing waits for the sweep; say learning_rate: tuned where it is to count"
        raise UserError(f"tune: {words}")
    check_chosen(study.tune, study.arms, study.fixed, study.workloads)


def _check_step(point: Settings) -> None:
    tokens = (point.batch or 1) * (point.length or 1)
    if tokens > MAX_STEP_TOKENS:
        raise UserError(
            f"batch {point.batch} x length {point.length} are {tokens:,} tokens a step; "
            f"at most {MAX_STEP_TOKENS:,} are taken"
        )


def _check_claims(study: Study, points: list[tuple[Group, Settings, Protocol]]) -> None:
    settings: dict[str, list[Settings]] = {}
    for group, point, _ in points:
        settings.setdefault(group.workload, []).append(point)

    @cache
    def values(workload: str, key: str) -> frozenset[Any]:
        found = frozenset(getattr(point, key) for point in settings[workload])
        return frozenset() if None in found else found

    claims.check(study.claims)
    claims.check_against(study.claims, study.arms, settings, study.figures, values)


def _protocol(*layers: ProtocolSettings) -> Protocol:
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer.model_dump(exclude_none=True)
    return Protocol(**merged)


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where an unknown one stands."""
    words = [part for part in location if isinstance(part, str)]
    last = words[-1] if words else ""
    if last == "parallel":
        return [field.name for field in fields(Parallel)]
    models: dict[str, type[BaseModel]] = {
        "": Study,
        "fixed": Settings,
        "protocol": ProtocolSettings,
        "workloads": Group,
        "tune": Sweep,
        **claims.models(),
    }
    return list(models.get(last, Settings).model_fields)
