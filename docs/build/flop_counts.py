"""FLOPs by closed form beside FLOPs by count, for every way a model can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import KERNELS
from retnet_bench.kernels.flops import ADDED
from retnet_bench.models import MIXERS, LanguageModel, ModelConfig, cost, match
from retnet_bench.models.config import FAMILIES
from retnet_bench.models.mixers.retention import RetentionOptions

SIZE, LENGTH, CHUNK = "0.1M", 100, 32
"""Of the models that are counted: three whole chunks and a rest."""


def flops_table(length: int = LENGTH) -> pd.DataFrame:
    """Closed forms beside counts: [family, arm, kernel, pass, predicted, counted, difference,
    utilisation], in FLOPs of one sequence; a row for each pass of every kernel of plain torch."""
    rows = [
        (family, mixer, kernel, *row)
        for family in FAMILIES
        for mixer, kernel in _plain_kernels()
        for row in _passes(_config(family, mixer, kernel), length)
    ]
    columns = ["family", "arm", "kernel", "pass", "predicted", "counted", "utilisation"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(difference=frame["predicted"] / frame["counted"] - 1)


def _plain_kernels() -> Iterator[tuple[str, str]]:
    """The paper's two mixers with their kernels, but those of other packages, which torch can't see
    into, and those that no CPU has. The tests hold every other mixer against the counter, too."""
    for mixer in ("retention", "attention"):
        for name, kernel in KERNELS.items():
            plain = kernel.package is None and "cpu" in (kernel.devices or ("cpu",))
            if kernel.mixer == MIXERS[mixer].kernels and plain:
                yield mixer, name


def _config(family: str, mixer: str, kernel: str) -> ModelConfig:
    options = RetentionOptions(chunk=CHUNK) if mixer == "retention" else None
    return match(SIZE, mixer, family=family, kernel=kernel, options=options).config


def _passes(cfg: ModelConfig, length: int) -> Iterator[tuple[str, float, int, float | None]]:
    """(pass, closed form, count, share that counts for utilisation) of each way to run a model."""
    model, tokens = LanguageModel(cfg), torch.zeros(1, length, dtype=torch.long)
    state = model.new_state(1, length + 1)
    training = _count(lambda: model(tokens).sum().backward())
    executed = cost.executed_train_flops(cfg, length)
    useful = cost.train_flops_per_token(cfg, length) * length / training
    with torch.no_grad():
        forward = _count(lambda: model(tokens))
        prefill = _count(lambda: model.prefill(tokens, state))
        step = _count(lambda: model.step(tokens[:, :1], state))
    yield "forward", cost.forward_flops(cfg, length, masked=True), forward, None
    yield "training step", executed, training, useful
    yield "prefill", cost.prefill_flops(cfg, length, masked=True), prefill, None
    yield "decode step", cost.step_flops(cfg, length), step, None


def _count(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False, custom_mapping=ADDED) as counter:
        run()
    return counter.get_total_flops()
