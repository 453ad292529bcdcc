"""The verbs of results: show, plot, check, history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retnet_bench.base import UserError, printable
from retnet_bench.cli import completion
from retnet_bench.cli.app import Results, app, open_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from retnet_bench.analysis.tables.where import Condition
    from retnet_bench.analysis.verdicts.judging import Finding


@app.command(
    epilog="Example: retnet-bench show runs/quickstart --where 'arm=retnet,length>=4096' "
    "--format csv"
)
def show(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Results folders or parquet files; several are read as one."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITIONS",
            help="Only rows that fit: 'arm=retnet|transformer,length>=4096'; of columns and of "
            "settings of the cells. May be repeated.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="A row a value, with these columns: arm,length,metric,estimate,low,high."
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="A row a value, as table, csv, json or markdown."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two results side by side, such as those of two machines."),
    ] = None,
) -> None:
    """Show what was measured, as tables; or chosen values of it, as a table or as data."""
    from retnet_bench.analysis.tables.where import chosen, conditions
    from retnet_bench.report import values
    from retnet_bench.results.store import read_all

    wanted, kind = conditions(where or ()), values.check_format(form or "table")
    console = open_console()
    if compare is not None:
        _show_compared(results, compare, columns, wanted, kind)
        return
    if not results:
        raise UserError("show wants a results folder, such as runs/quickstart, or --compare A B")
    if columns is None and form is None:
        show_results(results, console, wanted)
        return
    records = chosen(read_all(results), wanted)
    _print_part(values.chosen(records, None if columns is None else [columns], kind))


def _show_compared(
    results: list[Path] | None,
    compare: tuple[Path, Path],
    columns: str | None,
    wanted: list[Condition],
    kind: str,
) -> None:
    from retnet_bench.analysis.tables.where import chosen
    from retnet_bench.report import values
    from retnet_bench.results.store import read_records

    if results or columns:
        what = "no --columns" if columns else "no third"
        raise UserError(f"--compare takes two results and {what}")
    if compare[0].resolve() == compare[1].resolve():
        raise UserError(f"--compare: both are {printable(compare[0])}")
    sides = (chosen(read_records(compare[0]), wanted), chosen(read_records(compare[1]), wanted))
    for part in values.compared((str(compare[0]), str(compare[1])), sides, kind):
        _print_part(part)


def _print_part(part: Table | str) -> None:
    """A table as the terminal takes it; data line by line as it is, however wide."""
    if isinstance(part, str):
        typer.echo(printable(part, keep="\n"))
    else:
        open_console().print(part)


def show_results(results: list[Path], console: Console, wanted: Sequence[Condition] = ()) -> None:
    """Every table of some results; of chosen rows without claims, which are of all of them."""
    from retnet_bench.analysis.tables import tuning
    from retnet_bench.analysis.tables.baselines import as_studies_say
    from retnet_bench.analysis.tables.captions import contract_text, places_text
    from retnet_bench.analysis.tables.floor import read_all_floors
    from retnet_bench.analysis.tables.where import chosen
    from retnet_bench.report.claims import claims_table
    from retnet_bench.report.tables import Known, tables
    from retnet_bench.results import current, live
    from retnet_bench.results.store import read_all

    remarks = [of(folder) for of in (live.remark, _unfinished) for folder in results]
    for words in filter(None, remarks):
        console.print(words, highlight=False, soft_wrap=True)
    findings = [] if wanted else findings_of(results)  # all that may be refused, first
    every = as_studies_say(read_all(results), results)
    known = Known(unfinished=tuning.unfinished(every, current.of(results)))
    records = chosen(every, wanted)
    for table in tables(records, read_all_floors(results, set(records["fingerprint"])), known):
        console.print(table)
    if findings:
        console.print(claims_table(findings))
    console.print(contract_text(records), highlight=False)
    if places := places_text(records):
        console.print(places, highlight=False, soft_wrap=True)


def _unfinished(results: Path) -> str | None:
    if not (results / "jobs").is_dir():  # what follows imports torch
        return None
    from retnet_bench.catalogue.jobs import unfinished

    return unfinished(results)


def findings_of(results: list[Path]) -> list[Finding]:
    """What each study's own records say to its claims."""
    from retnet_bench.analysis.verdicts import claims, judging
    from retnet_bench.results.store import read_records

    stated = {folder: claims.beside(folder) for folder in results}
    return [
        finding
        for folder, own_claims in stated.items()
        if own_claims
        for finding in judging.evaluate(read_records(folder), own_claims)
    ]


@app.command(epilog="Example: retnet-bench plot runs/quickstart --figure fig6a")
def plot(
    results: Results,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            help="A figure's name; may be repeated. Default: all.",
            autocompletion=completion.figures,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; default <results>/figures.")
    ] = None,
) -> None:
    """Draw figures from results, as SVG and PNG."""
    from retnet_bench.figures import FIGURES

    console = open_console()
    undrawn = plot_results(results, figure or FIGURES, out, console)
    if figure and undrawn:
        raise UserError(next(iter(undrawn.values())))
    if undrawn:
        why = "these records lack what they need; --figure NAME says what that is"
        console.print(f"not drawn: {', '.join(undrawn)}: {why}", highlight=False, soft_wrap=True)


def plot_study(folder: Path, names: Iterable[str], console: Console) -> None:
    """Draw the figures that a study ends in; a line for each that its records can't feed."""
    for name, why in plot_results([folder], names, None, console).items():
        console.print(f"not drawn: {name}: {why}", highlight=False, soft_wrap=True)


def plot_results(
    results: list[Path], names: Iterable[str], out: Path | None, console: Console
) -> dict[str, str]:
    """Draw figures; returns why, by name, for those that the records can't feed."""
    from retnet_bench.analysis.tables.baselines import as_studies_say
    from retnet_bench.figures import FIGURES, plot
    from retnet_bench.files import NotWritten
    from retnet_bench.results.store import read_all

    if len(results) > 1 and out is None:
        raise UserError("--out is missing: figures of several results need a folder of their own")
    records = as_studies_say(read_all(results), results)
    first = results[0]
    folder = out or (first if first.is_dir() else first.parent) / "figures"
    undrawn = {}
    for name in names:
        FIGURES[name]  # an unknown one is a mistake, not a lack of records
        try:
            for path in plot(records, [name], folder):
                console.print(f"drawn: {path}", highlight=False, soft_wrap=True)
        except NotWritten:
            raise
        except UserError as error:
            undrawn[name] = str(error)
    return undrawn


@app.command(
    epilog="Example: retnet-bench check runs/mine --baseline results/decode, or: "
    "retnet-bench check gate --against main"
)
def check(
    candidate: Annotated[
        str, typer.Argument(help="A results folder or parquet; with --against, a study.")
    ],
    baseline: Annotated[
        Path | None, typer.Option(help="A results folder or parquet to hold it against.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="A git revision: both are measured now, their blocks interleaved."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare exact figures only.")] = False,
    limit: Annotated[
        float, typer.Option(help="The slow-down that must not be missed; 0.05 is 5 %.")
    ] = 0.05,
    budget: Annotated[
        float | None,
        typer.Option(help="With --against: seconds for all cells; 120 by default."),
    ] = None,
    dirty: Annotated[
        bool, typer.Option("--dirty", help="With --against: measure uncommitted changes.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for gate.md, gate.xml, gate.json and the figure.")
    ] = None,
) -> None:
    """Hold results, or this code, against a baseline: exit code 0 pass, 1 regression, 2 usage,
    3 inconclusive, 4 nothing measured; 70 something is broken, so no verdict."""
    from retnet_bench.analysis.verdicts.decision import Policy
    from retnet_bench.report import gate

    if (baseline is None) == (against is None):
        raise UserError("check wants one of --baseline RESULTS and --against REVISION")
    if baseline is not None and (budget is not None or dirty):
        option = "--dirty" if budget is None else "--budget"
        raise UserError(f"{option} is of --against; with --baseline nothing is measured")
    policy, console = Policy(limit=limit, exact_only=exact), open_console()
    if against is not None:
        from retnet_bench.run.against import BUDGET_S, measured

        seconds = BUDGET_S if budget is None else budget
        with measured(candidate, against, policy, seconds, dirty, console) as comparison:
            report = gate.check(
                comparison.candidate, comparison.baseline, policy, comparison.selftest_of
            )
    else:
        assert baseline is not None
        report = gate.check(Path(candidate), baseline, policy)
    if gate.listed(report):
        console.print(gate.table(report))
    for path in gate.write(report, out) if out else []:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    console.print(report.summary, highlight=False)
    raise typer.Exit(report.exit_code)


@app.command(epilog="Example: retnet-bench history runs --out runs/figures")
def history(
    folders: Annotated[
        list[Path], typer.Argument(help="Results folders of several runs, or folders of such.")
    ],
    out: Annotated[Path | None, typer.Option(help="Also draw the history into a folder.")] = None,
) -> None:
    """Show how results changed from run to run, and at which revision their level stepped."""
    from retnet_bench.analysis.verdicts import history as histories
    from retnet_bench.report.history import history_table, summary

    runs = histories.read(folders)
    lines = histories.lines(runs)
    console = open_console()
    console.print(history_table(lines))
    console.print(summary(runs, lines), highlight=False)
    if out is not None:
        from retnet_bench.figures.history import draw_history

        for path in draw_history(runs, lines, out):
            console.print(f"drawn: {path}", highlight=False, soft_wrap=True)
