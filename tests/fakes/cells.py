"""Cells so small that a worker measures one in a second, and a study of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.options import options_of

from retnet_bench.kernels import Setting, best
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS
from retnet_bench.models.options import names
from retnet_bench.workloads import Cell

QUICK = Protocol(
    processes=1, blocks=2, block_s=0.01, min_samples=2, max_samples=3, warmup_max_s=0.1
)
KERNEL = {name: best(kind.kernels, Setting("cpu")).name for name, kind in MIXERS.items()}
ARM = {"retention": "retnet", "attention": "transformer"}


def cell(workload: str = "train", mixer: str = "retention", **changes: Any) -> Cell:
    """The smallest size on random ids; `changes` are the mixer's options and fields of Cell."""
    fields: dict[str, Any] = {
        "arm": ARM.get(mixer, mixer),
        "kernel": KERNEL[mixer],
        "size": "0.1M",
        "family": "paper",
        "match": "params",
        "batch": 2,
        "length": 32,
        "dtype": "fp32",
        "mode": "eager",
        "device": "cpu",
        "threads": 1,
        "corpus": "random",
        "tokenizer": "random:64",
        "vocab_size": 64,
        "seed": 0,
        "measure": ("time", "memory"),
    }
    own = names(MIXERS[mixer].Options)
    fields["options"] = options_of(mixer, **({"chunk": 16} | changes))
    fields |= {name: value for name, value in changes.items() if name not in own}
    return Cell(workload=workload, mixer=mixer, **fields)


def study(**changes: Any) -> dict[str, Any]:
    """A study as YAML would give it: a train pair and a decode pair; top keys are replaced."""
    return {
        "name": "tiny",
        "question": "does it run?",
        "arms": {
            "retnet": {"mixer": "retention", "chunk": 16},
            "transformer": {"mixer": "attention"},
        },
        "fixed": {"size": "0.1M", "corpus": "random", "tokenizer": "random:64", "threads": 1},
        "workloads": [
            {"workload": "train", "axes": {"length": [16]}},
            {"workload": "decode", "fixed": {"length": 40, "positions": 2}},
        ],
        "protocol": {
            "blocks": 2,
            "block_s": 0.01,
            "min_samples": 2,
            "max_samples": 3,
            "warmup_max_s": 0.1,
        },
    } | changes


def texts(folder: Path) -> Path:
    """A corpus of the test's own: forty short documents."""
    folder.mkdir()
    for i in range(40):
        lines = (f"{i}. The quick brown fox number {i * j} jumps over it.\n" for j in range(9 + i))
        (folder / f"{i:02d}.txt").write_text("".join(lines))
    return folder
