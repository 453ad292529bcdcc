"""Small models for the tests of this room."""

from __future__ import annotations

from typing import Any

import torch
from fakes import causal_mean
from fakes.options import options_of

from retnet_bench.kernels import KERNELS, Setting
from retnet_bench.models import MIXERS, LanguageModel, ModelConfig
from retnet_bench.models.config import Size
from retnet_bench.models.layers import Rotary
from retnet_bench.models.options import names

EVERY = (*MIXERS, causal_mean.NAME)
"""The mixers that come with the package, and one that this room registers for its tests."""
ARMS = [(mixer, family) for mixer in EVERY for family in ("paper", "modern")]


SIZE = Size(16, 2, 8, 8)


def tiny(mixer: str, family: str = "paper", size: Size = SIZE, **changes: Any) -> ModelConfig:
    """The mixer at a size (two layers of two heads), with chunks of 8 where it has chunks.
    `changes`: its options and other fields of the config."""
    kind = MIXERS[mixer]
    own = names(kind.Options)
    options = options_of(mixer, **({"chunk": 8, "max_length": 4096} | changes))
    fields: dict[str, Any] = {
        "d_model": size.d_model,
        "n_layers": size.n_layers,
        "d_ffn": 24,
        "vocab_size": 31,
        "kernel": kernel_of(mixer),
        **kind.defaults(size, family, kind.Options()),
        **{name: value for name, value in changes.items() if name not in own},
    }
    return ModelConfig(mixer=mixer, family=family, options=options, **fields)


def kernel_of(mixer: str) -> str:
    """A fast one that needs no package, else the one that the others are held against."""
    fast = (name for name in kernels_of(mixer) if KERNELS[name].form in ("chunkwise", "fft"))
    return next(fast, MIXERS[mixer].reference)


def kernels_of(mixer: str) -> list[str]:
    """All of its family that this machine's processor runs."""
    if mixer == causal_mean.NAME:  # registered with the room's tests, not when they are collected
        return [*causal_mean.KERNEL_NAMES]
    family = MIXERS[mixer].kernels
    able = {name: k for name, k in KERNELS.items() if k.why_not(Setting("cpu")) is None}
    return [name for name, k in able.items() if k.mixer == family and k.package is None]


def build(cfg: ModelConfig, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(cfg)


def moved(cfg: ModelConfig, seed: int = 0) -> LanguageModel:
    """A model away from its start, where some mixers put out exactly zero."""
    model = build(cfg, seed)
    for block in model.blocks:
        block.mixer.move()
    return model


def rotary(model: LanguageModel) -> Rotary:
    """The one of its only key dimension."""
    (found,) = model.rotaries.values()
    assert isinstance(found, Rotary)
    return found


def on_meta(cfg: ModelConfig) -> LanguageModel:
    """Shapes without memory: any size."""
    with torch.device("meta"):
        return LanguageModel(cfg)


def tokens(cfg: ModelConfig, batch: int, length: int, seed: int = 1) -> torch.Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randint(cfg.vocab_size, (batch, length), generator=make)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """max |a - b| / max |b|; NaN anywhere gives NaN, which no limit passes."""
    assert a.shape == b.shape
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
