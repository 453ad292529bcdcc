"""The verb of checkpoints: eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retnet_bench.cli.app import app, open_console


@app.command(
    "eval", epilog="Example: retnet-bench eval runs/checkpoints/retnet --tasks paper --shots 4"
)
def eval_(
    checkpoint: Annotated[
        Path, typer.Argument(help="A folder with safetensors: ours, torchscale, fla, GPT-2, LLaMA.")
    ],
    tasks: Annotated[
        str,
        typer.Option(
            help="lm-eval tasks, a,b,c; `paper`: Table 3's seven; `grammar`: ours, offline."
        ),
    ],
    shots: Annotated[int | None, typer.Option(min=0, help="Solved examples in front.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First documents only.")] = None,
    include: Annotated[str | None, typer.Option(help="Folder of your own task files.")] = None,
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("runs/eval"),
    tokenizer: Annotated[
        str | None, typer.Option(help="byte, bpe:<vocabulary> or a tokenizer.json.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=2, max=2**24, help="Longest input in tokens.")
    ] = None,
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
    console = open_console()
    console.print(scores_table(read_records(out)))
    console.print(f"records in {out}/records", highlight=False, soft_wrap=True)
