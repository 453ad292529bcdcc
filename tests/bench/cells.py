"""Models of the bench: cells as a study would make them, prepared for a training or decode step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from retnet_bench.kernels import Setting, best
from retnet_bench.models import MIXERS, LanguageModel
from retnet_bench.workloads import WORKLOADS, Cell
from retnet_bench.workloads.base import Workload
from retnet_bench.workloads.decode import Decode
from retnet_bench.workloads.train import Train

Own = TypeVar("Own", bound=Workload)
TRAIN_LENGTH = 2048
DECODE_LENGTH = 8192


def cell(workload: str, mixer: str, size: str, family: str, batch: int, length: int) -> Cell:
    """On CPU in fp32 and eager, with the mixer's own defaults and its best kernel here."""
    return Cell(
        workload=workload,
        arm=mixer,
        mixer=mixer,
        kernel=best(MIXERS[mixer].kernels, Setting("cpu", "fp32")).name,
        size=size,
        family=family,
        match="params",
        batch=batch,
        length=length,
        dtype="fp32",
        mode="eager",
        device="cpu",
        threads=torch.get_num_threads(),
        corpus="random",
        tokenizer="random:257",
        vocab_size=257,
        seed=0,
        measure=("time",),
        options=MIXERS[mixer].Options(),
        positions=8 if workload == "decode" else None,
    )


def train(
    mixer: str, size: str, family: str, batch: int = 1, model: LanguageModel | None = None
) -> Train:
    """Prepared to train the cell's own model, or `model`."""
    workload = WORKLOADS["train"](cell("train", mixer, size, family, batch, TRAIN_LENGTH))
    assert isinstance(workload, Train)
    return _prepared(workload, model)


def decode(
    mixer: str,
    size: str,
    family: str,
    batch: int = 1,
    length: int = DECODE_LENGTH,
    model: LanguageModel | None = None,
) -> Decode:
    """Prepared to decode by the cell's own model, or by `model`."""
    workload = WORKLOADS["decode"](cell("decode", mixer, size, family, batch, length))
    assert isinstance(workload, Decode)
    return _prepared(workload, model)


def _prepared(workload: Own, model: LanguageModel | None) -> Own:
    if model is not None:
        workload.build_model = lambda dtype: model  # type: ignore[method-assign]
    workload.prepare()
    return workload


def decode_step(workload: Decode, position: int) -> Callable[[], object]:
    """Model and greedy choice, again and again at one position."""
    token = workload.tokens[:, position : position + 1]

    @torch.no_grad()
    def step() -> torch.Tensor:
        return workload.steps[position](token, position)[:, -1].argmax(-1, keepdim=True)

    return step
