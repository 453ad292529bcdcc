"""The console of the verbs: what stands in records and studies cannot command a terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from retnet_bench.base import printable

WIDTH = 140
"""Of tables that go to a file or a pipe."""


class Terminal(Console):
    """A console that makes every string printable that it is given, in tables too: names, reasons
    and the tails of error output come from files. A `Text` is printed as it is."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep="\n"), **options)


def console() -> Terminal:
    """The console for standard output."""
    # Names, reasons and intervals hold [words], which rich would take for its own markup.
    width = None if sys.stdout.isatty() else WIDTH
    return Terminal(width=width, markup=False, emoji=False)
