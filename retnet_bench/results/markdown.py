"""Tables in Markdown, for pages and the card of claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], rules: Sequence[str] = ()
) -> str:
    """A table of a page; `rules` ("---:" aligns to the right) where columns differ in it."""
    lines = [head, rules or ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
