"""The application that the verbs belong to, and what several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retnet_bench.cli import completion

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="retnet-bench",
    help="Matched RetNet and Transformer language models, measured so that the numbers can be "
    "believed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyName = Annotated[
    str,
    typer.Argument(
        help="A shipped study's name, or a YAML file.", autocompletion=completion.studies
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change what the study says: fixed.size=0.8M, 'axes.length=[1024,4096]', "
        "workloads.decode.fixed.positions=4, arms.retnet.chunk=64, protocol.blocks=5; may be "
        "repeated.",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Set earlier records aside.")]
StudyOut = Annotated[
    Path | None,
    typer.Option("--out", help="Results folder; default runs/<study>, with --set one of its own."),
]
Results = Annotated[
    list[Path], typer.Argument(help="Results folders or parquet files; several are read as one.")
]


def _version(asked: bool) -> None:
    if asked:
        from retnet_bench import __version__

        typer.echo(f"retnet-bench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every verb."""


def open_console() -> Console:
    from retnet_bench import terminal

    return terminal.console()
