"""Tables for the terminal, all in one style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from retnet_bench.base import printable

Rows = Iterable[Iterable[RenderableType]]


def table(title: str, columns: str, rows: Rows = (), caption: str = "") -> Table:
    """A table of `rows`. `columns` are names with "|" between them; one that begins with ">" is
    aligned to the right. `caption` stands below. Where there is too little room, texts go on in the
    next line, and numbers, which would read as others there, end in an ellipsis."""
    made = Table(title=title, title_justify="left", header_style="bold", caption_justify="left")
    made.caption = Text(printable(caption, keep="\n")) if caption else None
    for column in columns.split("|"):
        if column.startswith(">"):
            made.add_column(column[1:], justify="right")
        else:
            made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def prose(title: str, shares: Mapping[str, int], rows: Rows) -> Table:
    """A table of sentences: as wide as the terminal, its columns in these shares, and a line
    between rows."""
    made = Table(title=title, title_justify="left", header_style="bold", show_lines=True)
    made.expand = True
    for column, share in shares.items():
        made.add_column(column, ratio=share)
    for row in rows:
        made.add_row(*row)
    return made
