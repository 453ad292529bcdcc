"""Token mixers: one file each, and one line each here."""

from __future__ import annotations

from importlib import import_module

from retnet_bench.base import Registry
from retnet_bench.models.mixers.base import Mixer

FILES = {
    "retention": "retention.Retention",
    "attention": "attention.Attention",
    "gated_retention": "gated_retention.GatedRetention",
    "mamba2": "mamba2.Mamba2",
    "deltanet": "deltanet.DeltaNet",
    "gated_deltanet": "gated_deltanet.GatedDeltaNet",
    "kda": "kda.KDA",
    "gla": "gla.GLA",
    "linear_attention": "linear_attention.LinearAttention",
    "rwkv4": "rwkv4.RWKV4",
    "h3": "h3.H3",
    "hyena": "hyena.Hyena",
    "gated_conv": "gated_conv.GatedConv",
}
"""Each mixer's file in this folder, and its class there; lists have this order."""


def _load(place: str) -> type[Mixer]:
    file, _, name = place.partition(".")
    return getattr(import_module(f"{__name__}.{file}"), name)


MIXERS: Registry[type[Mixer]] = Registry("mixer")
for _mixer, _place in FILES.items():
    MIXERS.add(_mixer, _load(_place))
MIXERS.add_entry_points("retnet_bench.mixers")

__all__ = ["MIXERS", "Mixer"]
