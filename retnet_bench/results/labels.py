"""Short names of cells that tell each cell from the others beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any


def differences(cells: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """For each of `cells`, pairs of a name and the cell's canonical JSON, the settings in which it
    differs from those of the same name, as `seed 1, learning_rate 0.002`; empty where its name is
    its own. A cell may stand under several names."""
    by_name: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for name, text in cells:
        by_name[name][text] = json.loads(text)
    varied = {name: _varied(alike) for name, alike in by_name.items()}
    return {
        (name, text): ", ".join(f"{key} {own.get(key, '-')}" for key in varied[name])
        for name, alike in by_name.items()
        for text, own in alike.items()
    }


def _varied(settings: Mapping[str, dict[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all."""
    every = list(settings.values())
    keys = sorted({key for own in every for key in own})
    return [key for key in keys if any(own.get(key) != every[0].get(key) for own in every)]
