"""The arms of a study: a mixer with kernel and options, or a pattern of them over the layers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, InstanceOf, model_validator

from retnet_bench.base import quoted
from retnet_bench.fields import Place, Strict, Word, refused
from retnet_bench.kernels import KERNELS
from retnet_bench.models import MIXERS
from retnet_bench.models import options as mixer_options
from retnet_bench.models.config import MOST_LAYERS
from retnet_bench.models.options import MixerOptions, validate
from retnet_bench.models.pattern import AUTO, HYBRID, OPEN, opened
from retnet_bench.models.strict import near
from retnet_bench.study.settings import CommonSettings


class Layer(Strict):
    """A mixer with its kernel, as one entry of a pattern of layers: a mapping, or its name alone.
    In the file the mixer's options stand among the other keys."""

    mixer: Word
    kernel: Word | None = None
    """None: the preferred one that runs here (`Kernel.rank`). auto: the fastest that was timed."""
    options: InstanceOf[MixerOptions] = MixerOptions()
    """The mixer's own, of its class `Options`. Of a mixer that is not installed here they are not
    read: a study can be shown, but not planned."""
    open: tuple[str, ...] = ()
    """What of kernel and chunk is `auto`; made from these, not said."""

    @classmethod
    def common(cls) -> tuple[str, ...]:
        """Settings that it has whatever its mixer."""
        return tuple(name for name in cls.model_fields if name not in ("options", "open"))

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, given: Any) -> Any:
        given = cls._mapping(given)
        if not isinstance(given, dict):
            return given
        common = {key: value for key, value in given.items() if key in cls.common()}
        mixer = given.get("mixer")
        if not isinstance(mixer, str) or mixer not in MIXERS:
            return common
        own = {key: value for key, value in given.items() if key not in cls.common()}
        options = _options(mixer, common.get("kernel"), own, cls.common())
        return common | {"options": options, "open": opened(given)}

    @classmethod
    def _mapping(cls, given: Any) -> Any:
        if not isinstance(given, dict | str):
            raise refused("mixer", f"must be a mixer's name, is {quoted(repr(given))}")
        return {"mixer": given} if isinstance(given, str) else given


class Arm(Layer):
    """One architecture's side: what may differ between the arms of a pair. In the file the mixer's
    options stand among the other keys; instead of `mixer`, `layers` says a pattern of mixers."""

    family: Literal["paper", "modern"] | None = None
    """The block family of this arm alone; the pair's where it is not said."""
    checkpoint: Place | None = None
    """Downstream: folder of this arm's trained model."""
    layers: tuple[Layer, ...] | None = Field(default=None, min_length=1, max_length=MOST_LAYERS)
    """A pattern of mixers that repeats over the depth."""

    @classmethod
    def _mapping(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("layers") is None:
            return given
        for key in given:
            if key not in OF_PATTERN:
                entry = f"{{mixer: ..., {quoted(key)}: ...}}"
                said = f"an arm with layers says it in an entry of the pattern, {entry}"
                raise refused(key, "layers says the mixers" if key == "mixer" else said)
        return given | {"mixer": HYBRID}


EVERY_MIXER = "every"
"""As the mixer of an arm: it stands for one of each mixer there is."""


def spread(arms: Any) -> Any:
    """Arms as a file says them, where one whose mixer is `every` becomes one arm of each mixer,
    called as the mixer, of the same family. An arm of that name that stands beside it is left as it
    is. ValueError for another setting, which not every mixer takes, and for a second such arm."""
    if not isinstance(arms, dict):
        return arms
    found: dict[Any, Any] = {}
    first = None
    for name, given in arms.items():
        if not isinstance(given, dict) or given.get("mixer") != EVERY_MIXER:
            found[name] = given
            continue
        place = f"arms.{quoted(name)}"
        if first is not None:
            raise ValueError(f"{place}: mixer {EVERY_MIXER} is said in {first}, too")
        if others := [key for key in given if key not in ("mixer", "family")]:
            words = f"mixer {EVERY_MIXER} takes family alone; say it in an arm of one mixer"
            raise ValueError(f"{place}.{quoted(others[0])}: {words}")
        first = place
        found |= {mixer: given | {"mixer": mixer} for mixer in MIXERS if mixer not in arms}
    return found


def said_of_an_arm(key: object) -> str:
    """For messages: where a key belongs that only an arm has; empty for any other."""
    options = {name for _, mixer in MIXERS.items() for name in mixer_options.names(mixer.Options)}
    if key not in options | {*Arm.common()} - {*CommonSettings.model_fields}:
        return ""
    return f"; it is said of an arm: arms.NAME.{key}"


_OF_NUMBERS = (int, float, type(None))
"""Types of which the option itself says what it takes; bool is none of them."""
OF_PATTERN = ("layers", "family", "checkpoint")
"""Settings of an arm whose layers have a pattern."""


def _options(
    mixer: str, kernel: Any, given: dict[Any, Any], common: tuple[str, ...]
) -> MixerOptions:
    """The options of an arm. Raises pydantic's ValidationError: the study that the arm stands in
    knows its name."""
    kind = MIXERS[mixer].Options
    known = mixer_options.names(kind)
    settings = (*common, *known)
    others = {name for _, other in MIXERS.items() for name in mixer_options.names(other.Options)}
    for key, value in given.items():
        if key not in known and not (key in others and value is None):
            common_to_all = key in CommonSettings.model_fields
            own = f"its settings are {', '.join(settings)}{near(key, settings)}"
            words = "it is every arm's; say it in fixed" if common_to_all else own
            raise refused(key, f"mixer {mixer} does not read it; {words}")
    for key in given.keys() & _unread(mixer, kernel):
        raise refused(key, f"kernel {kernel} does not read it")
    left = opened(given)
    for key in OPEN:
        if key in known and key not in left and type(given.get(key)) not in _OF_NUMBERS:
            raise refused(key, f"must be a number or {AUTO}, is {quoted(given[key])}")
    return validate(kind, {key: given[key] for key in given if key in known and key not in left})


def _unread(mixer: str, kernel: Any) -> set[str]:
    """Options that the mixer does not read with that kernel, if it is one of its own."""
    known = KERNELS[kernel] if isinstance(kernel, str) and kernel in KERNELS else None
    if known is None or known.mixer != MIXERS[mixer].kernels:
        return set()
    return {*MIXERS[mixer].unread(known)}
