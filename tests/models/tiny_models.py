"""Small models for the tests of this room."""

from __future__ import annotations

from typing import Any

import torch

from retnet_bench.models import MIXERS, LanguageModel, ModelConfig

ARMS = [(mixer, family) for mixer in MIXERS for family in ("paper", "modern")]


def tiny(mixer: str, family: str = "paper", **changes: Any) -> ModelConfig:
    """Two layers, two heads, chunks of 8; retention's values are twice its keys."""
    fields: dict[str, Any] = {
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 2,
        "d_key": 16,
        "d_value": 32 if mixer == "retention" else 16,
        "d_ffn": 24,
        "vocab_size": 31,
        "kernel": "chunkwise" if mixer == "retention" else MIXERS[mixer].reference,
        "chunk": 8,
    }
    return ModelConfig(mixer=mixer, family=family, **{**fields, **changes})


def build(cfg: ModelConfig, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(cfg)


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
