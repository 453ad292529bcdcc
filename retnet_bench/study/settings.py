"""Settings that a study gives its cells: what each may be, and which of several counts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import (
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from retnet_bench.base import UserError, quoted
from retnet_bench.fields import REFUSED, Count, Integer, Once, Place, Strict, Word, problem, refused
from retnet_bench.measure.protocol import Protocol
from retnet_bench.workloads.settings import EVERY, Parallel

ALTERNATIVES = (("batch", "batch_tokens"), ("token_budget", "tokens_per_param"))
"""Settings of which a group says one: the first, or what the first is made from."""


TUNED = "tuned"
"""As a learning rate: the one that the study's sweep led to, for each arm its own."""
_NOT_TUNED = (
    "tuned is said of learning_rate alone, which takes with it what else tune.axes tries; leave it "
    "out"
)


class CommonSettings(Strict):
    """What any cell may be given, as fixed setting or axis. None: not given here."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    size: Word | None = None
    """Name of a size (`list sizes`)."""
    family: Literal["paper", "modern"] | None = None
    """What stands around the mixer: LayerNorm and GELU (paper), or RMSNorm and SwiGLU (modern)."""
    match: Literal["params", "train_flops", "state"] | None = None
    """What is made equal between arms: parameters, training FLOPs, or bytes of decoding state."""
    batch: Count | None = None
    """Sequences of a step."""
    batch_tokens: Count | None = None
    """Instead of batch: as many sequences as make this many tokens, at least one."""
    length: Count | None = None
    """Tokens of a sequence."""
    dtype: Literal["fp64", "fp32", "bf16", "fp16"] | None = None
    """Of weights and products; training below fp32 is by autocast, weights and loss in fp32."""
    mode: Literal["eager", "compile", "cudagraph"] | None = None
    """How operators are launched: one by one, by torch.compile, or as a captured CUDA graph."""
    device: Word | None = None
    """auto (the GPU where there is one), cpu, cuda or cuda:N."""
    threads: Annotated[Count, Field(le=4096)] | None = None
    """Threads of a process; by default as many as it may have cores."""
    corpus: Place | None = None
    """A name of `list corpora`, a path, or hf:owner/name."""
    tokenizer: Place | None = None
    """byte; bpe:N, of N tokens, trained on the corpus; random:N, to time with."""
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] | None = None
    """Of the weights and the order of the text."""
    measure: Annotated[tuple[Literal["time", "memory"], ...], Once] | None = Field(
        default=None, min_length=1
    )
    """What is measured in a cell."""

    @model_validator(mode="before")
    @classmethod
    def _said_where_it_counts(cls, given: Any) -> Any:
        """What a type alone would refuse in words that don't help, or take for what it is not."""
        for key, value in given.items() if isinstance(given, dict) else ():
            if value == TUNED and key in cls.model_fields and key != "learning_rate":
                raise refused(key, _NOT_TUNED)
            if key == "parallel" and value == {}:
                raise refused(key, "is empty; say its ranks, such as {data: 2}, or leave it out")
        return given


def _tuned_or(value: Any, checked: Callable[[Any], Any]) -> Any:
    if isinstance(value, str) and value != TUNED:
        words = f"must be a number or {TUNED}, is {quoted(value)}"
        raise PydanticCustomError(REFUSED, "{words}", {"words": words})
    return value if value == TUNED else checked(value)


def _of_workloads() -> dict[str, Any]:
    """The workloads' own settings, as pydantic takes fields."""
    declared = [get_type_hints(one, include_extras=True) for one in EVERY]
    kinds = {name: kind for hints in declared for name, kind in hints.items()}
    as_it_is = PlainSerializer(lambda value: value)  # else pydantic warns of a word among numbers
    rate = kinds["learning_rate"]
    kinds["learning_rate"] = Annotated[rate, WrapValidator(_tuned_or), as_it_is]
    return {name: (kind, None) for name, kind in kinds.items()}


if TYPE_CHECKING:

    class Settings(CommonSettings):
        """The common ones, and of the workloads' those that are read by name."""

        learning_rate: float | Literal["tuned"] | None = None
        max_epochs: float | None = None
        parallel: Parallel | None = None
        tokens_per_param: float | None = None
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


def as_given(layer: Settings) -> dict[str, Any]:
    return layer.model_dump(exclude_none=True)


def put_over(*layers: dict[str, Any]) -> dict[str, Any]:
    """Settings over settings, where two of ALTERNATIVES are two words for one of them."""
    merged: dict[str, Any] = {}
    for given in layers:
        for one, other in ALTERNATIVES:
            if given.keys() & {one, other}:
                merged = {key: merged[key] for key in merged if key not in (one, other)}
        merged |= given
    return merged


def check_alternatives(where: str, keys: Collection[str]) -> None:
    """UserError for two words for one setting, side by side."""
    for one, other in ALTERNATIVES:
        if one in keys and other in keys:
            words = "are two words for one setting; keep one of them"
            raise UserError(f"{where}: {one} and {other} {words}")


def check_values(where: str, axis: str, values: list[Any]) -> None:
    """Each value of an axis on its own, before they are multiplied out."""
    seen: set[Any] = set()
    for value in values:
        try:
            checked = getattr(Settings.model_validate({axis: value}), axis)
        except ValidationError as error:
            raise UserError(
                f"{where}.{problem(error, lambda _: [*Settings.model_fields])}"
            ) from None
        if checked is None and (axis == "batch_tokens" or getattr(DEFAULTS, axis) is not None):
            raise UserError(f"{where}.{axis}: null is no value of it")
        if checked in seen:
            raise UserError(f"{where}.{axis} names a value twice: {quoted(value)}")
        seen.add(checked)
