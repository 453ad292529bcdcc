"""A commented study to start from: the verb `init`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from retnet_bench import files
from retnet_bench.base import UserError, printable, quoted

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def write(path: Path) -> Path:
    """Write the study to `path`, named as the file. UserError where something is there already, or
    the file's name can't be a study's."""
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"{printable(path)}: a study is a YAML file: call it {quoted(path.stem)}.yaml"
        )
    if not _NAME.fullmatch(path.stem):
        words = "letters, digits, _ . -, at most 100 of them, make a study's name"
        raise UserError(f'{printable(path)}: "{quoted(path.stem)}" can be no name: {words}')
    text = Path(__file__).with_suffix(".yaml").read_text("utf-8")
    save(path, text.replace("FILE", str(path)).replace("NAME", path.stem))
    return path


def save(path: Path, text: str) -> None:
    """Write a new file. UserError where something is there already."""
    with files.guarded(path):
        if os.path.lexists(path):
            words = "is there already and is left as it is; take another name"
            raise UserError(f"{printable(path)} {words}")
    files.write_text(path, text)
