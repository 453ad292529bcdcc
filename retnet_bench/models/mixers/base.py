"""What every token mixer offers: three ways to run, and its own cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from retnet_bench.base import UserError
from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS, Kernel, Setting
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.layers import Exact, rotate
from retnet_bench.models.options import MixerOptions

Angles = tuple[Tensor, Tensor]
State = Any
"""What a mixer carries between calls: a tensor, or a flat dataclass of tensors, the batch always
first. `prefill` and `step` change it in place."""


@dataclass(frozen=True)
class Context:
    """What a layer is given beside x."""

    angles: Angles | None
    """cos and sin of the positions for this layer's key dimension; None where nothing rotates."""
    shared: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that earlier layers left for later ones in the same pass over the same tokens."""

    def rotate(self, x: Tensor) -> Tensor:
        """x (B, T, H, d) rotated by its positions; x itself in a model without rotation."""
        return x if self.angles is None else rotate(x, self.angles)


class Mixer(Exact, ABC):
    """Mixes tokens of x (B, T, d_model) causally. `cfg.kernel` names a kernel, never `auto`."""

    kernels: ClassVar[str]
    """Whose kernels it takes: the `mixer` field of KERNELS."""
    reference: ClassVar[str]
    """The one of these that the others are held against before anything is timed."""
    Options: ClassVar[type[MixerOptions]] = MixerOptions
    """Its own options: a study's arm may set these and no others, and cells and configs keep them.
    The base class has none."""
    state_grows: ClassVar[bool]
    """Whether its state, and so a step's work, grows with the position."""
    state_passes: ClassVar[int]
    """How often a step moves the state, at the least: 1 if it is read, 2 if it is written, too."""
    rotates: ClassVar[bool] = True
    """Whether it rotates queries and keys by position, and so needs `Context.angles`."""
    undecayed: ClassVar[tuple[str, ...]] = ()
    """Names of its parameters that weight decay leaves alone: decays, norms, filters, time steps.
    """

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.layer = layer
        if type(cfg.options) is not self.Options:
            raise UserError(
                f"mixer {cfg.mixer} takes {self.Options.__name__}, not {type(cfg.options).__name__}"
            )
        self.kernel: Kernel = KERNELS[cfg.kernel]
        if self.kernel.mixer != self.kernels:
            raise UserError(
                f"kernel {cfg.kernel} computes {self.kernel.mixer}; mixer {cfg.mixer} needs one "
                f"that computes {self.kernels}"
            )

    def initialise(self, gain: float) -> None:
        """Start values of all its parameters; `gain` is DeepNet's for this depth. By default Xavier
        normal with that gain, queries and keys with gain 1, biases 0."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                scores = name.split(".")[-1] in ("query", "key")
                nn.init.xavier_normal_(module.weight, gain=1.0 if scores else gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.no_grad()
    def move(self) -> None:
        """For the check of forms: away from the start, where some mixers put out exactly zero. A
        mixer with learned decays also spreads them over their range."""
        for parameter in self.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=MOVED)

    def adversarial(self) -> None:
        """For the check of forms: to where rounding and overflow would show, e.g. decays near 0 on
        some heads and near 1 on others."""
        self.move()

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Whole sequence from an empty state, for training: (B, T, d) -> (B, T, d)."""

    @abstractmethod
    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        """An empty state for up to `capacity` tokens, on the device and dtype of `like`."""

    @abstractmethod
    def prefill(self, x: Tensor, context: Context, state: State, start: int) -> Tensor:
        """Tokens start .. start + T - 1 at once, `state` holding those before."""

    @abstractmethod
    def step(self, x: Tensor, context: Context, state: State, position: int | Tensor) -> Tensor:
        """One token x (B, 1, d) at `position`; a tensor position makes a capturable graph."""

    def fork(self, state: State) -> State:
        """A state to step from while `state` stays valid at its own position: a copy."""
        if isinstance(state, Tensor):
            return state.clone()
        own = {name: value.clone() for name, value in vars(state).items() if _is_tensor(value)}
        return replace(state, **own)

    @staticmethod
    @abstractmethod
    def defaults(size: Size, family: str, options: Any) -> dict[str, Any]:
        """n_heads, d_key, d_value and what else of ModelConfig this mixer sets at a size."""

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        """Tokens that a chunkwise kernel takes at once. The forms of a model are held against each
        other at lengths around it."""
        return 128

    @staticmethod
    def setting(cfg: ModelConfig, device: str, dtype: str, mode: str | None = None) -> Setting:
        """Where a layer's kernel is asked to run, and on what."""
        return Setting(device, dtype, cfg.key_dim, cfg.value_dim, mode)

    @staticmethod
    def unread(kernel: Kernel) -> tuple[str, ...]:
        """Options that change nothing with that kernel, so that a study must not say them."""
        return ()

    @staticmethod
    def widths(cfg: ModelConfig) -> dict[str, int]:
        """Rows of those linear maps from d_model that show d_key and d_value, by name: what a
        checkpoint's config is checked by before anything of its size is made."""
        return {"query": cfg.d_key, "value": cfg.d_value}

    @staticmethod
    def longest(cfg: ModelConfig) -> int | None:
        """Tokens of the longest sequence that it is defined for; None: any."""
        return None

    @staticmethod
    def state_choices(size: Size, family: str, options: Any) -> Iterator[MixerOptions]:
        """`options` with other sizes of state, for `match: state`: every key dimension of a head,
        if none is given."""
        if isinstance(options, HeadOptions) and options.head_dim is None:
            for head_dim in range(2, size.d_model + 1, 2):
                if size.d_model % head_dim == 0:
                    yield replace(options, head_dim=head_dim)

    @staticmethod
    @abstractmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """Parameters of one layer's linear maps, each of which multiplies every token once."""

    @staticmethod
    def other_parameters(cfg: ModelConfig) -> int:
        """One layer's further parameters: decays, norms, filters, biases that are always there."""
        return 0

    @staticmethod
    @abstractmethod
    def bias_count(cfg: ModelConfig) -> int:
        """Biases of one layer's projections, where `cfg.bias` gives them one."""

    @staticmethod
    @abstractmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        """Forward matmul FLOPs of one layer's token mixing over `length` tokens of one sequence,
        without the projections. `masked`: count scores that causality discards, too, and so what
        FlopCounterMode counts."""

    @staticmethod
    def uncounted_flops(cfg: ModelConfig, length: int) -> float:
        """Forward FLOPs of the same that stand for matrix products but that FlopCounterMode does
        not see (Fourier transforms, triangular solves, recurrences by element), by hand."""
        return 0.0

    @staticmethod
    def uncounted_step_flops(cfg: ModelConfig, position: int) -> float:
        """The same of a step."""
        return 0.0

    @staticmethod
    @abstractmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """Matmul FLOPs that one layer's token mixing executes in the backward pass of training,
        masked scores and recomputation included."""

    @staticmethod
    @abstractmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """Matmul FLOPs of one layer's token mixing for the one token at `position` (from 0)."""

    @staticmethod
    @abstractmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """Bytes one layer must carry after `length` tokens of `batch` sequences."""


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


MOVED = 0.02
"""Standard deviation of what `Mixer.move` adds to every parameter."""
Heads = TypeVar("Heads", bound="HeadOptions")


@dataclass(frozen=True, kw_only=True)
class HeadOptions(MixerOptions):
    """Of every mixer whose heads have keys."""

    head_dim: Annotated[
        Count | None, Field(description="key dimension of a head; the size's by default")
    ] = None

    def settled(self: Heads, cfg: ModelConfig) -> Heads:
        """`n_heads` says it."""
        if self.head_dim not in (None, cfg.key_dim):
            raise UserError(
                f"head_dim is {self.head_dim}, but {cfg.n_heads} heads of d_key {cfg.d_key} have "
                f"{cfg.key_dim}"
            )
        return replace(self, head_dim=None)


def head_count(width: int, head_dim: int) -> int:
    """Heads of `head_dim` in `width`, which must divide it."""
    if head_dim < 1 or width % head_dim:
        raise UserError(
            f"head_dim {head_dim} does not divide the width {width}; "
            f"choose one of {', '.join(str(n) for n in range(2, width + 1, 2) if width % n == 0)}"
        )
    return width // head_dim
