"""The mixers of a model's layers as a study says them: one for all, or a pattern that repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retnet_bench.base import UserError, quoted
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.options import MixerOptions, read

HYBRID = "hybrid"
"""Stands for the mixer of an arm whose layers have a pattern; no row of MIXERS."""


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """One entry of a pattern."""

    mixer: str
    kernel: str
    options: MixerOptions
    """The mixer's own, as they are said."""

    def flat(self) -> dict[str, Any]:
        """As JSON has it: the options stand among the other fields."""
        return {"mixer": self.mixer, "kernel": self.kernel, **self.options.given()}

    @classmethod
    def read(cls, raw: object) -> LayerChoice:
        """What `flat` made. UserError for a field or value that it does not take."""
        if not isinstance(raw, Mapping) or not {"mixer", "kernel"} <= raw.keys():
            raise UserError(f"layers: an entry has mixer and kernel, not {quoted(repr(raw))}")
        own = {name: value for name, value in raw.items() if name not in ("mixer", "kernel")}
        mixer = str(raw["mixer"])
        options = read(MIXERS[mixer].Options, own)
        return cls(mixer=mixer, kernel=str(raw["kernel"]), options=options)


def options_of(mixer: str) -> type[MixerOptions]:
    """The class of a mixer's options. UserError for an unknown mixer."""
    return MixerOptions if mixer == HYBRID else MIXERS[mixer].Options
