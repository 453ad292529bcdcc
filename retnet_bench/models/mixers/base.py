"""What every token mixer offers: three ways to run, and its own cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS, Kernel
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.layers import Exact

Angles = tuple[Tensor, Tensor]
State = Any
"""What a mixer carries between calls; `prefill` and `step` change it in place."""


class Mixer(Exact, ABC):
    """Mixes tokens of x (B, T, d_model) causally. `cfg.kernel` names a kernel, never `auto`."""

    kernels: ClassVar[str]
    """Whose kernels it takes: the `mixer` field of KERNELS."""
    reference: ClassVar[str]
    """The one of these that the others are held against before anything is timed."""
    options: ClassVar[tuple[str, ...]] = ()
    """Which of chunk, decay, gate, head_norm and head_dim it reads: a study's arm may set these and
    no others, and records keep them."""

    state_grows: ClassVar[bool]
    """Whether its state, and so a step's work, grows with the position."""
    state_passes: ClassVar[int]
    """How often a step moves the state, at the least: 1 if it is read, 2 if it is written, too."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.kernel: Kernel = KERNELS[cfg.kernel]
        if self.kernel.mixer != self.kernels:
            raise UserError(
                f"kernel {cfg.kernel} computes {self.kernel.mixer}; mixer {cfg.mixer} needs one "
                f"that computes {self.kernels}"
            )

    @abstractmethod
    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        """Whole sequence from an empty state, for training: (B, T, d) -> (B, T, d)."""

    @abstractmethod
    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        """An empty state for up to `capacity` tokens, on the device and dtype of `like`."""

    @abstractmethod
    def prefill(self, x: Tensor, angles: Angles, state: State, start: int) -> Tensor:
        """Tokens start .. start + T - 1 at once, `state` holding those before."""

    @abstractmethod
    def step(self, x: Tensor, angles: Angles, state: State, position: int | Tensor) -> Tensor:
        """One token x (B, 1, d) at `position`; a tensor position makes a capturable graph."""

    @abstractmethod
    def fork(self, state: State) -> State:
        """A state to step from while `state` stays valid at its own position."""

    @staticmethod
    @abstractmethod
    def defaults(size: Size, family: str, options: dict[str, Any]) -> dict[str, Any]:
        """n_heads, d_key, d_value and what else of ModelConfig this mixer sets at a size."""

    @staticmethod
    @abstractmethod
    def parameter_count(cfg: ModelConfig) -> int:
        """Parameters of one layer's mixer."""

    @staticmethod
    @abstractmethod
    def bias_count(cfg: ModelConfig) -> int:
        """Biases of one layer's projections, where `cfg.bias` gives them one."""

    @staticmethod
    @abstractmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        """Forward matmul FLOPs of one layer's token mixing over `length` tokens of one sequence,
        without the projections. `masked`: count scores that causality discards, too."""

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


def head_count(width: int, head_dim: int) -> int:
    """Heads of `head_dim` in `width`, which must divide it."""
    if head_dim < 1 or width % head_dim:
        raise UserError(
            f"head_dim {head_dim} does not divide the width {width}; "
            f"choose one of {', '.join(str(n) for n in range(8, width + 1, 8) if width % n == 0)}"
        )
    return width // head_dim
