"""The verb of the page: report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from retnet_bench.cli.app import app, open_console


@app.command(epilog="Example: retnet-bench report runs/quickstart --out quickstart.html")
def report(
    results: Annotated[
        list[Path],
        typer.Argument(help="Results folders or parquet files; several stand side by side."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write, a file ending in .html.")] = Path(
        "report.html"
    ),
) -> None:
    """Write results as one HTML page to share: charts, tables, claims, records; no network."""
    from retnet_bench.report import page

    console = open_console()
    for line in page.write(results, out, ["retnet-bench", *sys.argv[1:]]):
        console.print(line, highlight=False, soft_wrap=True)
