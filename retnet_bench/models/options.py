"""What a mixer can be told: a frozen dataclass beside its code, and how such a one is read.

It stands apart from the mixers because a model's config holds one, and a mixer is made from a
config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from retnet_bench.base import UserError
from retnet_bench.fields import problem

if TYPE_CHECKING:
    from retnet_bench.models.config import ModelConfig


Own = TypeVar("Own", bound="MixerOptions")


@dataclass(frozen=True, kw_only=True)
class MixerOptions:
    """Options of one mixer, each with its type, range and meaning: `Annotated[..., Field(...)]`.

    None: not said, and derived from the family or the size. A default that is not None is part of
    every cell's id, so an option that an existing mixer gets later defaults to None.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    execution: ClassVar[tuple[str, ...]] = ()
    """Those that say how a model is computed and not what it is."""

    def given(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def settled(self: Own, cfg: ModelConfig) -> Own:
        """These options in that config: what is derived filled in, and None what other fields of
        the config say. UserError for what does not fit in it."""
        return self

    def checked(self: Own) -> Own:
        """Those with which the forms of a model are held against each other: these, or such as take
        the same code through shorter sequences."""
        return self


def names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


@cache
def hints(kind: type) -> dict[str, Any]:
    """The declared type of each option, with its range and meaning."""
    every = get_type_hints(kind, include_extras=True)
    return {name: every[name] for name in names(kind)}


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def schemas(kind: type) -> dict[str, dict[str, Any]]:
    """The JSON schema of each option: its type, range, default and meaning."""
    return _adapter(kind).json_schema().get("properties", {})


def validate(kind: type[Own], values: Mapping[Any, Any]) -> Own:
    """Options as a user says them. Raises pydantic's ValidationError."""
    declared: type = kind
    return _adapter(declared).validate_python(values)


def read(kind: type[Own], values: Mapping[Any, Any]) -> Own:
    """Options as a file says them. Raises UserError: one line that names the option."""
    try:
        return validate(kind, values)
    except ValidationError as error:
        raise UserError(problem(error, lambda _: names(kind))) from None


def check(options: MixerOptions) -> None:
    """UserError for a value that its option does not take."""
    _check(options, tuple(map(type, vars(options).values())))


@lru_cache(maxsize=1024)  # a plan makes many configs with the same few
def _check(options: MixerOptions, _types: tuple[type, ...]) -> None:
    """Cached by the values' types, too: 1 equals True."""
    read(type(options), vars(options))
