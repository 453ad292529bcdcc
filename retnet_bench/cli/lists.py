"""What there is, and what this machine is: list, env, data."""

from __future__ import annotations

from typing import Annotated

import typer

from retnet_bench.cli import completion
from retnet_bench.cli.app import app, open_console

data = typer.Typer(
    help="Corpora: what there is, getting the texts of one, and what is in one.",
    no_args_is_help=True,
    epilog="Example: retnet-bench data get bundle",
)
app.add_typer(data, name="data")


@app.command("list", epilog="Example: retnet-bench list kernels")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            help="studies, models, sizes, kernels, workloads, settings, protocol, "
            "figures, corpora, devices.",
            autocompletion=completion.lists,
        ),
    ] = None,
) -> None:
    """List what there is to choose from; for kernels also why one is not available here."""
    from retnet_bench.catalogue.lists import listing

    for part in listing(what):
        open_console().print(part)


@app.command(epilog="Example: retnet-bench env")
def env(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure its rates and keep them for plans.")
    ] = False,
) -> None:
    """Show what this machine can and can't measure, and why."""
    from retnet_bench.catalogue.machine import machine, measured_rates

    for part in [*machine(), *(measured_rates() if measure else ())]:
        open_console().print(part, highlight=False)


@data.command("list", epilog="Example: retnet-bench data list")
def data_list() -> None:
    """List the corpora, and which are on this machine."""
    list_("corpora")


@data.command("get", epilog="Example: retnet-bench data get bundle")
def data_get(
    name: Annotated[str, typer.Argument(help="A corpus that `data list` says can be got.")],
) -> None:
    """Download a corpus's texts to the cache folder; nothing is installed."""
    from retnet_bench.catalogue.corpora import getting

    console = open_console()
    for line in getting(name):
        console.print(line, highlight=False, soft_wrap=True)
    datashow_results(name)


@data.command("show", epilog="Example: retnet-bench data show sotu")
def datashow_results(
    corpus: Annotated[
        str,
        typer.Argument(
            help="A corpus's name, a path (path#column), or hf:owner/name:config:column."
        ),
    ],
) -> None:
    """Show a corpus's documents, bytes and words by split, its licence and checksum."""
    from retnet_bench.catalogue.corpora import corpus_table

    table, lines = corpus_table(corpus)
    console = open_console()
    console.print(table)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
