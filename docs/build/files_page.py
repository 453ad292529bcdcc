"""docs/files.md, from the first sentence of every module: `python docs/build/files_page.py >
docs/files.md`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """\
<!-- Written by `python docs/build/files_page.py > docs/files.md`; do not edit. -->
# What each file is for

The rooms, what each may import and why they are cut so: [design.md](design.md).
"""


def write_documentation() -> str:
    """The page."""
    return "\n".join([HEAD, *_rooms()])


def _rooms() -> Iterator[str]:
    package = ROOT / "retnet_bench"
    folders = sorted({file.parent for file in package.rglob("*.py")})
    for folder in folders:
        files = [f"- `{file.name}`: {_purpose(file)}" for file in _named(folder)]
        if files:
            yield f"## {folder.relative_to(ROOT)}/\n"
            yield "\n".join(files) + "\n"


def _named(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if file.stem not in ("__init__", "__main__"))


def _purpose(file: Path) -> str:
    """The first paragraph of the module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


if __name__ == "__main__":
    sys.stdout.write(write_documentation())
