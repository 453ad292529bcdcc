"""`--set KEY=VALUE`: what a study says, changed from the command line before it is checked.

| key | where it goes |
|---|---|
| `fixed.K`, `protocol.K` | to the whole study; refused while a workload part says K itself |
| `axes.K` | to every part that has the axis K; to the only part, where there is one |
| `workloads.W.fixed.K`, `.axes.K`, `.protocol.K` | to one part, by its number or its workload |
| `arms.A.K`, `arms.A` | to one arm's option; a whole arm, also a new one |
| `tune.axes.K`, `tune.K` | to the sweep of a study that has one: what it tries, or where |
| `name`, `question`, `baseline`, `figures`, `claims` | the study's own |

A value is read as YAML; `null` takes the key out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retnet_bench import yaml_file
from retnet_bench.base import UserError, did_you_mean, located, quoted, short_hash
from retnet_bench.study.arms import said_of_an_arm
from retnet_bench.study.settings import ALTERNATIVES, ProtocolSettings, Settings
from retnet_bench.study.study import Source, Study, find, parse
from retnet_bench.study.sweep import TUNABLE, Sweep

SECTIONS: dict[str, tuple[str, ...]] = {
    "fixed": tuple(Settings.model_fields),
    "axes": tuple(Settings.model_fields),
    "protocol": tuple(ProtocolSettings.model_fields),
}
"""Mappings of a study, or of one of its workload parts, and the keys that each may have."""
SWEEP_KEYS = (*Sweep.model_fields, *(f"axes.{key}" for key in TUNABLE))
"""Of the sweep of a study that tunes."""
_INSTEAD = {word: words for words in ALTERNATIVES for word in words}
"""Keys that are two words for one setting: giving the one takes the other out."""
_LONGEST_NAME = 80
"""Of a results folder, beyond which a hash stands for the changes."""


@dataclass(frozen=True)
class Change:
    """One `--set`: what was written, its key, and the value that it stands for."""

    word: str
    key: str
    value: Any

    @classmethod
    def read(cls, word: str) -> Change:
        key, equals, text = word.partition("=")
        with located(f"--set {quoted(word)}"):
            if not equals or not key or not text.strip():
                raise UserError("is no KEY=VALUE, such as fixed.size=3M")
        return cls(word, key, yaml_file.parse(text, Path(f"--set {key}")))

    @property
    def is_single(self) -> bool:
        return self.key.startswith(("workloads.", "arms."))


def load(name_or_path: str, words: Sequence[str] = ()) -> tuple[Study, Source]:
    """`study.load` of a study that `--set` changes."""
    path = find(name_or_path)
    source = changed(Source(path, yaml_file.read(path)), words)
    return parse(source), source


def changed(source: Source, words: Sequence[str]) -> Source:
    """A study's text with the changes made, each checked for where it goes; the text is checked as
    any other by whoever parses it. Raises UserError for what the file itself has wrong, for an
    unknown key, and for one that could go to several places."""
    if not words:
        return source
    parse(source)
    changes = [Change.read(word) for word in words]
    raw = yaml_file.parse(source.text, source.path)
    written: dict[str, Change] = {}
    # Of single parts first: what the whole study says may then be hidden by them on purpose.
    for change in sorted(changes, key=lambda change: not change.is_single):
        with located(f"--set {quoted(change.word)}"):
            for place in _Editor(raw, written).places(change):
                if place in written:
                    raise UserError(f"{place} is set twice, by --set {quoted(written[place].word)}")
                written[place] = change
    head = f"# {source.path.name}, changed by the command line (its comments are not kept):\n"
    lines = "".join(f"#   --set {quoted(word)}\n" for word in words)
    text = head + lines + yaml_file.dump(raw)
    return Source(source.path, text, tuple(words), tuple(written))


def suffix(words: Iterable[str]) -> str:
    """What the name of the results folder of a changed study ends in: equal changes, equal names;
    empty without any. `-size=0.8M-length=1024+4096`."""
    changes = map(Change.read, sorted(words))
    shown = [_short(change) for change in changes if change.key != "name"]
    text = "".join(f"-{one}" for one, _ in shown)
    if len(text) > _LONGEST_NAME or not all(exact for _, exact in shown):
        text = f"{text[:_LONGEST_NAME]}-{short_hash(repr(sorted(words)))[:8]}"
    return text


def _short(change: Change) -> tuple[str, bool]:
    """A change as part of a folder's name, and whether that says all of it."""
    listed = isinstance(change.value, list)
    value = "+".join(map(str, change.value)) if listed else str(change.value)
    key = change.key.removeprefix("fixed.").removeprefix("axes.")
    text = re.sub(r"[^A-Za-z0-9.+_=-]", "_", f"{key}={value}")
    return text, text == f"{key}={value}"


@dataclass
class _Editor:
    """Writes changes into what a study's YAML says; `written` are the places changed so far."""

    raw: dict[str, Any]
    written: dict[str, Change]

    @property
    def parts(self) -> list[dict[str, Any]]:
        return self.raw["workloads"]

    def places(self, change: Change) -> list[str]:
        """Make the change; returns where it was made, as messages name places."""
        section, _, rest = change.key.partition(".")
        if section == "arms" and rest:
            return [self._arm(rest, change)]
        if section == "workloads" and rest:
            return [self._part(rest, change)]
        if section == "tune" and rest:
            return [self._sweep(rest, change)]
        if section in SECTIONS and rest:
            _check_key(section, rest)
            return self._axes(rest, change) if section == "axes" else self._whole(section, change)
        return [self._study(change)]

    def _study(self, change: Change) -> str:
        key = change.key
        if key not in Study.model_fields:
            homes = [f"{name}.{key}" for name, keys in SECTIONS.items() if key in keys]
            near = f"; did you mean {' or '.join(homes)}?" if homes else _near_place(key)
            raise UserError(f'unknown key "{quoted(key)}"{near}')
        if key in ("arms", "workloads", *SECTIONS):
            raise UserError(f"say which key of it, such as {key}.{_EXAMPLES[key]}")
        _put(self.raw, key, change.value)
        return key

    def _whole(self, section: str, change: Change) -> list[str]:
        key = change.key.partition(".")[2]
        hidden = [i for i in range(len(self.parts)) if self._says(i, section, key)]
        own = self.parts[0].get(section, {})
        if hidden and len(self.parts) == 1 and not own.keys().isdisjoint(_words(key)):
            return [self._into(0, section, key, change.value)]
        if hidden:
            raise UserError(self._hidden_words(hidden, section, key))
        _put(self.raw.setdefault(section, {}), key, change.value)
        return [f"{section}.{key}"]

    def _hidden_words(self, hidden: list[int], section: str, key: str) -> str:
        whose = ", ".join(f"workloads.{i} ({self.parts[i]['workload']})" for i in hidden)
        said = " and ".join(dict.fromkeys(n for i in hidden for n in self._own(i, section, key)))
        place = f"{self._where(hidden[0], section, key)}.{key}"
        if len(self.parts) == 1 and said == key:
            return f"{whose} says {key} for itself, so this would change nothing; set {place}"
        says, it = ("says", "it") if len(hidden) == 1 else ("say", "them")
        own = "itself" if len(hidden) == 1 else "themselves"
        too = ", too" if len(self.parts) > 1 else ""
        return (
            f"{whose} {says} {said} for {own}, so this would not reach {it}; set "
            f"workloads.{hidden[0]}.{place}{too}"
        )

    def _says(self, i: int, section: str, key: str) -> bool:
        """Whether a part's own setting would hide the study's, and no other `--set` gave it."""
        return any(
            f"workloads.{i}.{self._where(i, section, name)}.{name}" not in self.written
            for name in self._own(i, section, key)
        )

    def _own(self, i: int, section: str, key: str) -> list[str]:
        """Of the words for a key those that a part says."""
        part = self.parts[i]
        own = {*part.get(section, {}), *(part.get("axes", {}) if section == "fixed" else ())}
        return [word for word in _words(key) if word in own]

    def _where(self, i: int, section: str, key: str) -> str:
        return "axes" if section == "fixed" and key in self.parts[i].get("axes", {}) else section

    def _axes(self, key: str, change: Change) -> list[str]:
        _check_list(key, change)
        having = [i for i, part in enumerate(self.parts) if key in part.get("axes", {})]
        having = [i for i in having if f"workloads.{i}.axes.{key}" not in self.written] or having
        if not having and len(self.parts) > 1:
            names = " or ".join(f"workloads.{i}.{change.key}" for i in range(len(self.parts)))
            raise UserError(f"none of the study's workload parts has an axis {key}; say {names}")
        return [self._into(i, "axes", key, change.value) for i in having or [0]]

    def _part(self, rest: str, change: Change) -> str:
        which, _, inner = rest.partition(".")
        section, _, key = inner.partition(".")
        if section not in SECTIONS or not key:
            near = did_you_mean(section, SECTIONS) if section else ""
            raise UserError(
                f"write it as workloads.{quoted(which)}.fixed.KEY, .axes. or .protocol.{near}"
            )
        _check_key(section, key)
        if section == "axes":
            _check_list(key, change)
        return self._into(self._index(which), section, key, change.value)

    def _index(self, which: str) -> int:
        """Of the part that a number or the name of its workload means."""
        if which.isdecimal() and int(which) < len(self.parts):
            return int(which)
        names = [part["workload"] for part in self.parts]
        numbers = [i for i, name in enumerate(names) if name == which]
        if len(numbers) > 1:
            places = " or ".join(f"workloads.{i}" for i in numbers)
            raise UserError(f"the study has {len(numbers)} parts {quoted(which)}: say {places}")
        if not numbers:
            near = did_you_mean(which, names)
            raise UserError(f'the study has no workload part "{quoted(which)}"{near}')
        return numbers[0]

    def _into(self, i: int, section: str, key: str, value: Any) -> str:
        part = self.parts[i]
        both = ("fixed", "axes")
        if section in both and value is not None:  # a setting stands in one of them only
            other = part.get(both[section == "fixed"], {})
            for word in _words(key):
                other.pop(word, None)
        _put(part.setdefault(section, {}), key, value)
        return f"workloads.{i}.{section}.{key}"

    def _arm(self, rest: str, change: Change) -> str:
        arms = self.raw["arms"]
        if "." not in rest:
            _put(arms, rest, change.value)
            return f"arms.{rest}"
        fitting = [name for name in arms if rest.startswith(f"{name}.")]
        if not fitting:
            name = rest.partition(".")[0]
            raise UserError(f'the study has no arm "{quoted(name)}"{did_you_mean(name, arms)}')
        name = max(fitting, key=len)
        if not isinstance(arms[name], dict):
            raise UserError(f"arms.{name} is no mapping of options")
        _put(arms[name], rest.removeprefix(f"{name}."), change.value)
        return f"arms.{rest}"

    def _sweep(self, key: str, change: Change) -> str:
        sweep = self.raw.get("tune")
        if not isinstance(sweep, dict):
            raise UserError("the study has no sweep; give it whole: tune={axes: ..., sizes: ...}")
        if key not in SWEEP_KEYS:
            near = did_you_mean(key, SWEEP_KEYS)
            raise UserError(f'tune: unknown key "{quoted(key)}"{near}')
        _, _, axis = key.partition(".")
        if axis:
            _check_list(axis, change)
        _put(sweep.setdefault("axes", {}) if axis else sweep, axis or key, change.value)
        return change.key


_EXAMPLES = {
    "arms": "retnet.chunk=64",
    "workloads": "0.fixed.size=3M",
    "fixed": "size=3M",
    "axes": "length=[1024,4096]",
    "protocol": "blocks=5",
}


def _words(key: str) -> tuple[str, ...]:
    return _INSTEAD.get(key, (key,))


def _put(mapping: dict[str, Any], key: str, value: Any) -> None:
    """Set a key where it stands, so that what was written keeps its order; None takes it out."""
    if value is None:
        mapping.pop(key, None)
        return
    for word in _words(key):
        if word != key:
            mapping.pop(word, None)
    mapping[key] = value


def _check_key(section: str, key: str) -> None:
    if key not in SECTIONS[section]:
        near = said_of_an_arm(key) or did_you_mean(key, SECTIONS[section])
        raise UserError(f'{section}: unknown key "{quoted(key)}"{near}')


def _check_list(key: str, change: Change) -> None:
    if change.value is not None and not isinstance(change.value, list):
        shown = quoted(change.word.partition("=")[2])
        raise UserError(f"an axis is a list: write '{change.key}=[{shown}]'")


def _near_place(key: str) -> str:
    """The key that was probably meant, whichever section it stands in."""
    known = [f"{name}.{one}" for name, keys in SECTIONS.items() for one in keys]
    known += [f"tune.{key}" for key in SWEEP_KEYS]
    bare = {one for keys in SECTIONS.values() for one in keys}
    if "." in key:
        return did_you_mean(key, [*known, *(f"{name}." for name in ("arms", "workloads"))])
    return did_you_mean(key, [*Study.model_fields, *bare])
