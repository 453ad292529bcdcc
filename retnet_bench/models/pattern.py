"""The mixers of a model's layers as a study says them: one for all, or a pattern that repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retnet_bench.base import UserError, quoted
from retnet_bench.kernels import Setting, best
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.options import MixerOptions, read

HYBRID = "hybrid"
"""Stands for the mixer of an arm whose layers have a pattern; no row of MIXERS."""
AUTO = "auto"
"""In place of a kernel or chunk: the fastest of those that were timed where it runs."""
OPEN = ("kernel", "chunk")
"""What may be left open so."""


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """One entry of a pattern."""

    mixer: str
    kernel: str
    options: MixerOptions
    """The mixer's own, as they are said."""
    open: tuple[str, ...] = ()
    """Of OPEN, what is chosen by measurement; kernel and options hold what stands in for it."""

    def flat(self) -> dict[str, Any]:
        """As JSON has it: the options stand among the other fields, and AUTO for what is open."""
        values = {"mixer": self.mixer, "kernel": self.kernel, **self.options.given()}
        return values | dict.fromkeys(self.open, AUTO)

    @classmethod
    def read(cls, raw: object) -> LayerChoice:
        """What `flat` made. UserError for a field or value that it does not take."""
        if not isinstance(raw, Mapping) or not {"mixer", "kernel"} <= raw.keys():
            raise UserError(f"layers: an entry has mixer and kernel, not {quoted(repr(raw))}")
        mixer, left = str(raw["mixer"]), opened(raw)
        own = {name: raw[name] for name in raw if name not in ("mixer", "kernel", *left)}
        options = read(MIXERS[mixer].Options, own)
        kernel = raw["kernel"]
        if "kernel" in left:
            kernel = best(MIXERS[mixer].kernels, Setting()).name
        return cls(mixer=mixer, kernel=str(kernel), options=options, open=left)


def opened(given: Mapping[Any, Any]) -> tuple[str, ...]:
    """What is left open in a mapping of settings."""
    return tuple(name for name in OPEN if given.get(name) == AUTO)


def options_of(mixer: str) -> type[MixerOptions]:
    """The class of a mixer's options. UserError for an unknown mixer."""
    return MixerOptions if mixer == HYBRID else MIXERS[mixer].Options
