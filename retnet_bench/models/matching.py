"""Matched pairs: both arms of a comparison from one size, and by how much they still differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.models import cost
from retnet_bench.models.config import ModelConfig, size
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.options import MixerOptions

REFERENCE = "attention"
"""The mixer of a size's Transformer, which every other is matched to."""
MATCHES = ("params", "train_flops")
TOLERANCE = 0.01
"""A pair whose matched quantity differs by more than this is refused."""


@dataclass(frozen=True)
class Matched:
    """A config sized to equal the reference Transformer, and its residual relative difference."""

    config: ModelConfig
    mismatch: float


def reference(size_name: str, family: str, vocab_size: int) -> ModelConfig:
    """The Transformer of a size: 12 d^2 parameters a layer. The feed-forward has 4 d (paper) or
    8/3 d rounded to a multiple of 8 (modern)."""
    shape, transformer = size(size_name), MIXERS[REFERENCE]
    options = transformer.Options()
    d_ffn = 4 * shape.d_model if family == "paper" else round(shape.d_model / 3) * 8
    return ModelConfig(
        mixer=REFERENCE,
        family=family,
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        d_ffn=d_ffn,
        vocab_size=vocab_size,
        kernel=transformer.reference,
        options=options,
        **transformer.defaults(shape, family, options),
    )


def match(
    size_name: str,
    mixer: str,
    *,
    family: str = "paper",
    vocab_size: int = 257,
    by: str = "params",
    length: int = 2048,
    options: MixerOptions | None = None,
    **fields: Any,
) -> Matched:
    """The model of `mixer` whose parameters (or training FLOPs per token at `length`) equal the
    reference Transformer's, by the width of its feed-forward.

    `options` are the mixer's own (None: nothing is said), `fields` others of ModelConfig. Raises
    UserError for unknown names and for a residual over 1 %.
    """
    if by not in MATCHES:
        raise UserError(f'match "{quoted(by)}" is unknown{did_you_mean(by, MATCHES)}')
    base = reference(size_name, family, vocab_size)
    kind = MIXERS[mixer]
    options = options or kind.Options()
    shape = kind.defaults(size(size_name), family, options)
    config = replace(base, mixer=mixer, options=options, **{**shape, **fields})
    matched = _solve_ffn(config, _quantity(by, length), _quantity(by, length)(base))
    if abs(matched.mismatch) > TOLERANCE:
        raise UserError(
            f"{mixer} at size {size_name} can't be matched by {by}: {matched.mismatch:+.1%} remains"
            f" at d_ffn {matched.config.d_ffn}; the limit is {TOLERANCE:.0%}"
        )
    return matched


def _quantity(by: str, length: int) -> Callable[[ModelConfig], float]:
    if by == "params":
        return lambda cfg: float(cost.body_parameters(cfg))
    return lambda cfg: cost.train_flops_per_token(cfg, length)


def _solve_ffn(cfg: ModelConfig, quantity: Callable, target: float) -> Matched:
    """`cfg` itself where it meets the target, else the coarsest multiple of 64, 32, ... 1 for d_ffn
    that meets it to 0.5 %, else the closest: odd widths are slow, and a slow arm is a bug.
    Every quantity is affine in d_ffn."""
    if quantity(cfg) == target:
        return Matched(cfg, 0.0)
    at_1, at_2 = (quantity(replace(cfg, d_ffn=width)) for width in (1, 2))
    exact = 1 + (target - at_1) / (at_2 - at_1)
    best = None
    for multiple in (64, 32, 16, 8, 4, 2, 1):
        width = max(multiple, round(exact / multiple) * multiple)
        candidate = replace(cfg, d_ffn=width)
        found = Matched(candidate, quantity(candidate) / target - 1)
        if abs(found.mismatch) <= 5e-3:
            return found
        if best is None or abs(found.mismatch) < abs(best.mismatch):
            best = found
    assert best is not None
    return best
