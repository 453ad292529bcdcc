"""Matched pairs: both arms of a comparison from one size, and by how much they still differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from retnet_bench.base import UserError, did_you_mean, located, quoted
from retnet_bench.models import cost
from retnet_bench.models import options as mixer_options
from retnet_bench.models.config import OF_LAYER, LayerConfig, ModelConfig, size
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.options import MixerOptions
from retnet_bench.models.pattern import LayerChoice

REFERENCE = "attention"
"""The mixer of a size's Transformer, which every other is matched to."""
MATCHES = ("params", "train_flops", "state")
TOLERANCE = 0.01
"""A pair whose matched quantity differs by more than this is refused."""
STATE_REFERENCE = "retention"
"""The mixer whose state, at its size's own heads, others have with `match: state`."""
STATE_TOLERANCE = 0.1
"""The same for bytes of state, which heads and windows change in steps, and to which a short
convolution adds its last inputs."""


@dataclass(frozen=True)
class Matched:
    """A config sized to equal the reference Transformer, and its residual relative difference."""

    config: ModelConfig
    mismatch: float
    """nan: nothing was to be equal."""


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
    element_bytes: int = 4,
    options: MixerOptions | None = None,
    layers: tuple[LayerChoice, ...] = (),
    **fields: Any,
) -> Matched:
    """The model of `mixer` whose parameters (or training FLOPs per token at `length`) equal the
    reference Transformer's, by the width of its feed-forward. With `by="state"` its state after
    `length` tokens, too, has the bytes of the size's RetNet's, by what `Mixer.state_choices` offers
    (heads, expansion, window), and the mismatch is that of the state, which must not grow further.

    `options` are the mixer's own (None: nothing is said), `layers` a pattern of mixers instead of
    one, `fields` others of ModelConfig. Raises UserError for unknown names and for a residual over
    TOLERANCE or STATE_TOLERANCE.
    """
    if by not in MATCHES:
        raise UserError(f'match "{quoted(by)}" is unknown{did_you_mean(by, MATCHES)}')
    base = reference(size_name, family, vocab_size)
    if layers:
        if by == "state":
            raise UserError("match: state takes one mixer an arm, not a pattern of layers")
        return _match_ffn(base, size_name, _patterned(base, size_name, layers, fields), by, length)
    options = options or MIXERS[mixer].Options()
    if by == "state":
        sizes = _state_sizes(base, size_name, mixer, options, fields)
        return _match_state(base, size_name, [*sizes], length, element_bytes)
    config = _of_mixer(base, size_name, mixer, options, fields)
    return _match_ffn(base, size_name, config, by, length)


def _of_mixer(
    base: ModelConfig, size_name: str, mixer: str, options: MixerOptions, fields: dict[str, Any]
) -> ModelConfig:
    """The reference with another mixer, its feed-forward not yet matched."""
    shape = MIXERS[mixer].defaults(size(size_name), base.family, options)
    return replace(base, mixer=mixer, options=options, **{**shape, **fields})


def _patterned(
    base: ModelConfig, size_name: str, layers: tuple[LayerChoice, ...], fields: dict[str, Any]
) -> ModelConfig:
    """The reference with a pattern of mixers, its feed-forward not yet matched."""
    entries = []
    for i, choice in enumerate(layers):
        kernel = {"kernel": choice.kernel}
        with located(f"layers.{i}"):
            own = _of_mixer(base, size_name, choice.mixer, choice.options, kernel)
        entries.append(LayerConfig(**{name: getattr(own, name) for name in OF_LAYER}))
    return replace(base, **{**fields, "layers": tuple(entries)})


def _match_ffn(
    base: ModelConfig, size_name: str, config: ModelConfig, by: str, length: int
) -> Matched:
    matched = _solve_ffn(config, _quantity(by, length), _quantity(by, length)(base))
    if abs(matched.mismatch) > TOLERANCE:
        name = "+".join(dict.fromkeys(kind.mixer for kind in config.kinds))
        raise UserError(
            f"{name} at size {size_name} can't be matched by {by}: {matched.mismatch:+.1%} remains"
            f" at d_ffn {matched.config.d_ffn}; the limit is {TOLERANCE:.0%}"
        )
    return matched


def _match_state(
    base: ModelConfig, size_name: str, sizes: list[ModelConfig], length: int, element_bytes: int
) -> Matched:
    """The one of `sizes` with the nearest state, its parameters then matched, too."""

    def state_bytes(cfg: ModelConfig) -> int:
        return cost.state_bytes(cfg, 1, length, element_bytes)

    mixer = sizes[0].mixer

    def grows(cfg: ModelConfig) -> bool:
        return state_bytes(cfg) != cost.state_bytes(cfg, 1, 2 * length, element_bytes)

    sizes = [cfg for cfg in sizes if not grows(cfg)]
    if not sizes:
        windowed = "window" in mixer_options.names(MIXERS[mixer].Options)
        remedy = f"; say a window of at most {length:,} tokens" if windowed else ""
        raise UserError(
            f"{mixer} at size {size_name} can't be matched by state: after {length:,} tokens its "
            f"state still grows{remedy}"
        )
    retention = MIXERS[STATE_REFERENCE].Options()
    target = state_bytes(_of_mixer(base, size_name, STATE_REFERENCE, retention, {}))
    found = min(sizes, key=lambda cfg: abs(state_bytes(cfg) - target))
    mismatch = state_bytes(found) / target - 1
    if abs(mismatch) > STATE_TOLERANCE:
        raise UserError(
            f"{found.mixer} at size {size_name} can't be matched by state: the nearest is "
            f"{state_bytes(found):,} bytes a sequence after {length:,} tokens ({found.n_heads} "
            f"heads of {found.key_dim} x {found.value_dim}), RetNet's is {target:,}; the limit is "
            f"{STATE_TOLERANCE:.0%}"
        )
    return Matched(_match_ffn(base, size_name, found, "params", length).config, mismatch)


def _state_sizes(
    base: ModelConfig, size_name: str, mixer: str, options: MixerOptions, fields: dict[str, Any]
) -> Iterator[ModelConfig]:
    """The model with these options, and those with other sizes of state that they leave open."""
    yield _of_mixer(base, size_name, mixer, options, fields)
    for choice in MIXERS[mixer].state_choices(size(size_name), base.family, options):
        try:
            yield _of_mixer(base, size_name, mixer, choice, fields)
        except UserError:  # widths that don't divide
            continue


def probe(
    size_name: str,
    layers: tuple[LayerChoice, ...],
    before: LayerChoice,
    rounds: int | None = None,
    *,
    family: str = "paper",
    vocab_size: int = 257,
    **fields: Any,
) -> Matched:
    """A model of the mixers alone, for tasks that ask what they can do: `layers` with `before` in
    front of each, all of it `rounds` times (None: as often as the size has layers), no
    feed-forward and no rotation. Nothing is matched."""
    pattern = tuple(entry for choice in layers for entry in (before, choice))
    base = reference(size_name, family, vocab_size)
    depth = len(pattern) * (rounds or base.n_layers)
    base = replace(base, d_ffn=0, n_layers=depth, rotation="none")
    return Matched(_patterned(base, size_name, pattern, fields), math.nan)


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
