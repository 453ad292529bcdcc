"""The verbs of studies: run, reproduce, plan, selftest, watch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retnet_bench.base import UserError
from retnet_bench.cli import completion
from retnet_bench.cli.app import Fresh, Set, StudyName, StudyOut, app, open_console
from retnet_bench.cli.results import findings_of, plot_study, show_results

if TYPE_CHECKING:
    from retnet_bench.run.jobs.submission import Submission
    from retnet_bench.study.study import Source, Study


@app.command(epilog="Example: retnet-bench run quickstart")
def run(
    study: StudyName,
    changes: Set = None,
    out: StudyOut = None,
    fresh: Fresh = False,
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
    """Run a study; what is already in the folder is kept, and only the rest is run. Exit code 4:
    no cell gave a measurement."""
    from retnet_bench.catalogue.plan import check_figures
    from retnet_bench.run.jobs import submission
    from retnet_bench.study.changes import load

    how = {"fresh": fresh, "retry": retry, "skip_oom": skip_oom, "tensorboard": tensorboard}
    asked = submission.asked(on, jobs, slurm, wait, **how)
    loaded, source = load(study, changes or ())
    check_figures(loaded, source)
    run_study(loaded, source, out, asked, plot, **how)


def run_study(
    study: Study,
    source: Source,
    out: Path | None,
    asked: Submission | None = None,
    plot: bool = True,
    **how: bool,
) -> None:
    """Run a study into `out` or its own folder, as jobs where they are `asked` for, and show and
    draw what came out; `how` are options of `session.run`."""
    from retnet_bench.analysis.verdicts.gate_report import EXIT, NOTHING
    from retnet_bench.run import session as running
    from retnet_bench.run.jobs import submission

    console, folder = open_console(), out or running.default_folder(study, source)
    if source.changed:
        console.print(f"set: {', '.join(source.changed)}", highlight=False, soft_wrap=True)
    if asked is None:
        summary = running.run(study, source, folder, console, **how)
    elif (followed := submission.run(study, source, folder, console, asked)) is None:
        return
    else:
        summary = followed
    show_results([summary.folder], console)
    if plot:
        plot_study(summary.folder, study.figures, console)
    words = (
        f"{summary.cells} cells, {summary.failed} without a measurement" if summary.failed else ""
    )
    console.print(words or f"{summary.cells} cells", "in", f"{summary.folder}/records")
    if why := running.nothing_measured(summary.folder):
        console.print(why, highlight=False)
        raise typer.Exit(EXIT[NOTHING])


@app.command(epilog="Example: retnet-bench reproduce fig6b, or: retnet-bench reproduce all")
def reproduce(
    what: Annotated[
        list[str],
        typer.Argument(
            help="table1, table3, table4, table5, table6, table8, fig5, fig6a, fig6b, fig6c, "
            "headlines, all",
            autocompletion=completion.reproductions,
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            help="The largest model size; default: the largest that fits.",
            autocompletion=completion.sizes,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="What each may take by prediction, to choose the size."),
    ] = None,
    out: Annotated[Path, typer.Option(help="A results folder each goes in here.")] = Path(
        "runs/reproduce"
    ),
    fresh: Fresh = False,
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
    changes: Set = None,
    on: Annotated[
        str | None, typer.Option(help="Plan for this device instead; see list devices.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(help="Price of an hour, with its currency: 2.50USD.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Results to calibrate on, and to see how far a sweep is; default runs/<study>, "
            "if any."
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every row, however many the screen has.")
    ] = False,
) -> None:
    """Show what a study is predicted to cost, as a whole and cell by cell. No cell is run; the
    first plan on a machine times matmuls and copies for some seconds, and keeps these rates."""
    from retnet_bench.catalogue.plan import plan_table

    console = open_console()
    screen = console.height if console.is_terminal and not every else None
    for part in plan_table(study, changes or (), on, price, records, screen):
        console.print(part, highlight=False)


@app.command(epilog="Example: retnet-bench selftest gate")
def selftest(
    study: StudyName,
    changes: Set = None,
    out: StudyOut = None,
    fresh: Fresh = False,
) -> None:
    """Run a study's plan against itself: the noise floor of this machine, per workload."""
    from retnet_bench.report.tables import floors_table
    from retnet_bench.run import session as running
    from retnet_bench.study.changes import load

    loaded, source = load(study, changes or ())
    folder = out or running.default_folder(loaded, source)
    console = open_console()
    summary = running.selftest(loaded, source, folder, console, fresh=fresh)
    console.print(floors_table(folder))
    console.print(f"{summary.cells} cells, {summary.failed} failed, in {summary.folder}/records")


@app.command(epilog="Example: retnet-bench watch runs/quickstart")
def watch(
    results: Annotated[Path, typer.Argument(help="The results folder that a run writes to.")],
    once: Annotated[bool, typer.Option("--once", help="Say how far it is, and end.")] = False,
) -> None:
    """Show how far a run is from another terminal, until it ends."""
    from retnet_bench.run.watch import watch as watching

    watching(results, open_console(), once)
