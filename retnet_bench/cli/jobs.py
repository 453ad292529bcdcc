"""The verb of jobs: status."""

from __future__ import annotations

from typing import Annotated

import typer

from retnet_bench.cli.app import app, open_console


@app.command(epilog="Example: retnet-bench status runs/quickstart")
def status(
    study: Annotated[
        str, typer.Argument(help="A results folder, or a study whose jobs are in runs/<study>.")
    ],
) -> None:
    """Show a study's jobs: queued, running, done or failed, why, and where each log is."""
    from retnet_bench.catalogue.jobs import status_parts

    console = open_console()
    for part in status_parts(study):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
