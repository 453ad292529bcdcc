"""Token mixers: one file each, and one line each here."""

from __future__ import annotations

from retnet_bench.base import Registry
from retnet_bench.models.mixers.attention import Attention
from retnet_bench.models.mixers.base import Mixer
from retnet_bench.models.mixers.gated_conv import GatedConv
from retnet_bench.models.mixers.retention import Retention

MIXERS: Registry[type[Mixer]] = Registry("mixer")
MIXERS.add("retention", Retention)
MIXERS.add("attention", Attention)
MIXERS.add("gated_conv", GatedConv)
MIXERS.add_entry_points("retnet_bench.mixers")

__all__ = ["MIXERS", "Mixer"]
