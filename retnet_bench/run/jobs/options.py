"""What a job may be given of a cluster: the option `--slurm`, checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from retnet_bench import yaml_file
from retnet_bench.base import UserError, located, quoted
from retnet_bench.fields import Count, Flag, Strict, Text, Word, problem

DEFAULT_MINUTES = 60
"""Of a job, where no `time` is given. Trainings that take longer go on from their checkpoint: the
job is requeued."""
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_COMMA = re.compile(r",(?![^\[]*\])")
"""Not within brackets: node[1,2] is one value."""


class SlurmOptions(Strict):
    """What `--slurm` takes; each is sbatch's option of that name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    partition: Word | None = None
    """Partition(s) that the jobs are put into."""
    account: Word | None = None
    """Account that they are charged to."""
    qos: Word | None = None
    """Quality of service."""
    reservation: Word | None = None
    """Reservation that they use."""
    constraint: Word | None = None
    """Features that a node must have."""
    nodelist: Word | None = None
    """Nodes that they must run on."""
    exclude: Word | None = None
    """Nodes that they must not run on."""
    nodes: Annotated[Count, Field(le=4096)] = 1
    """Nodes of each job: more than one for cells whose `parallel` no single one has room for."""
    gpus_per_node: Annotated[Count, Field(le=1024)] | None = None
    """GPUs of each job on each of its nodes."""
    cpus_per_task: Annotated[Count, Field(le=4096)] | None = None
    """Cores of each job on each of its nodes; by default for the threads that the study says."""
    mem: Word | None = None
    """Memory of each job on each of its nodes: 16G, 4000M."""
    time: int = DEFAULT_MINUTES
    """Minutes that a job may take, or H:MM:SS, D-HH:MM:SS."""
    exclusive: Flag | None = None
    """Whether a job has its node for itself; by default timed pairs do, others don't."""
    setup: tuple[Annotated[Text, Field(max_length=1000)], ...] = Field((), max_length=50)
    """Shell lines before each job (module load ...); in a file only."""

    @field_validator("mem")
    @classmethod
    def _size(cls, given: str | None) -> str | None:
        if given is not None and not re.fullmatch(r"\d{1,9}[KMGT]?", given):
            raise PydanticCustomError("size", "must be a number and K, M, G or T, such as 16G")
        return given

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, given: Any) -> int:
        minutes = given if isinstance(given, int) else _in_minutes(str(given))
        if isinstance(given, bool) or minutes is None or not 0 < minutes <= 60 * 24 * 366:
            raise PydanticCustomError(
                "time", "must be minutes, H:MM:SS or D-HH:MM:SS, at least one minute"
            )
        return minutes


def _in_minutes(text: str) -> int | None:
    """Slurm's formats: M, M:SS, H:MM:SS, D-H, D-H:MM, D-H:MM:SS; seconds are rounded up."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) < 3:
        hours, minutes, seconds = [0, *parts, 0][:3]
    else:
        hours, minutes, seconds = parts
    total_s = ((int(found["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return -(-total_s // 60)


def read(given: str | None) -> SlurmOptions:
    """`key=value,key=value`, or the path of a YAML file of them. UserError for what is wrong."""
    if given is None:
        return _checked({}, "--slurm")
    if "=" in given or not given.endswith((".yaml", ".yml")):
        return _checked(_pairs(given), "--slurm")
    path = Path(given)
    if not path.is_file():
        raise UserError(f"--slurm: there is no file {quoted(given)}")
    values = yaml_file.parse(yaml_file.read(path), path)
    if not isinstance(values, dict):
        raise UserError(f"{quoted(given)}: must be a mapping, such as partition: gpu")
    return _checked(values, quoted(given))


def _pairs(given: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for entry in _COMMA.split(given):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if key and equals and not value:
            raise UserError(f"--slurm: {quoted(key)} has no value")
        if not key or not equals:
            words = "is no key=value; give partition=...,time=... or a file that ends in .yaml"
            raise UserError(f"--slurm: {quoted(repr(entry))} {words}")
        if key in values:
            raise UserError(f"--slurm: {quoted(key)} stands twice")
        values[key] = _typed(key, value)
    return values


def _typed(key: str, text: str) -> Any:
    """A value as YAML would read it where it is a number or a flag; names stay text."""
    if text in ("true", "false"):
        return text == "true"
    counts = [name for name, one in SlurmOptions.model_fields.items() if _is_count(one.annotation)]
    return int(text) if key in counts and re.fullmatch(r"-?\d{1,9}", text) else text


def _is_count(annotation: Any) -> bool:
    return "int" in str(annotation)


def _checked(values: dict[str, Any], where: str) -> SlurmOptions:
    with located(where):
        try:
            return SlurmOptions.model_validate(values)
        except ValidationError as error:
            raise UserError(problem(error, lambda _: list(SlurmOptions.model_fields))) from None
