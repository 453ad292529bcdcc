"""The verbs that want no study file: compare, init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retnet_bench.cli import completion
from retnet_bench.cli.app import Fresh, Set, app, open_console
from retnet_bench.cli.studies import run_study


@app.command(
    epilog="Example: retnet-bench compare retnet transformer --workload decode --size 3M "
    "--lengths 1k,4k,16k --batch 1,8"
)
def compare(
    arms: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: retnet, transformer or a mixer of `list models`, each with a "
            "kernel if you like (retnet:parallel; retnet:auto: the fastest, by measurement).",
            autocompletion=completion.arms,
        ),
    ],
    workload: Annotated[
        str,
        typer.Option(
            help="What is timed: train, prefill, decode or generate.",
            autocompletion=completion.timed_workloads,
        ),
    ] = "decode",
    size: Annotated[
        str, typer.Option(help="A row of `list sizes`.", autocompletion=completion.sizes)
    ] = "3M",
    lengths: Annotated[str, typer.Option(help="Tokens; 1k is 1024.")] = "1k,4k",
    batch: Annotated[str, typer.Option(help="Sequences at once.")] = "1",
    changes: Set = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the study to this file and print it, and run nothing."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results folder; default runs/<all that is compared>.")
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Measure arms side by side without a study file, and show what came out."""
    from retnet_bench.catalogue.plan import check_figures
    from retnet_bench.study import plan, template
    from retnet_bench.study.changes import changed
    from retnet_bench.study.short import Short
    from retnet_bench.study.study import parse

    source = changed(Short(arms, workload, size, lengths, batch).source(), changes or ())
    study = parse(source)
    check_figures(study, source)
    if save is None:
        run_study(study, source, out, fresh=fresh)
        return
    with source.named():
        plan.make(study)  # sizes and kernels that there are not
    template.save(save, source.text)
    typer.echo(source.text)
    console = open_console()
    console.print(f"written: {save}; run it: retnet-bench run {save}", highlight=False)


@app.command(epilog="Example: retnet-bench init mine.yaml")
def init(
    file: Annotated[Path, typer.Argument(help="A new YAML file; its name becomes the study's.")],
) -> None:
    """Write a commented study to start from; it runs as it stands. Nothing is overwritten."""
    from retnet_bench.study import template

    written = template.write(file)
    words = f"written: {written}; next: retnet-bench plan {written}, retnet-bench run {written}"
    open_console().print(words, highlight=False, soft_wrap=True)
