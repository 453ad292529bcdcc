"""How a real machine's timings scatter: a model fitted to records, and a simulator of it.

A block's log-time is the sum of: its arm's level; an effect of its process; a slow part shared by
the arms that are interleaved (a linear drift, and an AR(1) walk over the blocks' order); the
block's own noise, Student's t, whose few degrees of freedom are its heavy tails; and now and then
an outlier, always slower. Times of one cell only: nothing here knows what was computed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from retnet_bench.analysis.tables import rows

_FAR = 4.0  # scales from which on a residual may be an outlier
_SURE_RHO = 0.3
_MOST_DF = 30.0  # beyond, t is normal
_MEDIAN_VARIANCE = np.pi / 2  # of a median, times n, in variances of a normal


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations and scales are of log-time: 0.01 is 1 %."""

    scale: float
    """Of a block's own t noise."""
    df: float
    """Degrees of freedom of it: below 2 the variance is infinite."""
    shared: float = 0.0
    """Standard deviation of the AR(1) part that interleaved arms share."""
    rho: float = 0.0
    """Its correlation from one block in the order to the next."""
    drift: float = 0.0
    """Standard deviation of the linear drift from a session's first block to its last."""
    process: float | None = None
    """Standard deviation between processes; null, and none simulated, where every session had one
    process a cell."""
    outliers: float = 0.0
    """Share of blocks that are outliers."""
    outlier_size: float = 0.0
    """Their mean excess."""
    n: int = 0
    """Blocks behind the fit."""


def fit(records: pd.DataFrame, metric: str) -> Noise:
    """The noise of a study's `metric`, from residuals about each cell's median.

    The core is fitted to the faster half, mirrored, because outliers only ever make a block slower;
    what is slower than that by more than chance are the outliers, whose exponential size is what
    they are beyond the threshold. The shared part comes from
    products of different arms' residuals (clipped at four scales) at 1, 2, ... blocks' distance.
    """
    values = rows.per_block(records, metric)
    logs = np.log(values["median"].to_numpy(dtype=float))
    values = values.assign(residual=logs - pd.Series(logs, values.index).groupby(
        values["cell_id"]).transform("median"))  # fmt: skip
    residuals = values["residual"].to_numpy()
    scale, df = _core(residuals[residuals < 0])
    far = _FAR * scale
    share = max(0.0, float(np.mean(residuals > far) - np.mean(residuals < -far)))
    excess = residuals[residuals > far]
    clipped = values.assign(residual=values["residual"].clip(-far, far))
    shared, rho, drift = _shared(clipped)
    return Noise(
        scale=scale, df=df, shared=shared, rho=rho, drift=drift, process=_process(values),
        outliers=share, outlier_size=float((excess - far).mean()) if share else 0.0, n=len(values),
    )  # fmt: skip


def _core(faster: np.ndarray) -> tuple[float, float]:
    """Scale and degrees of freedom of a t about 0 by maximum likelihood."""
    start = [np.log(np.median(-faster)), np.log(3.0)]
    found = optimize.minimize(_surprise, start, args=(faster,), method="Nelder-Mead")
    return float(np.exp(found.x[0])), float(np.exp(found.x[1]))


def _surprise(logs: np.ndarray, residuals: np.ndarray) -> float:
    """Minus the mean log-likelihood of a t with log-scale and log-df."""
    scale, df = np.exp(np.clip(logs, np.log(1e-6), np.log([1e3, _MOST_DF])))
    return float(-np.mean(stats.t.logpdf(residuals, df, scale=scale)))


def _shared(values: pd.DataFrame) -> tuple[float, float, float]:
    """Standard deviation and correlation of the AR(1) part, and standard deviation of the drift."""
    products: dict[int, list[float]] = {}
    slopes = []
    for _, session in values.groupby(["pair_id", *rows.PROCESS_KEYS], dropna=False):
        order = session["order"].to_numpy(dtype=float)
        residual = session["residual"].to_numpy()
        slopes.append(_drift(order, residual))
        arm = session["arm"].to_numpy()
        for i, j in zip(*np.triu_indices(len(order), 1), strict=True):
            if arm[i] != arm[j]:
                products.setdefault(int(abs(order[i] - order[j])), []).append(
                    residual[i] * residual[j]
                )
    lags = [np.mean(products[lag]) for lag in sorted(products)[:3]] + [0.0] * 3
    rho = float(np.clip(lags[1] / lags[0], 0, 0.95)) if lags[0] > 0 else 0.0
    # At distance 0; a small rho is too uncertain to extrapolate by.
    variance = lags[0] / rho if rho > _SURE_RHO else lags[0]
    chance = float(np.mean([error for _, error in slopes]))
    drift = float(np.mean([slope**2 for slope, _ in slopes])) - chance
    return float(np.sqrt(max(variance, 0.0))), rho, float(np.sqrt(max(drift, 0.0)))


def _drift(order: np.ndarray, residual: np.ndarray) -> tuple[float, float]:
    """Change over the session by least squares, and the variance that chance gives it."""
    x = (order - order.mean()) / max(np.ptp(order), 1.0)
    total = float((x**2).sum())
    slope = float((x * residual).sum() / total)
    rest = residual - residual.mean() - slope * x
    return slope, float(rest.var(ddof=2) / total) if len(order) > 2 else 0.0


def _process(values: pd.DataFrame) -> float | None:
    """Between processes of one session, less what their blocks explain.

    From differences of arms that were interleaved, so that the slow part is not taken for it; an
    arm has half of their variance. The error of a median is that of normal blocks with this
    median deviation, because a few far blocks don't move it.
    """
    found = []
    for _, session in values.groupby(["pair_id", "run_id"], dropna=False):
        table = session.pivot(index=["process", "block"], columns="arm", values="residual").dropna()
        for one, other in itertools.combinations(table.columns, 2):
            parts = [part for _, part in (table[one] - table[other]).groupby(level="process")]
            if len(parts) > 1 and min(map(len, parts)) > 1:
                medians = np.array([part.median() for part in parts])
                errors = [
                    _MEDIAN_VARIANCE
                    * stats.median_abs_deviation(part, scale="normal") ** 2
                    / len(part)
                    for part in parts
                ]
                found.append((medians.var(ddof=1) - np.mean(errors)) / 2)
    return float(np.sqrt(max(np.mean(found), 0.0))) if found else None


def simulate(
    noise: Noise,
    random: np.random.Generator,
    *,
    trials: int,
    blocks: int,
    processes: int = 1,
    arms: int = 2,
) -> np.ndarray:
    """Log-times (trials, arms, processes * blocks) of equal arms in the order A B B A."""
    parts = [_process_blocks(noise, random, trials, blocks, arms) for _ in range(processes)]
    return np.concatenate(parts, axis=2)


def _process_blocks(
    noise: Noise, random: np.random.Generator, trials: int, blocks: int, arms: int
) -> np.ndarray:
    own = noise.scale * random.standard_t(noise.df, (trials, arms, blocks))
    hit = random.random(own.shape) < noise.outliers
    own += hit * random.exponential(noise.outlier_size or 1.0, own.shape)
    own += (noise.process or 0.0) * random.standard_normal((trials, arms, 1))
    turns = _turns(arms, blocks)  # (arms, blocks): each block's place in the order
    return own + _walk(noise, random, trials, arms * blocks)[:, turns]


def _turns(arms: int, blocks: int) -> np.ndarray:
    """Place of every arm's every block: A B B A A B ..."""
    place = np.arange(blocks) * arms
    there, back = np.arange(arms)[:, None], np.arange(arms)[::-1][:, None]
    return np.where(np.arange(blocks) % 2 == 0, place + there, place + back)


def _walk(noise: Noise, random: np.random.Generator, trials: int, n: int) -> np.ndarray:
    """The shared slow part (trials, n): AR(1) in its stationary state, plus a linear drift."""
    steps = noise.shared * random.standard_normal((trials, n))
    for i in range(1, n):
        steps[:, i] = noise.rho * steps[:, i - 1] + np.sqrt(1 - noise.rho**2) * steps[:, i]
    slope = noise.drift * random.standard_normal((trials, 1))
    return steps + slope * np.linspace(-0.5, 0.5, n)
