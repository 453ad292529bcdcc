"""The verbs of studies: run, reproduce, plan, selftest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retnet_bench.base import UserError
from retnet_bench.cli.app import StudyName, app, open_console
from retnet_bench.cli.results import findings_of, plot_study, show_results


@app.command(epilog="Example: retnet-bench run quickstart")
def run(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(help="Results folder; default runs/<study>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set earlier records aside.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    skip_oom: Annotated[
        bool, typer.Option("--skip-oom", help="Leave out cells that are predicted not to fit.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Trainings write TensorBoard events, too.")
    ] = False,
    plot: Annotated[bool, typer.Option(help="Draw the study's figures at the end.")] = True,
    on: Annotated[
        str | None,
        typer.Option(help="Run each pair as a job of its own: local or slurm."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="With --on: at most so many jobs at once.")
    ] = None,
    slurm: Annotated[
        str | None,
        typer.Option(help="With --on slurm: partition=...,time=...,... or a YAML file of them."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --on slurm: follow the jobs to their end.")
    ] = False,
) -> None:
    """Run a study; what is already in the folder is kept, and only the rest is run."""
    from retnet_bench.catalogue.plan import check_figures
    from retnet_bench.run import session as running
    from retnet_bench.run.jobs import submission
    from retnet_bench.study import study as studies

    how = {"fresh": fresh, "retry": retry, "skip_oom": skip_oom, "tensorboard": tensorboard}
    asked = submission.asked(on, jobs, slurm, wait, **how)
    loaded, source = studies.load(study)
    check_figures(loaded, source)
    console, folder = open_console(), out or running.default_folder(loaded)
    if asked is None:
        summary = running.run(loaded, source, folder, console, **how)
    elif (followed := submission.run(loaded, source, folder, console, asked)) is None:
        return
    else:
        summary = followed
    show_results([summary.folder], console)
    if plot:
        plot_study(summary.folder, loaded.figures, console)
    words = (
        f"{summary.cells} cells, {summary.failed} without a measurement" if summary.failed else ""
    )
    console.print(words or f"{summary.cells} cells", "in", f"{summary.folder}/records")


@app.command(epilog="Example: retnet-bench reproduce fig6b, or: retnet-bench reproduce all")
def reproduce(
    what: Annotated[
        list[str],
        typer.Argument(
            help="table1, table3, table4, table5, table6, table8, fig5, fig6a, fig6b, fig6c, "
            "headlines, all"
        ),
    ],
    size: Annotated[
        str | None, typer.Option(help="The largest model size; default: the largest that fits.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="What each may take by prediction, to choose the size."),
    ] = None,
    out: Annotated[Path, typer.Option(help="A results folder each goes in here.")] = Path(
        "runs/reproduce"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Set earlier records aside.")] = False,
) -> None:
    """Redo the paper's tables and figures at this machine's sizes, and hold its claims to them."""
    from retnet_bench.report import card
    from retnet_bench.run import reproduce as paper

    names, console, done = paper.names(what), open_console(), []
    for name in names:
        console.print(f"{name}: {paper.WHAT[name]}", highlight=False)
        try:
            target = paper.Reproduction(name, out / name, size, minutes, fresh)
            study = target.run(console)
        except UserError as error:
            if len(names) == 1:
                raise
            console.print(f"{name}: not measured: {error}", highlight=False)
            continue
        done.append(target.folder)
        plot_study(target.folder, study.figures, console)
    for part in card.parts(done, findings_of(done), out):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))


@app.command(epilog="Example: retnet-bench plan decode --on h100-80gb --price 2.50USD")
def plan(
    study: StudyName,
    on: Annotated[
        str | None, typer.Option(help="Plan for this device instead; see list devices.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(help="Price of an hour, with its currency: 2.50USD.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="Results to calibrate on; default runs/<study>, if any.")
    ] = None,
) -> None:
    """Show a study's cells and what each is predicted to cost. No cell is run; the first plan
    on a machine times matmuls and copies for some seconds, and keeps these rates."""
    from retnet_bench.catalogue.plan import plan_table

    console = open_console()
    for part in plan_table(study, on, price, records):
        console.print(part, highlight=False)


@app.command(epilog="Example: retnet-bench selftest gate")
def selftest(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(help="Results folder; default runs/<study>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set earlier records aside.")] = False,
) -> None:
    """Run a study's plan against itself: the noise floor of this machine, per workload."""
    from retnet_bench.report.tables import floors_table
    from retnet_bench.run import session as running
    from retnet_bench.study import study as studies

    loaded, source = studies.load(study)
    folder = out or running.default_folder(loaded)
    console = open_console()
    summary = running.selftest(loaded, source, folder, console, fresh=fresh)
    console.print(floors_table(folder))
    console.print(f"{summary.cells} cells, {summary.failed} failed, in {summary.folder}/records")
