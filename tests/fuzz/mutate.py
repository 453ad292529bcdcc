"""What is done to valid inputs: to trees of values (YAML, JSON), to text, to bytes, to files."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


class Dice(random.Random):
    """Random choices, and a note of each in `did`, for the reader of a finding."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self.did: list[str] = []

    def note(self, *words: object) -> None:
        self.did.append(" ".join(_short(word) for word in words))


def _short(value: object) -> str:
    text = ascii(value) if not isinstance(value, str) else ascii(str(value))[1:-1]
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


class Raw(str):
    """Text that goes into a YAML or JSON file as it stands, unquoted."""


def _bomb() -> str:
    """Ten anchors, each ten times the one before."""
    levels = ["&b0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"&b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 10)]
    return f"[{', '.join(levels)}]"


TEXTS = (
    *(
        "",
        " ",
        "a\nb",
        "\x1b]0;T\a",
        "\u202eabc",
        "\ufffe",
        "\ud800",
        "\0",
        "ret$net_a$",
        "[bold]x",
    ),
    *(
        "x" * 300,
        "x" * 100_000,
        "%s{0}",
        "../../x",
        "/dev/zero",
        "/etc/passwd",
        "none",
        "null",
        "é",
    ),
    *(
        "max",
        "nan",
        "1e3",
        "-1",
        "64",
        "bpe:4096",
        "bpe:999999999",
        "random:2",
        "hf:../../x",
        "cuda",
    ),
)
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 64, 1.5, -0.0, 1e-320, 1e308, 2**31, 2**53 + 1, 2**63 - 1, 2**63),
    *(10**6, 10**20, 10**400, Raw("9" * 5000), Raw("1e999"), Raw("-1e-999")),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"a": 1}, {"": None})
_DEEP = tuple(Raw("[" * n + "]" * n) for n in (40, 3000, 100_000))
RAW: dict[str, tuple[Raw, ...]] = {
    "json": (*map(Raw, ("NaN", "Infinity", "-Infinity", "01", "'a'", "")), *_DEEP),
    "yaml": (
        *map(Raw, (".nan", "-.inf", "1:30", "0100", "0b", "0x", "1_000", "2001-99-99", "*b", "")),
        *map(Raw, ("!!bool maybe", "!!int ''", "!!float abc", "!!timestamp x", "!!binary '@'")),
        *map(Raw, ("!!python/name:os.system ''", "!!set {a}", "!!omap [a]", "<<", "&a [*a]")),
        *map(Raw, ("2001-01-01 99:99:99", "!x y", "{? [a] : b}", "{? {a: b} : c}", "%", "@", "\t")),
        *(Raw(_bomb()), *_DEEP, Raw("{a: " * 3000 + "}" * 3000)),
    ),
}


def odd(dice: Dice, syntax: str) -> Any:
    """A value that stands nowhere in a well-meant file."""
    kind = dice.choice((TEXTS, NUMBERS, NUMBERS, OTHERS, RAW[syntax], RAW[syntax]))
    return copy.deepcopy(dice.choice(kind))


# --- trees -------------------------------------------------------------------------------------

Site = tuple[Any, Any]
"""A container and the key or index of one of its values."""


def sites(tree: Any) -> list[Site]:
    """Every place in the tree that holds a value."""
    found: list[Site] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = (
            node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        )
        found += [(node, key) for key in keys]
        stack += [node[key] for key in keys]
    return found


def _replace(dice: Dice, node: Any, key: Any, syntax: str) -> None:
    node[key] = odd(dice, syntax)


def _remove(dice: Dice, node: Any, key: Any, syntax: str) -> None:
    del node[key]


def _rename(dice: Dice, node: Any, key: Any, syntax: str) -> None:
    if isinstance(node, dict):
        text = str(key)
        near = text[:-1] + text[-1:] * 2
        node[dice.choice((near, text.upper(), *TEXTS))] = node.pop(key)
    else:
        node.insert(key, odd(dice, syntax))


def _add(dice: Dice, node: Any, key: Any, syntax: str) -> None:
    if isinstance(node, dict):
        node[dice.choice((*TEXTS, "size", "length", "dtype", "dropout", "bias"))] = odd(
            dice, syntax
        )
    else:
        node.append(odd(dice, syntax))


def _repeat(dice: Dice, node: Any, key: Any, syntax: str) -> None:
    if isinstance(node[key], list):
        node[key] = node[key] * dice.choice((2, 3, 300))
    else:
        node[key] = list(range(1, dice.choice((3, 300, 20_000))))


def _wrap(dice: Dice, node: Any, key: Any, syntax: str) -> None:
    node[key] = dice.choice(([node[key]], {"value": node[key]}, str(node[key])))


def _scale(dice: Dice, node: Any, key: Any, syntax: str) -> None:
    if isinstance(node[key], int | float):
        node[key] = node[key] * dice.choice((-1, 0.5, 1.0, 2, 3, 1000, 10**9))
    else:
        node[key] = odd(dice, syntax)


def _spoil(dice: Dice, node: Any, key: Any, syntax: str) -> None:
    text = str(node[key])
    at = dice.randrange(len(text) + 1)
    node[key] = text[:at] + dice.choice(TEXTS) + text[at:]


_OPERATIONS: tuple[Callable[[Dice, Any, Any, str], None], ...] = (
    *(_replace, _replace, _replace, _replace),
    *(_remove, _rename, _add, _repeat, _wrap, _scale, _spoil),
)


def mutate_tree(dice: Dice, tree: Any, syntax: str) -> Any:
    """A copy of `tree` with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.choice((1, 1, 2, 3))):
        if places := sites(tree):
            node, key = dice.choice(places)
            operation = dice.choice(_OPERATIONS)
            operation(dice, node, key, syntax)
            there = node.get(key, "") if isinstance(node, dict) else node[key : key + 1]
            dice.note(operation.__name__[1:], key, there)
    return tree


def written(tree: Any, syntax: str) -> str:
    """The tree as text; `Raw` values unquoted."""
    raw: list[str] = []

    def marked(node: Any) -> Any:
        if isinstance(node, Raw):
            raw.append(node)
            return f"@@{len(raw) - 1}@@"
        if isinstance(node, dict):
            return {key: marked(value) for key, value in node.items()}
        return [marked(value) for value in node] if isinstance(node, list) else node

    tree = marked(tree)
    dump = yaml.safe_dump(tree, sort_keys=False) if syntax == "yaml" else json.dumps(tree, indent=1)
    return re.sub(r"""['"]?@@(\d+)@@['"]?""", lambda found: raw[int(found[1])], dump)


# --- text and bytes ----------------------------------------------------------------------------


def mutate_lines(dice: Dice, text: str) -> bytes:
    """The text with a line doubled, dropped, moved or changed, or in another encoding."""
    lines = text.split("\n")
    at, to = dice.randrange(len(lines)), dice.randrange(len(lines))
    how = dice.choice(
        ("double", "drop", "swap", "indent", "insert", "bom", "utf-16", "crlf", "cut")
    )
    dice.note(how, "line", at, lines[at])
    if how == "double":
        lines.insert(at, lines[at])
    elif how == "drop":
        del lines[at]
    elif how == "swap":
        lines[at], lines[to] = lines[to], lines[at]
    elif how == "indent":
        lines[at] = dice.choice((" ", "\t", "- ", "? ", "# ")) + lines[at]
    elif how == "insert":
        lines.insert(at, str(dice.choice(RAW["yaml"])))
    elif how == "cut":
        lines[at:] = [lines[at][: len(lines[at]) // 2]]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if how == "crlf":
        return data.replace(b"\n", b"\r\n")
    return {"bom": b"\xef\xbb\xbf" + data, "utf-16": data.decode().encode("utf-16")}.get(how, data)


def mutate_bytes(dice: Dice, data: bytes) -> bytes:
    """One to four places flipped, cut out, filled in, overwritten or copied elsewhere."""
    for _ in range(dice.choice((1, 1, 2, 4))):
        if not data:
            return data
        start = dice.randrange(len(data))
        end = min(len(data), start + dice.choice((1, 2, 4, 8, 64, 1000)))
        how = dice.choice(("flip", "flip", "cut", "insert", "zero", "ones", "splice", "end"))
        dice.note(how, f"bytes {start} to {end} of {len(data)}")
        to = dice.randrange(len(data))
        piece = {
            "flip": bytes([data[start] ^ (1 << dice.randrange(8))]) + data[start + 1 : end],
            "cut": b"",
            "insert": dice.randbytes(end - start) + data[start:end],
            "zero": bytes(end - start),
            "ones": b"\xff" * (end - start),
            "splice": data[to : to + end - start],
            "end": b"",
        }[how]
        data = data[:start] + piece + (b"" if how == "end" else data[end:])
    return data


def mutate_text_file(dice: Dice, path: Path, syntax: str) -> None:
    """A YAML or JSON file: its tree (mostly), its lines or its bytes."""
    text = path.read_text("utf-8")
    roll = dice.random()
    if roll < 0.75:
        tree = yaml.safe_load(text) if syntax == "yaml" else json.loads(text)
        path.write_bytes(written(mutate_tree(dice, tree, syntax), syntax).encode("utf-8"))
    elif roll < 0.92:
        path.write_bytes(mutate_lines(dice, text))
    else:
        path.write_bytes(mutate_bytes(dice, text.encode("utf-8")))


# --- files -------------------------------------------------------------------------------------


def odd_file(dice: Dice, path: Path) -> None:
    """Something else under the file's name: a FIFO, a device, a loop, a folder, nothing, 2 GB."""
    how = dice.choice(("fifo", "device", "loop", "folder", "empty", "nothing", "huge"))
    dice.note(how, "in place of", path.name)
    path.unlink(missing_ok=True)
    if how == "fifo":
        os.mkfifo(path)
    elif how in ("device", "loop"):
        path.symlink_to("/dev/zero" if how == "device" else path.name)
    elif how == "folder":
        path.mkdir()
    elif how != "nothing":
        path.touch()
        os.truncate(path, 2_000_000_000 if how == "huge" else 0)


def copy_of(seed: Path, folder: Path, name: str) -> Path:
    """A seed, file or folder, as `folder/name`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    if seed.is_dir():
        return Path(shutil.copytree(seed, target))
    return Path(shutil.copyfile(seed, target))
