"""IsoFLOP curves: the loss against log N at equal compute, a parabola, and where it is least.

Hoffmann et al. 2022, section 3.2 ("approach 2"). A minimum that is not between the sizes measured
is none: it would be the parabola's, not the models'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retnet_bench.analysis.statistics.intervals import Interval

LEAST_SIZES = 3
"""A parabola has three free numbers: of three sizes it goes through all points, and what is known
of its minimum is what their resamples say."""


@dataclass(frozen=True)
class Parabola:
    """loss = c0 + c1 u + c2 u^2 with u = log(N / center); row 0 of `coefficients` (1 + R, 3) is the
    estimate, the others are resamples."""

    sizes: np.ndarray  # (P,)
    loss: np.ndarray  # (P,)
    center: float
    coefficients: np.ndarray
    n: int

    def at(self, sizes: np.ndarray) -> np.ndarray:
        """The fitted loss at sizes (n,)."""
        return self.coefficients[0] @ np.vander(np.log(sizes / self.center), 3, increasing=True).T

    @property
    def minimum(self) -> Interval | None:
        """The size of the least loss; an end of its interval that is beyond the sizes measured is 0
        or infinite. None where the estimate is beyond them."""
        ends = np.log(np.array([self.sizes.min(), self.sizes.max()]) / self.center)
        places = _minima(self.coefficients, *ends)
        if not np.isfinite(places[0]):
            return None
        estimate = float(self.center * np.exp(places[0]))
        if self.n < 2:
            return Interval(estimate, np.nan, np.nan, self.n)
        low = float(np.percentile(places[1:], 2.5, method="lower"))
        high = float(np.percentile(places[1:], 97.5, method="higher"))
        low, high = min(low, float(places[0])), max(high, float(places[0]))
        return Interval(
            estimate, float(self.center * np.exp(low)), float(self.center * np.exp(high)), self.n
        )


def fit(sizes: np.ndarray, loss: np.ndarray, drawn: np.ndarray, n: int) -> Parabola:
    """The parabola through `loss` (P,) at `sizes` (P,) by least squares, and through each row of
    `drawn` (R, P)."""
    center = float(np.exp(np.log(sizes).mean()))
    design = np.vander(np.log(sizes / center), 3, increasing=True)  # (P, 3)
    every = np.concatenate([loss[None], drawn])
    return Parabola(sizes, loss, center, every @ np.linalg.pinv(design).T, n)


def _minima(coefficients: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where each parabola is least: -inf or inf where that is beyond the ends, or where it bends
    down and its lower end is there."""
    _, slope, bend = coefficients.T
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.where(bend > 0, -slope / (2 * bend), np.where(slope > 0, -np.inf, np.inf))
    return np.where(place < low, -np.inf, np.where(place > high, np.inf, place))
