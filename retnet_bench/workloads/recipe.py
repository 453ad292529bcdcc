"""How a model is trained for quality: every setting of the optimiser and its schedule, in presets.

Batch, length and token budget are the cell's; precision is its dtype (autocast below fp32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from retnet_bench.base import Registry, UserError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of AdamW, its schedule and when to give up. Defaults are arXiv:2307.08621v4's
    where it states them (section 3.1, Tables 2 and 7)."""

    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of AdamW's two moments."""
    eps: float = 1e-8
    """Added to AdamW's denominator; the paper does not state it, so torch's default."""
    weight_decay: float = 0.05
    """Decoupled decay of every weight. Section 3.1 says 0.05, Table 7 0.01; the later version of
    the paper keeps 0.05."""
    clip: float = 2.0
    """Largest norm of all gradients together."""
    warmup_steps: int | None = None
    """Steps in which the learning rate rises; None: `warmup_share` of all."""
    warmup_share: float = 0.05
    """Share of the steps in which it rises, where `warmup_steps` is None."""
    decay: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls to zero after the warm-up."""
    dropout: float = 0.0
    """ModelConfig.dropout, unless the cell says its own."""
    bos_windows: bool = False
    """Whether every window read begins with <bos>, in training and scoring; else every document
    does, and a window may begin inside one."""
    learning_rates: Mapping[int, float] = field(default_factory=dict)
    """Peak learning rate by model width; other widths follow `default_learning_rate`."""
    divergence: float = 2.0
    """A loss above this many times its running minimum (and above DIVERGENCE_FLOOR) is too high."""
    patience: int = 50
    """Steps in a row with too high a loss that end the training as diverged."""

    def learning_rate(self, d_model: int) -> float:
        """Peak learning rate of a model of that width."""
        return self.learning_rates.get(d_model) or default_learning_rate(d_model)

    def warmup(self, steps: int) -> int:
        """Steps of warm-up among `steps`. UserError if fewer steps than a stated warm-up."""
        if self.warmup_steps is None:
            return max(1, round(self.warmup_share * steps))
        if steps <= self.warmup_steps:
            raise UserError(
                f"the recipe warms up over {self.warmup_steps} steps, and token_budget makes only "
                f"{steps} of batch x length tokens; raise token_budget or take recipe: small"
            )
        return self.warmup_steps

    def rate_factor(self, step: int, steps: int) -> float:
        """Factor of the peak learning rate at `step` of `steps`: linear warm-up, then decay to zero
        (the paper states no end)."""
        rise = self.warmup(steps)
        if step < rise:
            return (step + 1) / rise
        left = max(0.0, (steps - step) / (steps - rise))
        return left if self.decay == "linear" else math.sin(math.pi / 2 * left) ** 2


DIVERGENCE_FLOOR = 1.0
"""nat per token: below it a loss is never too high, or learning a text by heart would look so."""


def default_learning_rate(d_model: int) -> float:
    """6e-4 at d = 2048 (Table 7), rising as 1/sqrt(d) for smaller models, at most 3e-3."""
    return min(3e-3, 6e-4 * (2048 / d_model) ** 0.5)


RECIPES: Registry[Recipe] = Registry("recipe")
RECIPES.add("small", Recipe())
RECIPES.add(
    "paper",
    Recipe(
        warmup_steps=375,
        dropout=0.1,
        bos_windows=True,
        learning_rates={2048: 6e-4, 2560: 3e-4, 4096: 3e-4},
    ),
)
RECIPES.add(
    "recall",
    Recipe(
        betas=(0.9, 0.999),
        weight_decay=0.1,
        clip=1.0,
        warmup_share=0.1,
        decay="cosine",
        patience=250,
    ),
)
DEFAULT_RECIPE = "small"
"""Sensible at CPU sizes: the paper's optimiser, a warm-up in proportion, no dropout."""


def default_recipe(workload: str) -> str:
    """Of a cell that says none."""
    return "recall" if workload == "recall" else DEFAULT_RECIPE
