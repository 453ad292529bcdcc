"""Token mixers: one file each, and one line each here."""

from __future__ import annotations

from retnet_bench.base import Registry
from retnet_bench.models.mixers.attention import Attention
from retnet_bench.models.mixers.base import Mixer
from retnet_bench.models.mixers.deltanet import DeltaNet, GatedDeltaNet
from retnet_bench.models.mixers.gated_conv import GatedConv
from retnet_bench.models.mixers.gated_retention import GatedRetention
from retnet_bench.models.mixers.gla import GLA
from retnet_bench.models.mixers.h3 import H3
from retnet_bench.models.mixers.hyena import Hyena
from retnet_bench.models.mixers.linear_attention import LinearAttention
from retnet_bench.models.mixers.mamba2 import Mamba2
from retnet_bench.models.mixers.retention import Retention
from retnet_bench.models.mixers.rwkv4 import RWKV4

MIXERS: Registry[type[Mixer]] = Registry("mixer")
MIXERS.add("retention", Retention)
MIXERS.add("attention", Attention)
MIXERS.add("gated_retention", GatedRetention)
MIXERS.add("mamba2", Mamba2)
MIXERS.add("deltanet", DeltaNet)
MIXERS.add("gated_deltanet", GatedDeltaNet)
MIXERS.add("gla", GLA)
MIXERS.add("linear_attention", LinearAttention)
MIXERS.add("rwkv4", RWKV4)
MIXERS.add("h3", H3)
MIXERS.add("hyena", Hyena)
MIXERS.add("gated_conv", GatedConv)
MIXERS.add_entry_points("retnet_bench.mixers")

__all__ = ["MIXERS", "Mixer"]
