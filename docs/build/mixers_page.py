"""docs/mixers.md, written from the mixers: `python docs/build/mixers_page.py > docs/mixers.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from retnet_bench.fields import spelled, takes
from retnet_bench.kernels import KERNELS, Setting, best
from retnet_bench.kernels.registry import Kernel
from retnet_bench.models import MIXERS, SIZES, cost, match
from retnet_bench.models.mixers import Mixer
from retnet_bench.models.options import schemas
from retnet_bench.results.markdown import markdown_table

SIZE, LENGTH = "200M", 2048

HEAD = f"""\
<!-- Written by `python docs/build/mixers_page.py > docs/mixers.md`; do not edit. -->
# Token mixers

Each of these is an arm (`myarm: {{mixer: <name>, <option>: <value>}}`), or an entry of a pattern of
layers (`myhybrid: {{layers: [gated_deltanet, gated_deltanet, gated_deltanet, attention]}}`, which
repeats over the depth). RWKV-7 is not among them: its state changes by a diagonal plus a product of
two vectors of which neither is the key, which the delta rule's kernels do not compute.

Before any of them is timed, all its forms are held against each other, on
weights that were moved from their start and on adversarial ones, in fp64 to 1e-10. An arm may say
`kernel: <name>`, or `kernel: auto` and, where there are chunks, `chunk: auto`: the fastest of those
that were timed where it runs.

The table is of size {SIZE} (d = {SIZES[SIZE].d_model:,}, {SIZES[SIZE].n_layers} layers), family
paper, matched by parameters. Mixing: forward FLOPs of the token mixing of one layer and token over
{LENGTH:,} tokens, without masked scores and without projections. State: of one layer and sequence
after {LENGTH:,} tokens, in fp32.
"""


COLUMNS = "mixer|mixer parameters|feed-forward|mixing FLOPs|state|grows with the length"


def write_documentation() -> str:
    """The page."""
    return "\n".join(part.rstrip("\n") + "\n" for part in page())


def page() -> Iterator[str]:
    yield HEAD
    yield _table(COLUMNS, [_costs(name, kind) for name, kind in MIXERS.items()])
    for name, kind in MIXERS.items():
        yield f"## {name}\n"
        yield from _entry(kind)


def _table(columns: str, rows: list[tuple[str, ...]]) -> str:
    return markdown_table(columns.split("|"), rows)


def _costs(name: str, kind: type[Mixer]) -> tuple[str, ...]:
    cfg = match(SIZE, name, kernel=best(kind.kernels, Setting()).name).config
    own = kind.matrix_parameters(cfg) + kind.other_parameters(cfg)
    mixing = kind.mixing_flops(cfg, LENGTH, masked=False) + kind.uncounted_flops(cfg, LENGTH)
    state = cost.state_bytes(cfg, 1, LENGTH, 4) / cfg.n_layers
    return (
        f"`{name}`",
        f"{own / cfg.d_model**2:.3f} d²",
        f"{cfg.d_ffn:,}",
        f"{mixing / LENGTH / cfg.d_model**2:.2f} d²",
        f"{state / 1e6:,.3f} MB",
        "yes" if kind.state_grows else "no",
    )


def _entry(kind: type[Mixer]) -> Iterator[str]:
    module = inspect.getdoc(sys.modules[kind.__module__]) or ""
    yield f"{module}\n"
    yield f"{inspect.getdoc(kind)}\n"
    options = schemas(kind.Options).items()
    if options:
        rows = [
            (f"`{option}`", takes(said), spelled(said["default"]), said["description"])
            for option, said in options
        ]
        yield _table("option|values|default|meaning", rows)
    rows = [
        (f"`{k.name}`", k.form, _needs(k), k.meaning)
        for _, k in KERNELS.items()
        if k.mixer == kind.kernels
    ]
    yield _table("kernel|form|needs|meaning", rows)


def _needs(kernel: Kernel) -> str:
    return ", ".join(filter(None, (kernel.distribution, *kernel.devices)))


if __name__ == "__main__":
    sys.stdout.write(write_documentation())
