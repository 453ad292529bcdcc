"""Seeded changes of an archive: of its bytes, its files and what stands in them."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.folders import honest_manifest

from retnet_bench.bundle.archive import MANIFEST

Files = dict[str, bytes]
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        2**63,
        10**400,
        "",
        "x",
        "\x1b]0;T\x07",
        "[/red]",
        "\ud800",
        "é" * 300,
    ),
    *("../../x", "/etc/passwd", "hf:../../x", "NaN", [], {}, [[]], ["x"], {"x": 1}, float("inf")),
)
"""Values that stand where another is wanted."""


def mutate(archive: Path, target: Path, seed: int) -> str:
    """Write a changed copy of `archive` to `target`; returns what was done to it."""
    dice = random.Random(seed)
    change = dice.choice(CHANGES)
    if change is _bytes:
        target.write_bytes(_flipped(dice, archive.read_bytes()))
        return change.__name__
    with zipfile.ZipFile(archive) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    change(dice, files)
    if dice.random() < 0.8 and MANIFEST in files and change not in (_manifest_field, _swapped):
        files[MANIFEST] = honest_manifest(files)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return change.__name__


def _bytes(dice: random.Random, files: Files) -> None:
    """Of the archive itself."""


def _flipped(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _file_bytes(dice: random.Random, files: Files) -> None:
    name = dice.choice([name for name in files if files[name]])
    files[name] = _flipped(dice, files[name])


def _cut(dice: random.Random, files: Files) -> None:
    name = dice.choice(list(files))
    files[name] = files[name][: dice.randrange(len(files[name]) + 1)]


def _dropped(dice: random.Random, files: Files) -> None:
    del files[dice.choice(list(files))]


def _swapped(dice: random.Random, files: Files) -> None:
    a, b = dice.sample([name for name in files if name != MANIFEST], 2)
    files[a], files[b] = files[b], files[a]
    files[MANIFEST] = honest_manifest(files)


def _added(dice: random.Random, files: Files) -> None:
    name = dice.choice(("records/more.parquet", "selftest/study.yaml", "figures/x.svg", "x", "é"))
    files[name] = files[dice.choice(list(files))]


def _json_field(dice: random.Random, files: Files) -> None:
    name = dice.choice(("claims.json", "environment.json", "data.json"))
    files[name] = _one_changed(dice, files[name])


def _manifest_field(dice: random.Random, files: Files) -> None:
    files[MANIFEST] = _one_changed(dice, files[MANIFEST])


def _one_changed(dice: random.Random, data: bytes) -> bytes:
    """One value of a JSON text changed, dropped or put there twice."""
    said = json.loads(data)
    places = list(_places(said))
    holder, key = dice.choice(places)
    how = dice.randrange(4)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = dice.choice(ODD)
    return json.dumps(said).encode()


def _places(said: Any) -> Any:
    """Every (list or mapping, index or key) inside."""
    if not isinstance(said, dict | list):
        return
    for key in list(said) if isinstance(said, dict) else range(len(said)):
        yield said, key
        yield from _places(said[key])


CHANGES: tuple[Callable[[random.Random, Files], None], ...] = (
    *(_bytes, _file_bytes, _cut, _dropped, _swapped, _added, _json_field, _json_field),
    _manifest_field,
)
