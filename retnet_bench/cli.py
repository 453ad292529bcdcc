"""The verbs: parse, call, print. Everything else lives in the rooms, imported when it is used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retnet_bench import __version__
from retnet_bench.base import UserError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="retnet-bench",
    help="Matched RetNet and Transformer language models, measured so that the numbers can be "
    "believed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyName = Annotated[str, typer.Argument(help="A shipped study's name, or a YAML file.")]
Results = Annotated[Path, typer.Argument(help="A results folder, or one parquet file.")]


def _version(asked: bool) -> None:
    if asked:
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


def _console() -> Console:
    from rich.console import Console

    # Names, reasons and intervals hold [words], which rich would take for its own markup.
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, markup=False, emoji=False)


@app.command(epilog="Example: retnet-bench run quickstart")
def run(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(help="Results folder; default runs/<study>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set earlier records aside.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    plot: Annotated[bool, typer.Option(help="Draw the study's figures at the end.")] = True,
) -> None:
    """Run a study; what is already in the folder is kept, and only the rest is run."""
    from retnet_bench.figures import FIGURES
    from retnet_bench.study import run as running
    from retnet_bench.study import study as studies

    loaded, source = studies.load(study)
    with source.named():
        for name in loaded.figures:
            FIGURES[name]
    console = _console()
    summary = running.run(
        loaded,
        source,
        out or running.default_folder(loaded),
        console,
        fresh=fresh,
        retry=retry,
    )
    _show(summary.folder, console)
    if plot:
        _plot(summary.folder, loaded.figures, None, console)
    words = (
        f"{summary.cells} cells, {summary.failed} without a measurement" if summary.failed else ""
    )
    console.print(words or f"{summary.cells} cells", "in", f"{summary.folder}/records")


@app.command(epilog="Example: retnet-bench plan decode")
def plan(study: StudyName) -> None:
    """Show a study's cells and what each is predicted to cost; nothing is run."""
    from retnet_bench.catalogue import plan_table

    table, total = plan_table(study)
    console = _console()
    console.print(table)
    console.print(total, highlight=False)


@app.command(epilog="Example: retnet-bench show runs/quickstart")
def show(results: Results) -> None:
    """Show what was measured, as tables."""
    _show(results, _console())


def _show(results: Path, console: Console) -> None:
    from retnet_bench.analysis.curves import contract_text
    from retnet_bench.analysis.floor import read_floors
    from retnet_bench.report.tables import tables
    from retnet_bench.results.store import read_records

    records = read_records(results)
    for table in tables(records, read_floors(results, set(records["fingerprint"]))):
        console.print(table)
    console.print(contract_text(records), highlight=False)


@app.command(epilog="Example: retnet-bench plot runs/quickstart --figure fig6a")
def plot(
    results: Results,
    figure: Annotated[
        list[str] | None, typer.Option(help="A figure's name; may be repeated. Default: all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; default <results>/figures.")
    ] = None,
) -> None:
    """Draw figures from results, as SVG and PNG."""
    _plot(results, figure, out, _console())


def _plot(results: Path, names: list[str] | None, out: Path | None, console: Console) -> None:
    from retnet_bench.figures import FIGURES, plot
    from retnet_bench.results.store import read_records

    records = read_records(results)
    folder = out or (results if results.is_dir() else results.parent) / "figures"
    for name in names or FIGURES:
        try:
            for path in plot(records, [name], folder):
                console.print(f"drawn: {path}", highlight=False, soft_wrap=True)
        except UserError as error:
            if names:
                raise
            console.print(f"not drawn: {error}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: retnet-bench check runs/mine --baseline results/decode --out gate")
def check(
    candidate: Results,
    baseline: Annotated[Path, typer.Option(help="A results folder or parquet to hold it against.")],
    exact: Annotated[bool, typer.Option("--exact", help="Compare exact figures only.")] = False,
    limit: Annotated[
        float, typer.Option(help="The slow-down that must not be missed; 0.05 is 5 %.")
    ] = 0.05,
    out: Annotated[
        Path | None, typer.Option(help="Folder for gate.md, gate.xml, gate.json and the figure.")
    ] = None,
) -> None:
    """Hold results against a baseline: 0 pass, 1 regression, 3 inconclusive, 4 nothing measured."""
    from retnet_bench.report import gate

    report = gate.check(candidate, baseline, limit=limit, exact_only=exact)
    console = _console()
    if gate.listed(report):
        console.print(gate.table(report))
    for path in gate.write(report, out) if out else []:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    console.print(report.summary, highlight=False)
    raise typer.Exit(report.exit_code)


@app.command("list", epilog="Example: retnet-bench list kernels")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            help="studies, models, sizes, kernels, workloads, figures or corpora; default: all."
        ),
    ] = None,
) -> None:
    """List what there is to choose from; for kernels also why one can't be had here."""
    from retnet_bench.catalogue import listing

    for part in listing(what):
        _console().print(part)


@app.command(epilog="Example: retnet-bench env")
def env() -> None:
    """Show what this machine can and can't measure, and why."""
    from retnet_bench.catalogue import machine

    for part in machine():
        _console().print(part)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, an interrupt is 130."""
    debug = "--debug" in sys.argv
    try:
        app()
    except UserError as error:
        if debug:
            raise
        typer.echo(f"retnet-bench: {error}", err=True)
        sys.exit(2)
    except SystemExit as leaving:
        if leaving.code == 130:  # what typer makes of Ctrl-C
            typer.echo("interrupted: finished cells are kept, the same command resumes", err=True)
        raise
    except Exception as error:
        if debug:
            raise
        message = f"{type(error).__name__}: {error}"
        typer.echo(f"retnet-bench: unexpected {message} (--debug shows where)", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
