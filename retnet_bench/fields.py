"""Types of what a user writes into a file: bounded, finite, printable. And a wrong field in one
line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from retnet_bench.base import did_you_mean, printable, quoted

MOST = 2**24
"""Of what is listed or held one by one: sequences, tokens of a sequence, documents, steps. Sixteen
million is beyond what a step or a list in memory can have; products of two stay below 2^63."""


class Strict(BaseModel):
    """Fields that are declared, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _no_escapes(text: str) -> str:
    if printable(text) != text:
        raise PydanticCustomError("unprintable", "has characters that can't be printed")
    return text


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("twice", "names a value twice")
    return values


Once = AfterValidator(_once)
"""Of a tuple: no value stands in it twice."""


def _plain(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise PydanticCustomError(
            "plain",
            "must begin with a letter or digit and may go on with letters, digits, _, . and -",
        )
    return text


Name = Annotated[str, Field(max_length=100), AfterValidator(_plain)]
"""What the user calls something; it becomes part of files' names, labels and XML."""
Word = Annotated[str, Field(max_length=100), AfterValidator(_no_escapes)]
"""A name that is ours to know: of a size, a kernel, a task."""
Place = Annotated[str, Field(max_length=1000), AfterValidator(_no_escapes)]
"""A word, or a path."""
Text = Annotated[str, AfterValidator(lambda text: printable(text, keep="\n\t"))]
"""Prose. What can't be printed is kept as its escape."""
Count = Annotated[int, Field(strict=True, gt=0, le=MOST)]
Index = Annotated[int, Field(strict=True, ge=0, le=MOST)]
Integer = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]


def refused(key: Any, words: str) -> ValidationError:
    """Of a key that is wrong whatever its value, for a validator to raise. `problem` says the
    words behind the key's place."""
    place = key if isinstance(key, int | str) else str(key)
    kind = PydanticCustomError(REFUSED, "{words}", {"words": words})
    return ValidationError.from_exception_data(
        "key", [{"type": kind, "loc": (place,), "input": None}]
    )


REFUSED = "refused"


def problem(
    error: ValidationError,
    keys_at: Callable[[tuple[int | str, ...]], list[str]],
    elsewhere: Callable[[object], str] = lambda key: "",
) -> str:
    """pydantic's first complaint in the house's words. `keys_at` gives the keys that are allowed at
    a place, `elsewhere` the words for a key that belongs to another place."""
    first, *others = error.errors()
    place, given, kind = first["loc"], first["input"], first["type"]
    if words := _words_beside(first, others):
        where = ".".join(quoted(part) for part in place[:-1])
        message = f"{_lowered(first['msg'])} or {words}"
        return f"{where}: {message}, not {_as_written(given)}"
    where = ".".join(quoted(part) for part in place)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        prefix = "".join(f"{quoted(part)}." for part in place[:-1])[:-1]
        near = elsewhere(place[-1]) or did_you_mean(place[-1], keys_at(place[:-1]))
        message = f'unknown key "{quoted(place[-1])}"{near}'
        return f"{prefix}: {message}" if prefix else message
    if kind == "literal_error":
        said = f'"{quoted(given)}"' if isinstance(given, str) else _as_written(given)
        return f"{where}: {said} is unknown{did_you_mean(given, _choices(first))}"
    if kind == "missing":
        return _missing(error)
    if kind == "value_error":  # of several fields together; names them itself
        return str(first["ctx"]["error"])
    if kind in ("model_type", "dict_type", "dataclass_type"):
        return f"{where} must be a mapping, is {_as_written(given)}"
    if kind in ("tuple_type", "list_type"):
        return f"{where} must be a list, is {_as_written(given)}"
    if kind == "too_short":
        return f"{where} is empty; give it at least {first['ctx']['min_length']}"
    message = f"{where}: {_lowered(first['msg'])}"
    return message if kind in ("too_long", REFUSED) else f"{message}, not {_as_written(given)}"


def _words_beside(first: Any, others: Sequence[Any]) -> str:
    """The words that a field takes beside numbers. pydantic complains of each of both kinds, at a
    place of its own behind the field's."""
    field, given = first["loc"][:-1], first["input"]
    for other in others if first["type"] != "literal_error" else ():
        *place, kind = other["loc"]
        same = tuple(place) == field and other["input"] is given
        if same and other["type"] == "literal_error" and str(kind).startswith("literal["):
            return ", ".join(_choices(other))
    return ""


def _missing(error: ValidationError) -> str:
    """Every key that is missing, the place of each said once."""
    places = [found["loc"] for found in error.errors() if found["type"] == "missing"]
    parent = places[0][:-1]
    keys = [quoted(place[-1]) for place in places if place[:-1] == parent]
    where = ".".join([*map(quoted, parent), ", ".join(keys)])
    return f"{where} {'is' if len(keys) == 1 else 'are'} missing"


def _choices(problem: Any) -> list[str]:
    """The values of a Literal, from pydantic's sentence."""
    expected = problem["ctx"]["expected"]
    return [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]


def _as_written(given: object) -> str:
    """A value as a message repeats it: null, true and false in YAML's words."""
    if given is None or isinstance(given, bool):
        return "null" if given is None else str(given).lower()
    return quoted(repr(given))


def _lowered(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def spelled(default: object) -> str:
    """A default as a study would say it; empty for None, of which the meaning says what it is."""
    if default is None:
        return ""
    if isinstance(default, list | tuple):
        return f"[{', '.join(map(spelled, default))}]"
    return str(default).lower() if isinstance(default, bool) else str(default)


def takes(schema: Mapping[str, Any]) -> str:
    """The values that a field takes, in words, from its JSON schema. That it may be left out (null)
    is not said."""
    if "anyOf" in schema:
        return " or ".join(takes(one) for one in schema["anyOf"] if one.get("type") != "null")
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return ", ".join(map(str, choices))
    if "$ref" in schema:
        return "mapping"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {takes(schema.get('items', {}))}"
    return {"boolean": "true, false", "string": "text"}.get(kind, f"{kind}{_limits(schema)}")


def _limits(schema: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{word} {schema[key]:,}" for key, word in words.items() if key in schema]
    return "".join(f"{', ' if i else ' '}{limit}" for i, limit in enumerate(limits))
