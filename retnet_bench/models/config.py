"""What a model is: one frozen config, the table of sizes, and nothing computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field

from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.models import options as mixer_options
from retnet_bench.models.options import MixerOptions
from retnet_bench.models.strict import Base, Count, Eps

FAMILIES = ("paper", "modern")
ROTATIONS = ("rope", "linspace", "none")
ACTIVATIONS = ("gelu", "gelu_tanh", "silu")
MOST_LAYERS = 512
"""Of a model that is read from a file: several times what the deepest in use have."""


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """The token mixer of one layer: those fields of ModelConfig that are its own."""

    mixer: str
    n_heads: Count
    d_key: Count
    d_value: Count
    kernel: str = "auto"
    options: MixerOptions

    def flat(self) -> dict[str, Any]:
        """As JSON has it: the mixer's options stand among the other fields."""
        return _flat(self)


OF_LAYER = tuple(field.name for field in fields(LayerConfig))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One language model. Two arms of a pair differ in the mixer's fields and in `d_ffn` only.

    The types' ranges hold where a config is read from a file; code is trusted with its own.
    """

    mixer: str
    """Row of MIXERS."""
    family: str = "paper"
    """`paper`: LayerNorm, GELU feed-forward (sections 2.3, 3.1). `modern`: RMSNorm, SwiGLU."""
    d_model: Count
    n_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    n_heads: Count
    d_key: Count
    """Total width of queries and keys."""
    d_value: Count
    """Total width of values."""
    d_ffn: Annotated[int, Field(ge=0, le=2**31 - 1)]
    """Width of the feed-forward; 0: there is none."""
    vocab_size: Count
    kernel: str = "auto"
    """Row of KERNELS, or auto: the best one available."""
    options: MixerOptions
    """The mixer's own, settled: of its class `Options`."""
    norm_eps: Eps = 1e-5
    """eps of every norm; the paper does not state one."""
    dropout: float = 0.0
    """Share of the embedding's, the mixer's and the feed-forward's output that is dropped while
    training (section 3.1: 0.1 on these three, none on scores)."""
    # What follows is how models from elsewhere differ; no study sets it.
    tied: bool = True
    """The head shares the embedding's weights."""
    bias: bool = False
    """Every linear map but the head adds a bias."""
    activation: str | None = None
    """Of the feed-forward: `gelu`, `gelu_tanh`, `silu`; None: the family's."""
    rotation: str = "rope"
    """Angle of pair i of n: `rope` base^(-i/n), `linspace` base^(-i/(n-1)) (torchscale), `none`."""
    rotation_base: Base = 10000.0
    learned_positions: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Rows of a table of positions added to the embedding, and so the longest input; 0: none."""
    layers: tuple[LayerConfig, ...] = ()
    """A pattern of mixers that repeats over the depth, for hybrids; the fields above of the same
    names are then its first entry's. Empty: every layer has those."""

    def __post_init__(self) -> None:
        _choose("family", self.family, FAMILIES)
        _choose("rotation", self.rotation, ROTATIONS)
        if self.activation is not None:
            _choose("activation", self.activation, ACTIVATIONS)
        for field in ("d_key", "d_value"):
            width = getattr(self, field)
            if width % self.n_heads:
                raise UserError(
                    f"{field} {width} does not divide into {self.n_heads} heads; "
                    f"choose a head count that divides {width}"
                )
        if self.key_dim % 2:
            raise UserError(
                f"key head dimension {self.key_dim} is odd; make it even: rotation turns pairs"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        mixer_options.check(self.options)
        object.__setattr__(self, "options", self.options.settled(self))
        if self.layers:
            self._settle_layers()

    def _settle_layers(self) -> None:
        if len(self.layers) > self.n_layers:
            raise UserError(
                f"layers: the pattern has {len(self.layers)} entries, the model {self.n_layers} "
                f"layers; at most one entry a layer is read"
            )
        own = [_of_layer(replace(self, layers=(), **vars(entry))) for entry in self.layers]
        for name, value in {"layers": tuple(own), **vars(own[0])}.items():
            object.__setattr__(self, name, value)

    def at(self, layer: int) -> ModelConfig:
        """The config whose every layer is as that one, counted from 0."""
        return _at(self, layer % len(self.layers)) if self.layers else self

    @property
    def kinds(self) -> dict[ModelConfig, int]:
        """What its layers are, in the order of their first, and how many there are of each."""
        return Counter(self.at(layer) for layer in range(self.n_layers))

    def with_kernels(self, choose: Callable[[ModelConfig], str]) -> ModelConfig:
        """The same with each layer's kernel chosen from its config (`at`)."""
        layers = (replace(e, kernel=choose(self.at(i))) for i, e in enumerate(self.layers))
        return replace(self, kernel=choose(self.at(0)), layers=tuple(layers))

    def flat(self) -> dict[str, Any]:
        """The config as JSON has it: the mixer's options stand among the other fields."""
        values = _flat(self)
        entries = values.pop("layers")
        return values | {"layers": [entry.flat() for entry in entries]} if entries else values

    @property
    def key_dim(self) -> int:
        """Queries' and keys' dimension per head."""
        return self.d_key // self.n_heads

    @property
    def value_dim(self) -> int:
        """Values' dimension per head."""
        return self.d_value // self.n_heads


def _flat(config: LayerConfig | ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in vars(config).items():
        values |= value.given() if name == "options" else {name: value}
    return values


def _of_layer(config: ModelConfig) -> LayerConfig:
    return LayerConfig(**{name: getattr(config, name) for name in OF_LAYER})


@lru_cache(maxsize=4096)  # costs ask for each layer of each cell
def _at(config: ModelConfig, entry: int) -> ModelConfig:
    return replace(config, layers=(), **vars(config.layers[entry]))


def _choose(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f'{field} "{quoted(value)}" is unknown{did_you_mean(value, allowed)}')


@dataclass(frozen=True)
class Size:
    """One line of SIZES: the body has 12 d_model^2 n_layers parameters in both arms."""

    d_model: int
    n_layers: int
    retention_head_dim: int
    """Key dimension of a retention head; its values have twice that (the paper's 256:512)."""
    attention_head_dim: int

    @property
    def nominal_body(self) -> int:
        return 12 * self.d_model**2 * self.n_layers


SIZES = {
    "0.1M": Size(64, 2, 32, 32),
    "0.4M": Size(96, 4, 32, 32),
    "0.8M": Size(128, 4, 32, 64),
    "1.8M": Size(192, 4, 48, 64),
    "3M": Size(256, 4, 64, 64),
    "6M": Size(256, 8, 64, 64),
    "11M": Size(384, 6, 96, 64),
    "25M": Size(512, 8, 128, 64),
    "49M": Size(640, 10, 160, 64),
    "85M": Size(768, 12, 256, 64),
    "200M": Size(1024, 16, 256, 64),
    "1.3B": Size(2048, 24, 256, 128),
    "2.7B": Size(2560, 32, 256, 128),
    "6.7B": Size(4096, 32, 256, 128),
    "13B": Size(5120, 40, 256, 128),  # shape not in the paper: torchscale's preset
}


def size(name: str) -> Size:
    """The size of that name, or a UserError with a suggestion."""
    try:
        return SIZES[name]
    except KeyError:
        raise UserError(f'unknown size "{quoted(name)}"{did_you_mean(name, SIZES)}') from None
