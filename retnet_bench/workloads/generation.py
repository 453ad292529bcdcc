"""What a task says of the text it wants: how much at most, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retnet_bench.base import UserError, did_you_mean, quoted

MOST_NEW_TOKENS = 256
"""Where a task does not say, as in lm-eval."""
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the most tokens that are written; the first that is said counts."""
HARMLESS = {
    *("until", "do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p"),
    *("seed", "use_cache", "early_stopping", "length_penalty"),
}
"""Settings that are met elsewhere, or say nothing of greedy text."""
GREEDY = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1}
"""Settings that greedy text meets with one value only."""


@dataclass(frozen=True)
class Writing:
    """At most `most` tokens of greedy text, up to the first of `stops`."""

    most: int
    stops: tuple[str, ...]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Writing:
        """A task's `generation_kwargs`. UserError for those that greedy text does not meet."""
        if _is_sampled(options):
            raise UserError(
                "the task wants sampled text (do_sample or a temperature); only greedy text is "
                "written here"
            )
        for name, value in options.items():
            _refuse_unmet(name, value)
        return cls(_most(options), _stops(options.get("until")))

    def is_done(self, n_tokens: int, text: str) -> bool:
        """Whether nothing need be written after `n_tokens` tokens that are `text`."""
        return n_tokens >= self.most or any(stop in text for stop in self.stops)

    def cut(self, text: str) -> str:
        """The text before the first stop word."""
        for stop in self.stops:
            text = text.split(stop)[0]
        return text


def _is_sampled(options: Mapping[str, Any]) -> bool:
    asked, temperature = options.get("do_sample"), options.get("temperature")
    if asked is None:  # lm-eval: then the temperature decides
        asked = temperature is not None
    return bool(asked) and temperature not in (0, "0", "0.0")


def _refuse_unmet(name: str, value: object) -> None:
    if name in HARMLESS or name in LIMITS or value is None or value == GREEDY.get(name):
        return
    if name == "max_length":
        raise UserError("the task's max_length counts its context too; say max_gen_toks")
    raise UserError(
        f"the task's generation_kwargs say {quoted(name)}: {quoted(value)}, which greedy text does "
        f"not heed{did_you_mean(name, (*LIMITS, 'until'))}"
    )


def _most(options: Mapping[str, Any]) -> int:
    limits = [(name, options[name]) for name in LIMITS if options.get(name) is not None]
    name, value = limits[0] if limits else (LIMITS[0], MOST_NEW_TOKENS)
    try:
        most = 0 if isinstance(value, bool) else int(value)
    except (TypeError, ValueError, OverflowError):
        most = 0
    if most < 1:
        raise UserError(f"the task's {name} is {quoted(value)}; it wants a count of tokens")
    return most


def _stops(until: object) -> tuple[str, ...]:
    """Stop words; an empty one would stop before the first token."""
    listed = until if isinstance(until, list | tuple) else [until]
    stops = [stop for stop in listed if stop is not None and stop != ""]
    for stop in stops:
        if not isinstance(stop, str):
            raise UserError(f"the task's until holds {quoted(stop)}, which is no text; quote it")
    return tuple(str(stop) for stop in stops)
