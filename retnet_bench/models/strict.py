"""JSON that strangers write, read against a model of every field: one line for what is wrong."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retnet_bench.base import UserError, located, printable, quoted
from retnet_bench.files import guarded

LONGEST = 2**20
"""Characters of JSON that are looked at: a hundred times a usual config."""
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)
"""No value is converted ("64" is no number, 1 no bool), no field unknown, no number NaN or inf."""

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Eps = Annotated[float, Field(ge=0, lt=1)]
Base = Annotated[float, Field(ge=1, le=1e12)]
"""What angles of rotation are powers of."""
Ids = int | list[int]
"""Ids of tokens that have one role."""


class Strict(BaseModel):
    model_config = STRICT


Model = TypeVar("Model", bound=BaseModel)


def read_text(path: Path, most: int = LONGEST) -> str:
    """A text file of at most `most` bytes. UserError: none, not regular, longer, not UTF-8."""
    with guarded(path, "read"):
        if not path.is_file():
            raise UserError(f"{printable(path)} {'is no file' if path.exists() else 'is missing'}")
        if path.stat().st_size > most:
            raise UserError(f"{printable(path)} is larger than {most >> 20} MiB of JSON")
        return path.read_text("utf-8")


def parse_object(text: str, path: Path) -> dict[str, Any]:
    """The JSON object that `path` holds as `text`. UserError if it is anything else."""
    check_length(text, path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{printable(path)} can't be read as JSON: {quoted(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{printable(path)}: not a JSON object, but {_json(found)}")
    return found


def check_length(text: str, path: Path) -> None:
    """Refuse JSON of more than LONGEST characters."""
    if len(text) > LONGEST:
        raise UserError(f"{printable(path)} holds more than {LONGEST >> 20} MiB of JSON")


def parse(model: type[Model], data: str | dict[str, Any], path: Path) -> Model:
    """`data` (JSON or what was read from it) as `model`. UserError names `path` and the field."""
    with located(printable(path)):  # the model's own errors, too: it knows no file
        try:
            if isinstance(data, str):
                return model.model_validate_json(data)
            return model.model_validate(data)
        except ValidationError as error:
            raise UserError(_words(error, model)) from None


def _words(error: ValidationError, model: type[BaseModel]) -> str:
    """pydantic's first complaint in the house's words."""
    problem = error.errors(include_url=False)[0]
    *parents, field = problem["loc"] or ("",)
    known = _known_fields(model, parents)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return (
            f'{"".join(f"{p} " for p in parents)}field "{quoted(field)}" is unknown: its value, '
            f"{_json(problem['input'])}, may change the answers{near(field, known)}"
        )
    if problem["type"] == "missing":
        present = problem["input"] if isinstance(problem["input"], dict) else {}
        return f'field "{".".join(map(str, [*parents, field]))}" is missing{near(field, present)}'
    message = problem["msg"].replace("Input should", "it should")
    for python, name in (("True", "true"), ("False", "false"), ("None", "null")):
        message = message.replace(python, name)
    if problem["type"] == "json_invalid":
        return quoted(message)
    where = ".".join(str(part) for part in problem["loc"] if str(part) not in ("int", "list[int]"))
    return f"{quoted(where)} is {_json(problem['input'])}; {message}"


def _known_fields(model: type[BaseModel], parents: Iterable[int | str]) -> list[str]:
    """The fields that are known where an unknown one stands."""
    fields: dict[str, Any] = dict(model.model_fields)
    for parent in parents:
        kind = getattr(fields.get(str(parent)), "annotation", None)
        fields = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "model_fields", {})
    return list(fields)


def near(word: object, choices: Iterable[str]) -> str:
    """`; did you mean "x"?` for a near miss, else nothing: there may be thousands of choices."""
    found = difflib.get_close_matches(str(word)[:80], list(choices)[:1000], n=1)
    return f'; did you mean "{quoted(found[0])}"?' if found else ""


def _json(value: object) -> str:
    try:
        return quoted(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return quoted(repr(value))
