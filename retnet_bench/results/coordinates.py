"""Which value of a metric a row holds: columns of one meaning each.

Schema versions 1 and 2 had two columns, `phase` and `position`, that meant something else for each
metric; what they meant stands here and nowhere else.
"""

from __future__ import annotations

import re
from functools import cache

COORDINATES = (
    *("task", "shots", "filter", "score"),
    *("phase", "check", "candidate", "context"),
    *("position", "context_length", "tokens_seen", "step", "pairs"),
    "document",
)
"""Columns by which values of one metric, cell and block differ."""
POSITIONS = {
    "decode_step_s": "position",
    "state_bytes": "position",
    "position_nll_nat": "position",
    "position_tokens": "position",
    "context_nll_nat": "context_length",
    "context_tokens": "context_length",
    "train_loss_nat": "tokens_seen",
    "loss_after_steps_nat": "step",
}
"""What `position` was for a metric, up to version 2."""
_SCORED = re.compile(r"(document|context|position)_(nll_nat|tokens|words|bytes)")
_SHOTS = re.compile(r"(\d{1,15})-shot(?: (.+))?", re.DOTALL)


def split(metric: str, phase: str | None, position: int | None) -> dict[str, str | int]:
    """The coordinates that stood in `phase` and `position` of a row of version 1 or 2."""
    found = dict(phases(metric, phase))
    if position is not None:
        found[POSITIONS.get(metric, "position")] = position
    return found


@cache
def phases(metric: str, phase: str | None) -> tuple[tuple[str, str | int], ...]:
    """The coordinates that stood in `phase`."""
    if phase is None:
        return ()
    if metric == "forms_relative_error":
        return ("phase", "check"), ("check", phase)
    if _SCORED.fullmatch(metric):
        return ("phase", "score"), ("context", phase)
    if shots := _SHOTS.fullmatch(phase):
        return ("phase", "score"), ("shots", int(shots[1])), *_names(metric, shots[2] or "")
    return (("phase", phase),)


def _names(metric: str, words: str) -> tuple[tuple[str, str], ...]:
    """lm-eval's filter, and its own name of a metric that has none here."""
    filter_name, _, last = words.rpartition(" ")
    if metric != "other_score":
        filter_name, last = words, ""
    named = {"filter": filter_name, "score": last}
    return tuple((name, value) for name, value in named.items() if value)
