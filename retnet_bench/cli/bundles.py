"""The verbs of archives: bundle, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retnet_bench.base import UserError
from retnet_bench.cli.app import app, open_console


@app.command(epilog="Example: retnet-bench bundle quickstart --out quickstart.zip")
def bundle(
    study: Annotated[
        str, typer.Argument(help="A results folder, or a study whose results are in runs/<study>.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The archive; default <results folder>.zip.")
    ] = None,
) -> None:
    """Pack a study's results into one archive that `verify` can check elsewhere."""
    from retnet_bench.bundle.pack import pack, results_of
    from retnet_bench.results.numbers import size_bytes

    packed = pack(results_of(study), out)
    console = open_console()
    for what, why in packed.lacking.items():
        console.print(f"not in it: {what}: {why}", highlight=False, soft_wrap=True)
    size = size_bytes(packed.path.stat().st_size)
    console.print(
        f"packed: {packed.path}, {len(packed.manifest.files)} files, {size}, "
        f"sha256 {packed.sha256}",
        highlight=False,
        soft_wrap=True,
    )


@app.command(epilog="Example: retnet-bench verify quickstart.zip --rerun")
def verify(
    archive: Annotated[Path, typer.Argument(help="What `retnet-bench bundle` wrote.")],
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run its study here, too, and compare both runs.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --rerun: results folder; default runs/<study>-rerun.")
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Also open the files and folders it names outside of the archive, train its "
            "tokenizers and, with --rerun, run the Python functions of its tasks.",
        ),
    ] = False,
) -> None:
    """Re-check an archive's claims and figures from its records: exit code 0 nothing differs,
    1 something differs, 2 no whole archive; 70 something is broken, so no verdict."""
    from retnet_bench.bundle import verify as verifying
    from retnet_bench.bundle.archive import opened

    if out is not None and not rerun:
        raise UserError("--out is the folder of a second run; it wants --rerun")
    console = open_console()
    with opened(archive) as found:
        checks = verifying.verify(found, trust)
        console.print(verifying.table(checks))
        if rerun:
            from retnet_bench.bundle.rerun import rerun as run_again
            from retnet_bench.bundle.rerun import tables

            again = run_again(found, out, console, trust)
            for table in tables(again):
                console.print(table)
            console.print(verifying.table(again.checks, "Second run"))
            checks += again.checks
    console.print(verifying.summary(checks), highlight=False)
    raise typer.Exit(int(verifying.failed(checks)))
