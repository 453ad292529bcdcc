"""A study: the YAML file, checked, and expanded into cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retnet_bench.analysis import claims
from retnet_bench.analysis.claims import Claim
from retnet_bench.base import UserError, did_you_mean
from retnet_bench.measure.protocol import Protocol

Count = Annotated[int, Field(gt=0, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Strict):
    """What a cell may be told, as fixed setting or axis. None: not said here."""

    size: str | None = None
    family: Literal["paper", "modern"] | None = None
    match: Literal["params", "train_flops"] | None = None
    batch: Count | None = None
    batch_tokens: Count | None = None
    """Instead of batch: as many sequences as make this many tokens, at least one."""
    length: Count | None = None
    dtype: Literal["fp64", "fp32", "bf16", "fp16"] | None = None
    mode: Literal["eager", "compile", "cudagraph"] | None = None
    device: str | None = None
    threads: Count | None = None
    corpus: str | None = None
    tokenizer: str | None = None
    seed: Annotated[int, Field(ge=0, strict=True)] | None = None
    measure: tuple[Literal["time", "memory"], ...] | None = Field(default=None, min_length=1)
    positions: Count | None = None
    token_budget: Count | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    documents: Count | None = None
    recipe: str | None = None
    dropout: float | None = Field(default=None, ge=0, lt=1)
    micro_batch: Count | None = None
    recompute: bool | None = None
    checkpoint_every: Count | None = None
    context: Literal["chunked", "sliding", "carried"] | None = None
    stride: Count | None = None
    contexts: tuple[Count, ...] | None = Field(default=None, min_length=1)
    by_position: bool | None = None
    score_corpus: str | None = None
    task: str | None = None
    shots: Annotated[int, Field(ge=0, strict=True)] | None = None
    limit: Count | None = None
    include: str | None = None


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


class Arm(_Strict):
    """One architecture's side: what may differ between the arms of a pair."""

    mixer: str
    kernel: str = "auto"
    chunk: Count = 128
    decay: Literal["experiments", "eq8", "single", "none"] | None = None
    gate: bool | None = None
    head_norm: Literal["group", "rms", "none"] | None = None
    head_dim: Count | None = None
    checkpoint: str | None = None
    """Downstream: folder of this arm's trained model."""
    family: Literal["paper", "modern"] | None = None
    """The block family of this arm alone; the pair's where it is not said."""


class ProtocolSettings(_Strict):
    """Fields of measure.protocol.Protocol; None keeps the default."""

    processes: int | None = None
    blocks: int | None = None
    max_blocks: int | None = None
    precision: float | None = None
    budget_s: float | None = None
    block_s: float | None = None
    min_samples: int | None = None
    max_samples: int | None = None
    warmup_max_s: float | None = None
    warmup_min_steps: int | None = None
    timeout_s: float | None = None
    interleave: Literal["blocks", "processes"] | None = None


class Group(_Strict):
    """One workload over the product of its axes."""

    workload: str
    fixed: Settings = Settings()
    axes: dict[str, list[Any]] = {}
    protocol: ProtocolSettings = ProtocolSettings()


class Study(_Strict):
    """A study as written: a question, its arms, its workloads, and the figures it ends in."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    question: str
    takes: str = "not measured"
    """How long it takes, and on what machine."""
    fixed: Settings = Settings()
    arms: dict[str, Arm] = Field(min_length=1)
    workloads: list[Group] = Field(min_length=1)
    protocol: ProtocolSettings = ProtocolSettings()
    figures: list[str] = []
    claims: list[Claim] = []

    @model_validator(mode="before")
    @classmethod
    def _paper_claims(cls, said: Any) -> Any:
        if not isinstance(said, dict) or "claims" not in said:
            return said
        return said | {"claims": claims.filled_in(said["claims"], said.get("figures"))}

    def points(self) -> Iterator[tuple[Group, Settings, Protocol]]:
        """Every group's axes multiplied out: (group, complete settings, protocol)."""
        for group in self.workloads:
            protocol = _protocol(self.protocol, group.protocol)
            for values in itertools.product(*group.axes.values()):
                point = dict(zip(group.axes, values, strict=True))
                yield group, _merge(DEFAULTS, self.fixed, group.fixed, point), protocol


@dataclass(frozen=True)
class Source:
    """Where a study came from, for messages and for keeping a copy."""

    path: Path
    text: str

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the file in front of whatever is wrong with what it says."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None


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
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = folder() / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f'study file "{path}" does not exist')
    raise UserError(f'unknown study "{name_or_path}"{did_you_mean(name_or_path, names())}')


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key that stands twice is an error, not the last one's win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: list[Any] = []
        for key, _ in node.value:
            if key.value in seen:
                problem = f'key "{key.value}" stands twice'
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.append(key.value)
        return super().construct_mapping(node, deep)


def load(name_or_path: str) -> tuple[Study, Source]:
    """Read and check a study. Raises UserError: file, field, what is wrong, what would be right."""
    path = find(name_or_path)
    try:
        source = Source(path, path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    return parse(source), source


def parse(source: Source) -> Study:
    """The study that a file's text says, checked. Raises UserError as `load` does."""
    path = source.path
    try:
        raw = yaml.load(source.text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise UserError(f"{path}:{where} is not valid YAML: {problem}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a study is a mapping with name, question, arms and workloads")
    try:
        study = Study.model_validate(raw)
        _check_axes(study)
        list(study.points())  # each point's values are checked, too
        _check_claims(study)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return study


def _check_axes(study: Study) -> None:
    allowed = Settings.model_fields
    for i, group in enumerate(study.workloads):
        for axis, values in group.axes.items():
            if axis not in allowed:
                raise UserError(
                    f'workloads.{i}.axes: unknown key "{axis}"{did_you_mean(axis, allowed)}'
                )
            if not values:
                raise UserError(
                    f"workloads.{i}.axes.{axis} is empty, so the study has no cells; "
                    f"give it at least one value"
                )
            if len(set(map(repr, values))) < len(values):
                raise UserError(f"workloads.{i}.axes.{axis} names a value twice: {values}")


def _check_claims(study: Study) -> None:
    points = [(group.workload, point) for group, point, _ in study.points()]

    def values(workload: str, key: str) -> set[Any]:
        found = {getattr(point, key) for name, point in points if name == workload}
        return set() if None in found else found

    claims.check(study.claims)
    workloads = {name for name, _ in points}
    claims.check_against(study.claims, study.arms, workloads, study.figures, values)


def _merge(*layers: Settings | dict[str, Any]) -> Settings:
    merged: dict[str, Any] = {}
    for layer in layers:
        said = layer if isinstance(layer, dict) else layer.model_dump(exclude_none=True)
        if {"batch", "batch_tokens"} <= said.keys():
            raise UserError("batch and batch_tokens stand side by side; keep one of them")
        if "batch_tokens" in said:
            merged.pop("batch", None)
        if "batch" in said:
            merged.pop("batch_tokens", None)
        merged |= said
    return Settings.model_validate(merged)


def _protocol(*layers: ProtocolSettings) -> Protocol:
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer.model_dump(exclude_none=True)
    return Protocol(**merged)


def _first_problem(error: ValidationError) -> str:
    """pydantic's first complaint in the house's words."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        parent = ".".join(str(part) for part in problem["loc"][:-1])
        key = problem["loc"][-1]
        prefix = f"{parent}: " if parent else ""
        return f'{prefix}unknown key "{key}"{did_you_mean(key, _keys_at(problem["loc"][:-1]))}'
    if problem["type"] == "literal_error":
        given, expected = problem["input"], problem["ctx"]["expected"]
        choices = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
        return f'{where}: "{given}" is unknown{did_you_mean(given, choices)}'
    if problem["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {problem['input']!r}"


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
    if words[:1] == ["arms"]:
        return list(Arm.model_fields)
    return list(models.get(last, Settings).model_fields)


assert {f.name for f in fields(Protocol)} == set(ProtocolSettings.model_fields)
