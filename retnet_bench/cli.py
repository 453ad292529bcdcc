"""The verbs: parse, call, print. Everything else lives in the rooms, imported when it is used."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retnet_bench import __version__, interrupts
from retnet_bench.base import UserError, quoted
from retnet_bench.streams import BROKEN, Output, complain

if TYPE_CHECKING:
    from rich.console import Console

    from retnet_bench.analysis.verdicts.judging import Finding

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
Results = Annotated[
    list[Path], typer.Argument(help="Results folders or parquet files; several are read as one.")
]


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
    from retnet_bench.terminal import console

    return console()


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
) -> None:
    """Run a study; what is already in the folder is kept, and only the rest is run."""
    from retnet_bench.figures import FIGURES
    from retnet_bench.run import session as running
    from retnet_bench.study import study as studies

    loaded, source = studies.load(study)
    with source.named():
        for name in loaded.figures:
            FIGURES[name]  # an unknown one is told before anything runs
    console = _console()
    summary = running.run(
        loaded,
        source,
        out or running.default_folder(loaded),
        console,
        fresh=fresh,
        retry=retry,
        skip_oom=skip_oom,
        tensorboard=tensorboard,
    )
    _show([summary.folder], console)
    if plot:
        _plot([summary.folder], loaded.figures, None, console)
    words = (
        f"{summary.cells} cells, {summary.failed} without a measurement" if summary.failed else ""
    )
    console.print(words or f"{summary.cells} cells", "in", f"{summary.folder}/records")


@app.command(epilog="Example: retnet-bench reproduce fig6b, or: retnet-bench reproduce all")
def reproduce(
    what: Annotated[
        list[str],
        typer.Argument(
            help="table1, table3, table4, table6, table8, fig5, fig6a, fig6b, fig6c, headlines, all"
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

    names, console, done = paper.names(what), _console(), []
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
        _plot([target.folder], study.figures, None, console)
    for part in card.parts(done, _findings(done), out):
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
    from retnet_bench.catalogue import plan_table

    console = _console()
    for part in plan_table(study, on, price, records):
        console.print(part, highlight=False)


@app.command(epilog="Example: retnet-bench show runs/quickstart")
def show(results: Results) -> None:
    """Show what was measured, as tables."""
    _show(results, _console())


def _show(results: list[Path], console: Console) -> None:
    from retnet_bench.analysis.tables.curves import contract_text
    from retnet_bench.analysis.tables.floor import read_all_floors
    from retnet_bench.report.claims import claims_table
    from retnet_bench.report.tables import tables
    from retnet_bench.results.store import read_all

    records, findings = read_all(results), _findings(results)  # all that may be refused, first
    for table in tables(records, read_all_floors(results, set(records["fingerprint"]))):
        console.print(table)
    if findings:
        console.print(claims_table(findings))
    console.print(contract_text(records), highlight=False)


def _findings(results: list[Path]) -> list[Finding]:
    """What each study's own records say to its claims."""
    from retnet_bench.analysis.verdicts import claims, judging
    from retnet_bench.results.store import read_records

    stated = {folder: claims.beside(folder) for folder in results}
    return [
        finding
        for folder, said in stated.items()
        if said
        for finding in judging.evaluate(read_records(folder), said)
    ]


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


def _plot(results: list[Path], names: list[str] | None, out: Path | None, console: Console) -> None:
    from retnet_bench.figures import FIGURES, plot
    from retnet_bench.files import NotWritten
    from retnet_bench.report.claims import notes
    from retnet_bench.results.store import read_all

    if len(results) > 1 and out is None:
        raise UserError("--out is missing: figures of several results need a folder of their own")
    records = read_all(results)
    told = notes(_findings(results))
    first = results[0]
    folder = out or (first if first.is_dir() else first.parent) / "figures"
    left_out = []
    for name in names or FIGURES:
        try:
            for path in plot(records, [name], folder, notes=told):
                console.print(f"drawn: {path}", highlight=False, soft_wrap=True)
        except NotWritten:
            raise
        except UserError:
            if names:
                raise
            left_out.append(name)
    if left_out:
        why = "these records lack what they need; --figure NAME says what that is"
        console.print(f"not drawn: {', '.join(left_out)}: {why}", highlight=False, soft_wrap=True)


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
    console = _console()
    summary = running.selftest(loaded, source, folder, console, fresh=fresh)
    console.print(floors_table(folder))
    console.print(f"{summary.cells} cells, {summary.failed} failed, in {summary.folder}/records")


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
    budget: Annotated[float, typer.Option(help="With --against: seconds for all cells.")] = 120.0,
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
    policy, console = Policy(limit=limit, exact_only=exact), _console()
    if against is not None:
        from retnet_bench.run.against import measured

        with measured(candidate, against, policy, budget, dirty, console) as duel:
            report = gate.check(duel.candidate, duel.baseline, policy, duel.selftest_of)
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
    console = _console()
    console.print(history_table(lines))
    console.print(summary(runs, lines), highlight=False)
    if out is not None:
        from retnet_bench.figures.history import draw_history

        for path in draw_history(runs, lines, out):
            console.print(f"drawn: {path}", highlight=False, soft_wrap=True)


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
    console = _console()
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
    console = _console()
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


@app.command("list", epilog="Example: retnet-bench list kernels")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            help="studies, models, sizes, kernels, workloads, figures, corpora or devices."
        ),
    ] = None,
) -> None:
    """List what there is to choose from; for kernels also why one can't be had here."""
    from retnet_bench.catalogue import listing

    for part in listing(what):
        _console().print(part)


@app.command(
    "eval", epilog="Example: retnet-bench eval runs/checkpoints/retnet --tasks paper --shots 4"
)
def eval_(
    checkpoint: Annotated[
        Path, typer.Argument(help="A folder with safetensors: ours, torchscale, fla, GPT-2, LLaMA.")
    ],
    tasks: Annotated[str, typer.Option(help="lm-eval tasks, a,b,c; `paper`: Table 3's seven.")],
    shots: Annotated[int | None, typer.Option(min=0, help="Solved examples in front.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First documents only.")] = None,
    include: Annotated[str | None, typer.Option(help="Folder of your own task files.")] = None,
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("runs/eval"),
    tokenizer: Annotated[
        str | None, typer.Option(help="byte, bpe:<vocabulary> or a tokenizer.json.")
    ] = None,
    length: Annotated[int | None, typer.Option(min=2, help="Longest input in tokens.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp64, fp32, bf16, fp16.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "auto",
    arm: Annotated[str | None, typer.Option(help="Its name in the records.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of examples.")] = 0,
) -> None:
    """Score a checkpoint on lm-eval's tasks; records like any study's."""
    from retnet_bench.report.downstream import scores_table
    from retnet_bench.results.store import read_records
    from retnet_bench.run.evaluate import Options, evaluate

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    options = Options(shots, limit, include, tokenizer, length, dtype, device, arm, seed)
    evaluate(checkpoint, names, out, options)
    console = _console()
    console.print(scores_table(read_records(out)))
    console.print(f"records in {out}/records", highlight=False, soft_wrap=True)


data = typer.Typer(
    help="Corpora: what there is, getting the texts of one, and what is in one.",
    no_args_is_help=True,
    epilog="Example: retnet-bench data get bundle",
)
app.add_typer(data, name="data")


@data.command("list", epilog="Example: retnet-bench data list")
def data_list() -> None:
    """List the corpora, and which are on this machine."""
    list_("corpora")


@data.command("get", epilog="Example: retnet-bench data get bundle")
def data_get(
    name: Annotated[str, typer.Argument(help="A corpus that `data list` says can be got.")],
) -> None:
    """Download a corpus's texts to the cache folder; nothing is installed."""
    from retnet_bench.catalogue import getting

    console = _console()
    for line in getting(name):
        console.print(line, highlight=False, soft_wrap=True)
    data_show(name)


@data.command("show", epilog="Example: retnet-bench data show sotu")
def data_show(
    corpus: Annotated[
        str,
        typer.Argument(
            help="A corpus's name, a path (path#column), or hf:owner/name:config:column."
        ),
    ],
) -> None:
    """Show a corpus's documents, bytes and words by split, its licence and checksum."""
    from retnet_bench.catalogue import corpus_table

    table, lines = corpus_table(corpus)
    console = _console()
    console.print(table)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


@app.command(epilog="Example: retnet-bench env")
def env(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure its rates and keep them for plans.")
    ] = False,
) -> None:
    """Show what this machine can and can't measure, and why."""
    from retnet_bench.catalogue import machine, measured_rates

    for part in [*machine(), *(measured_rates() if measure else ())]:
        _console().print(part, highlight=False)


def _refuse_bytes(arguments: list[str]) -> None:
    """UserError for an argument that is no text: libraries can't open such a path."""
    for word in arguments:
        if not word.isascii() and any("\ud800" <= char <= "\udfff" for char in word):
            raise UserError(f"{quoted(word)} is not UTF-8: names and paths must be text")


def main() -> None:
    """Entry point. A user's mistake is one line and exit code 2, a signal that ends the command one
    line and 128 + its number (Ctrl-C: 130), whatever is broken 70, and an output that nobody reads
    any more 141; the other codes are the verbs' own."""
    output = Output()
    sys.exit(output.exit_code(_exit_code()))


def _exit_code() -> int:
    debug = "--debug" in sys.argv
    interrupts.handle()
    try:
        with interrupts.heard(sys.argv[1:]):
            _refuse_bytes(sys.argv[1:])
            app()
        return 0
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except Exception as error:
        mistake = isinstance(error, UserError)
        if debug:
            traceback.print_exc()
        elif mistake:
            complain(error)
        else:
            complain(f"unexpected {type(error).__name__}: {error} (--debug shows where)")
        return 2 if mistake else BROKEN


if __name__ == "__main__":
    main()
