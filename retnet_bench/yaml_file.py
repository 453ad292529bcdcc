"""The one way to read YAML that someone else wrote: sizes first, plain data out, one line for
whatever is wrong with it.

Only what YAML 1.1 (PyYAML, Ruby) and YAML 1.2 (JSON's data, most others) read alike is taken:
`0100`, `1:30`, `yes` and `2024-01-02` are other values in the one than in the other, and are
refused with both readings. Tags (`!!float x`) are refused, too: plain data needs none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.files import guarded

MAX_BYTES = 1_000_000
"""Of a file. The largest study in this package has 6 kB."""
MAX_NODES = 50_000
"""Values and keys of a file, an alias counted with all that it stands for: it is a reference in
memory, but whoever walks through the data or prints it meets each of them."""
MAX_DEPTH = 50
"""Of lists and mappings in one another; a study needs five."""
MAX_SCALAR = 10_000
"""Characters of one value."""
MAX_DIGITS = 18
"""Of an integer, so that it fits into 64 bits."""

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: ten times as fast."""


def read(path: Path) -> str:
    """A file's text. Raises UserError, with the path, for what is no regular file of MAX_BYTES at
    most in UTF-8."""
    with guarded(path, "read"):
        if path.exists() and not path.is_file():
            raise UserError(f"{printable(path)} is no regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"{printable(path)} has more than {MAX_BYTES:,} bytes, the limit")
        return data.decode("utf-8")


def parse(text: str, path: Path) -> Any:
    """The data that a file's text stands for: dicts with text as keys, lists, str, int, float,
    bool, None. Raises UserError with path and line."""
    try:
        _check(text)
        return yaml.load(text, _Loader)
    except _Refused as error:
        raise UserError(f"{printable(path)}:{_line(error, text)}: {error.problem}") from None
    except yaml.YAMLError as error:
        problem = printable(" ".join(str(getattr(error, "problem", None) or error).split()), 200)
        raise UserError(
            f"{printable(path)}:{_line(error, text)} is not valid YAML: {problem}"
        ) from None
    except (ValueError, OverflowError) as error:  # of PyYAML's own parser, without libyaml
        raise UserError(f"{printable(path)} is not valid YAML: {printable(error, 200)}") from None


class _Refused(yaml.MarkedYAMLError):
    """Good YAML that is not taken here."""

    def __init__(self, problem: str, at: yaml.Event | yaml.Node) -> None:
        mark: Any = at.start_mark
        super().__init__(problem=problem, problem_mark=mark)


def _line(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ""
    return f" line {1 + min(mark.line, text.count(chr(10)))}"  # libyaml: the end is a line further


# --- before anything is built ---------------------------------------------------------------------


def _check(text: str) -> None:
    """Refuse what is too large or has a tag, from the stream of events alone."""
    sizes: dict[str, int] = {}
    """Values under each anchor, all its aliases written out."""
    open_: list[tuple[str | None, int]] = []
    total = 0  # values so far; a collection's size is the difference from where it began
    for event in yaml.parse(text, _Parser):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
        total += _size(event, sizes, {anchor for anchor, _ in open_ if anchor})
        if total > MAX_NODES:
            raise _Refused(f"more than {MAX_NODES:,} values, aliases written out", event)
        if len(open_) > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} deep", event)
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            sizes |= {anchor: total - before} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            sizes[event.anchor] = 1


def _size(event: yaml.Event, sizes: dict[str, int], unfinished: set[str]) -> int:
    """How many values an event adds."""
    if isinstance(event, yaml.AliasEvent):
        if event.anchor in unfinished:
            raise _Refused(f"*{quoted(event.anchor)} contains itself", event)
        return sizes.get(event.anchor or "", 1)  # unknown: the composer's to complain of
    if not isinstance(event, yaml.NodeEvent):
        return 0
    tag = getattr(event, "tag", None)
    if tag is not None:
        shown_tag = quoted(tag.replace(_STANDARD, "!!"))
        raise _Refused(f"tag {shown_tag}: tags are not taken; write the value plainly", event)
    if isinstance(event, yaml.ScalarEvent):
        _check_scalar(event)
    return 1


def _check_scalar(event: yaml.ScalarEvent) -> None:
    if len(event.value) > MAX_SCALAR:
        raise _Refused(f"a value of more than {MAX_SCALAR:,} characters", event)
    if event.implicit[0]:  # without quotes
        why = _ambiguous(event.value) or _too_long(event.value)
        if why:
            raise _Refused(f"{quoted(event.value)} {why}", event)


# --- values without quotes ------------------------------------------------------------------------


class _Core(yaml.resolver.BaseResolver):
    """YAML 1.2's core schema, and the merge key of 1.1, which many use."""


_PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "merge": (r"<<", "<"),
}
"""What is not text: pattern, and the characters it begins with."""
_STANDARD = "tag:yaml.org,2002:"
for _name, (_pattern, _first) in _PLAIN.items():
    _whole = re.compile(rf"(?:{_pattern})\Z")
    _Core.add_implicit_resolver(_STANDARD + _name, _whole, [*_first, *([""] * (_name == "null"))])

_NEW, _OLD = _Core(), yaml.resolver.Resolver()


def _type(resolver: yaml.resolver.BaseResolver, text: str) -> str:
    return resolver.resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_STANDARD)


def _ambiguous(text: str) -> str:
    """How YAML 1.1 and 1.2 differ over a value; "" where they agree. `1e3` is a number to all but
    PyYAML, so it is one here."""
    old, new = _type(_OLD, text), _type(_NEW, text)
    octal = new == "int" and re.match(r"[-+]?0[0-9]", text)
    if (old == new and not octal) or (old, new) == ("str", "float"):
        return ""
    readings = (
        f"{_reading(old, text, yaml.safe_load)} in YAML 1.1 and {_reading(new, text, _integer)}"
    )
    return f"is {readings} in YAML 1.2; write the one that is meant"


def _reading(kind: str, text: str, value: Callable[[str], object]) -> str:
    """What a value is to whoever takes it for a `kind`, as it is written without doubt."""
    if kind in ("bool", "int", "float") and len(text) < MAX_DIGITS:
        return str(value(text)).lower()
    return {"str": f'"{quoted(text)}"', "timestamp": "a date"}.get(kind, "another value")


def _integer(text: str) -> int:
    return int(text, 8 if text.startswith("0o") else 10)


def _too_long(text: str) -> str:
    if len(text) > MAX_DIGITS and _type(_NEW, text) == "int":
        return f"is an integer of more than {MAX_DIGITS} digits"
    return ""


# --- building -------------------------------------------------------------------------------------


class _Loader(_Parser):
    """The safe loader with YAML 1.2's scalars; keys are text, and one that stands twice is an
    error, not the last one's win."""

    yaml_implicit_resolvers = _Core.yaml_implicit_resolvers

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in (f"{_STANDARD}str", f"{_STANDARD}merge"):
                shown = quoted(key.value if isinstance(key, yaml.ScalarNode) else "[...]")
                raise _Refused(f"key {shown} is no text; write it in quotes", key)
            if key.value in seen:
                problem = f'key "{quoted(key.value)}" stands twice'
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# --- writing --------------------------------------------------------------------------------------


def dump(data: Any) -> str:
    """Text that every reader of YAML, `parse` too, reads as `data`: text in quotes where it would
    be taken for something else, nothing by reference."""
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=100,
    )


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which knows YAML 1.1 alone, made to mind YAML 1.2."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _type(_NEW, text) == _type(_OLD, text) == "str"
    return dumper.represent_scalar(f"{_STANDARD}str", text, style=None if plain else '"')


_Dumper.add_representer(str, _write_text)
