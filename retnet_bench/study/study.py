"""A study: the YAML file, checked, and expanded into cells."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from retnet_bench import yaml_file
from retnet_bench.analysis.verdicts import claims
from retnet_bench.analysis.verdicts.claims import Claim
from retnet_bench.base import UserError, did_you_mean, located, printable, quoted
from retnet_bench.fields import (
    Count,
    Integer,
    Name,
    Once,
    Place,
    Strict,
    Text,
    Word,
    problem,
)
from retnet_bench.measure.protocol import Protocol
from retnet_bench.study.arms import Arm, spread
from retnet_bench.workloads.settings import EVERY

MAX_CELLS = 10_000
"""Of a study: at one second a cell, three hours."""
MAX_STEP_TOKENS = 2**30
"""Of one step, batch x length: a thousand times what one accelerator takes. Tensors over pairs of
tokens still have fewer than 2^63 bytes, so that a plan can count them."""


class CommonSettings(Strict):
    """What any cell may be given, as fixed setting or axis. None: not given here."""

    size: Word | None = None
    family: Literal["paper", "modern"] | None = None
    match: Literal["params", "train_flops", "state"] | None = None
    batch: Count | None = None
    batch_tokens: Count | None = None
    """Instead of batch: as many sequences as make this many tokens, at least one."""
    length: Count | None = None
    dtype: Literal["fp64", "fp32", "bf16", "fp16"] | None = None
    mode: Literal["eager", "compile", "cudagraph"] | None = None
    device: Word | None = None
    threads: Annotated[Count, Field(le=4096)] | None = None
    corpus: Place | None = None
    tokenizer: Place | None = None
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] | None = None
    measure: Annotated[tuple[Literal["time", "memory"], ...], Once] | None = Field(
        default=None, min_length=1
    )


def _of_workloads() -> dict[str, Any]:
    """The workloads' own settings, as pydantic takes fields."""
    declared = [get_type_hints(one, include_extras=True) for one in EVERY]
    return {name: (kind, None) for hints in declared for name, kind in hints.items()}


if TYPE_CHECKING:
    Settings = CommonSettings
else:
    Settings = create_model("Settings", __base__=CommonSettings, **_of_workloads())


DEFAULTS = Settings(
    family="paper",
    match="params",
    batch=1,
    dtype="fp32",
    mode="eager",
    device="auto",
    corpus="sotu",
    tokenizer="byte",
    seed=0,
    measure=("time", "memory"),
)


if TYPE_CHECKING:
    ProtocolSettings = Strict
else:
    ProtocolSettings = create_model(
        "ProtocolSettings",
        __base__=Strict,
        __doc__="Fields of measure.protocol.Protocol; None keeps the default.",
        **{
            name: (kind | None, None)
            for name, kind in get_type_hints(Protocol, include_extras=True).items()
        },
    )


class Group(Strict):
    """One workload over the product of its axes."""

    workload: Word
    fixed: Settings = Settings()
    axes: dict[str, list[Any]] = {}
    protocol: ProtocolSettings = ProtocolSettings()


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
        points = (math.prod(map(len, group.axes.values())) for group in self.workloads)
        return len(self.arms) * sum(points)

    def points(self) -> Iterator[tuple[Group, Settings, Protocol]]:
        """Every group's axes multiplied out: (group, complete settings, protocol)."""
        for group in self.workloads:
            protocol = _protocol(self.protocol, group.protocol)
            base = _merged(*(_given(layer) for layer in (DEFAULTS, self.fixed, group.fixed)))
            for values in itertools.product(*group.axes.values()):
                given = dict(zip(group.axes, values, strict=True))
                point = Settings.model_validate(_merged(base, given))
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
            points = list(study.points())  # each point's values are checked, too
        except ValidationError as error:
            raise UserError(problem(error, _keys_at)) from None
        _check_claims(study, points)
    return study


def _check_baseline(study: Study) -> None:
    if study.baseline not in (None, *study.arms):
        near = did_you_mean(study.baseline, study.arms)
        raise UserError(f'baseline: "{study.baseline}" is not one of the arms{near}')


def _check_axes(study: Study) -> None:
    allowed = Settings.model_fields
    for i, group in enumerate(study.workloads):
        for axis, values in group.axes.items():
            if axis not in allowed:
                near = did_you_mean(axis, allowed)
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
            _check_values(f"workloads.{i}.axes", axis, values)
            if axis in group.fixed.model_fields_set:
                raise UserError(
                    f"workloads.{i}: {axis} stands in fixed and in axes; keep one of them"
                )


def _check_values(where: str, axis: str, values: list[Any]) -> None:
    """Each value of an axis on its own, before they are multiplied out."""
    seen: set[Any] = set()
    for value in values:
        try:
            checked = getattr(Settings.model_validate({axis: value}), axis)
        except ValidationError as error:
            raise UserError(f"{where}.{problem(error, _keys_at)}") from None
        if checked is None and (axis == "batch_tokens" or getattr(DEFAULTS, axis) is not None):
            raise UserError(f"{where}.{axis}: null is no value of it")
        if checked in seen:
            raise UserError(f"{where}.{axis} names a value twice: {quoted(value)}")
        seen.add(checked)


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


def _given(layer: Settings) -> dict[str, Any]:
    return layer.model_dump(exclude_none=True)


def _merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Settings over settings; batch and batch_tokens are two words for one of them."""
    merged: dict[str, Any] = {}
    for given in layers:
        if {"batch", "batch_tokens"} <= given.keys():
            raise UserError("batch and batch_tokens stand side by side; keep one of them")
        if "batch_tokens" in given:
            merged.pop("batch", None)
        if "batch" in given:
            merged.pop("batch_tokens", None)
        merged |= given
    return merged


def _protocol(*layers: ProtocolSettings) -> Protocol:
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer.model_dump(exclude_none=True)
    return Protocol(**merged)


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where an unknown one stands."""
    words = [part for part in location if isinstance(part, str)]
    last = words[-1] if words else ""
    models: dict[str, type[BaseModel]] = {
        "": Study,
        "fixed": Settings,
        "protocol": ProtocolSettings,
        "workloads": Group,
        **claims.models(),
    }
    return list(models.get(last, Settings).model_fields)
