"""A mixer's options, for tests that say the same of every mixer."""

from __future__ import annotations

from typing import Any

from retnet_bench.models import MIXERS
from retnet_bench.models.options import MixerOptions, names


def options_of(mixer: str, **said: Any) -> MixerOptions:
    """Those of `said` that the mixer has."""
    kind = MIXERS[mixer].Options
    return kind(**{name: said[name] for name in names(kind) if name in said})
