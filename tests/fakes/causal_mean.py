"""A third mixer, for the laws that every mixer must meet: the mean of the values so far.

It has one option, two kernels of its own and nothing that the others have: no heads, no positions,
no queries. `registered` puts it beside the others; `package` offers it to a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn as nn
from fakes.mean_kernels import KERNEL_NAMES, MATRIX, NAME, SUMS
from pydantic import Field
from torch import Tensor

from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.mixers.base import Context, Mixer
from retnet_bench.models.options import MixerOptions


@dataclass(frozen=True, kw_only=True)
class MeanOptions(MixerOptions):
    """Of the mean."""

    expand: Annotated[Count, Field(le=8, description="width of the values over the model's")] = 1


class CausalMean(Mixer):
    """The mean of all values so far."""

    kernels = NAME
    reference = SUMS.name
    Options = MeanOptions
    state_grows = False
    state_passes = 2
    rotates = False

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.value = nn.Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.out = nn.Linear(cfg.d_value, cfg.d_model, bias=cfg.bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.out(self.kernel.run(self.value(x), self.new_state(len(x), 0, x), 0)[0])

    def new_state(self, batch: int, capacity: int, like: Tensor) -> Tensor:
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.zeros(batch, 1, self.cfg.d_value, dtype=dtype, device=like.device)

    def prefill(self, x: Tensor, context: Context, state: Tensor, start: int) -> Tensor:
        y, after = self.kernel.run(self.value(x), state, start)
        state.copy_(after)
        return self.out(y)

    def step(self, x: Tensor, context: Context, state: Tensor, position: int | Tensor) -> Tensor:
        return self.out(self.kernel.step(self.value(x), state, position))

    @staticmethod
    def defaults(size: Size, family: str, options: MeanOptions) -> dict[str, Any]:
        return {"n_heads": 1, "d_key": 2, "d_value": options.expand * size.d_model}

    @staticmethod
    def widths(cfg: ModelConfig) -> dict[str, int]:
        return {"value": cfg.d_value}

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        return 2 * cfg.d_model * cfg.d_value

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return cfg.d_value + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        if KERNELS[cfg.kernel].form == "sums":
            return 0.0
        return float(cfg.d_value * length * (2 * length if masked else length + 1))

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """The triangle of ones has no gradient."""
        return CausalMean.mixing_flops(cfg, length, masked=True)

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        return 0.0

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        return batch * cfg.d_value * max(4, element_bytes)


@contextmanager
def registered() -> Iterator[None]:
    """The mixer and its kernels beside those that come with the package."""
    from retnet_bench.models import MIXERS  # which loads this module where it is an entry point

    MIXERS.add(NAME, CausalMean)
    for kernel in (SUMS, MATRIX):
        KERNELS.add(kernel.name, kernel)
    try:
        yield
    finally:
        del MIXERS._items[NAME]
        for name in KERNEL_NAMES:
            del KERNELS._items[name]


def package(folder: Path) -> None:
    """What pip leaves of a package that offers the mixer and its kernels."""
    info = folder / "mean-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[retnet_bench.kernels]\n"
        "mean_sums = fakes.mean_kernels:SUMS\nmean_matrix = fakes.mean_kernels:MATRIX\n"
        "[retnet_bench.mixers]\nmean = fakes.causal_mean:CausalMean\n"
    )
