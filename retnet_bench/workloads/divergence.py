"""When to give a training up: losses that are not finite, or that stay far above the best one."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

from retnet_bench.workloads.base import Diverged
from retnet_bench.workloads.recipe import DIVERGENCE_FLOOR, Recipe


@dataclass
class Watch:
    """Sees every step's loss (nat per token) in order. Its fields are part of a checkpoint."""

    lowest: float = inf
    high: int = 0
    """Steps in a row whose loss was too high."""
    good_step: int = 0
    good_loss: float | None = None
    """The last loss that was finite and not too high."""

    def see(self, step: int, loss: float, recipe: Recipe) -> None:
        """Take in the loss of `step` (counted from 1). Raises Diverged."""
        if not isfinite(loss):
            raise Diverged(f"training loss became {loss} at step {step}; {self._last_good()}")
        self.lowest = min(self.lowest, loss)
        if loss <= max(recipe.divergence * self.lowest, DIVERGENCE_FLOOR):
            self.high, self.good_step, self.good_loss = 0, step, loss
            return
        self.high += 1
        if self.high >= recipe.patience:
            raise Diverged(
                f"training loss stayed above {recipe.divergence:g} times its minimum of "
                f"{self.lowest:.4g} for {self.high} steps, up to step {step} (loss {loss:.4g}); "
                f"{self._last_good()}"
            )

    def _last_good(self) -> str:
        if self.good_loss is None:
            return "no step before it had a good loss"
        return f"last good loss {self.good_loss:.4g} at step {self.good_step}"
