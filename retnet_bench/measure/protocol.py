"""How a cell is timed: warm-up that ends when it is steady, blocks of samples, ABBA order."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic.fields import FieldInfo

from retnet_bench.fields import Integer, Number
from retnet_bench.measure.clock import Clock, time_call

MOST = 100_000
"""Of processes, blocks, samples and steps: samples are kept one by one and blocks listed ahead."""
MOST_S = 1_000_000
"""Seconds, twelve days: systems wait for at most 2^31 milliseconds, and two spans may add up."""

MIN_WINDOW = 6
"""Fewest steps the steady-state test looks at: three in each half."""
MAX_WINDOW = 40
"""Most steps it looks at, so that testing stays cheap however long the warm-up is."""
MAX_MEDIAN_SHIFT = 0.05
"""Largest difference between the medians of the halves, relative to the later one."""
MAX_QUARTILE_SHIFT = 0.10
"""The same for the first and the third quartiles."""
MAX_SPREAD_SHIFT = 0.05
"""Largest difference between the halves' median absolute deviations, relative to the median."""
MAX_FIRST_EXCESS = 0.10
"""How far the first step may lie above the later ones' upper quartile even if these are quiet."""
NEGLIGIBLE_SHIFT = 0.01
"""Below this median shift a trend is too small to matter."""
MAX_TREND_Z = 2.0
"""Largest standard score of the Mann-Kendall trend test (2: one steady window in 20 fails)."""


Times = Annotated[Integer, Field(ge=1, le=MOST)]
Seconds = Annotated[Number, Field(gt=0, le=MOST_S)]


@checked_dataclass(frozen=True, kw_only=True, config=ConfigDict(use_attribute_docstrings=True))
class Protocol:
    """How every cell of a study is timed: its key `protocol`. Raises ValueError (of pydantic) for
    a value of the wrong type or out of range."""

    processes: Times = 3
    """Worker processes per timed cell, one after another: the outer unit of replication. Blocks of
    one process are neighbours in time and share a machine's mood, so that of a single process the
    interval of one arm's time would be too narrow (docs/gate.md)."""
    blocks: Times = 3
    """Blocks of samples in each process: the inner unit of replication. With `precision` set, the
    fewest."""
    max_blocks: Times | None = None
    """Most blocks in each process, should `precision` need more than `blocks`; null: 8 times."""
    precision: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Half-width of the 95 % interval that is narrow enough (0.02: plus or minus 2 %): blocks are
    added until it is reached, `max_blocks` are done or `budget_s` is spent. null: `blocks`."""
    budget_s: Seconds = 600.0
    """Seconds that the blocks of a pair may take in each process; then they end."""
    block_s: Seconds = 0.5
    """Seconds a block should last; sets the number of samples in it."""
    min_samples: Times = 3
    """Fewest samples in a block, however slow the step."""
    max_samples: Times = 200
    """Most samples in a block, however fast the step."""
    warmup_max_s: Seconds = 10.0
    """Seconds after which the warm-up ends even if it is not steady."""
    warmup_min_steps: Times = 2
    """Fewest warm-up steps, even if the first one alone spends `warmup_max_s`."""
    choice_s: Seconds = 8.0
    """Seconds in which the kernels and chunks of a cell that leaves them open (`kernel: auto`) are
    timed, all of them together: the same for every arm."""
    timeout_s: Seconds = 600.0
    """Seconds a cell may take before it is stopped; of a training or scoring, which says how far it
    is, the seconds without a word."""
    interleave: Literal["blocks", "processes"] = "blocks"
    """"blocks": the arms' processes live side by side and their blocks alternate (ABBA).
    "processes": one process at a time, ABBA over processes."""

    def __post_init__(self) -> None:
        if self.max_blocks is not None and self.max_blocks < self.blocks:
            raise ValueError(
                f"protocol.max_blocks is {self.max_blocks}, must be at least blocks ({self.blocks})"
            )
        if self.max_samples < self.min_samples:
            raise ValueError(
                f"protocol.max_samples is {self.max_samples}, "
                f"must be at least min_samples ({self.min_samples})"
            )

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Of every setting, in order: what it means."""
        fields: dict[str, FieldInfo] = cls.__pydantic_fields__  # type: ignore[attr-defined]
        return {name: " ".join(str(field.description).split()) for name, field in fields.items()}

    @property
    def most_blocks(self) -> int:
        """Blocks after which a process's turn ends, come what may."""
        if self.precision is None:
            return self.blocks
        return self.max_blocks or 8 * self.blocks


@dataclass(frozen=True)
class WarmUp:
    """What the steps before the first block were like."""

    first_step_s: float
    steps: int
    total_s: float
    steady: bool
    times: tuple[float, ...]

    @property
    def step_s(self) -> float:
        """Seconds of a typical step once warm: the median of the steady-state window."""
        return statistics.median(self.window)

    @property
    def window(self) -> Sequence[float]:
        """The steady-state window: seconds of the most recent steps."""
        return _recent(self.times)


def _recent(times: Sequence[float]) -> Sequence[float]:
    """The later half of `times`, but at least MIN_WINDOW and at most MAX_WINDOW of them."""
    size = min(max(MIN_WINDOW, len(times) // 2), MAX_WINDOW)
    return times[-size:]


def _quartiles(times: Sequence[float]) -> tuple[float, float]:
    lower, _, upper = statistics.quantiles(times, n=4, method="inclusive")
    return lower, upper


def _spread(times: Sequence[float]) -> float:
    """Median absolute deviation. scipy.stats has this and the trend below, but takes half a second
    to import, and where times are taken nothing is imported that they do not need."""
    middle = statistics.median(times)
    return statistics.median(abs(t - middle) for t in times)


def trend_z(times: Sequence[float]) -> float:
    """Standard score of the Mann-Kendall trend test: 0 without trend, negative when falling.

    S counts rising minus falling pairs; without trend its variance is n(n-1)(2n+5)/18
    (Mann 1945, Kendall 1975; ties ignored, which only makes the score smaller).
    """
    n = len(times)
    pairs = ((times[i], times[j]) for i in range(n) for j in range(i + 1, n))
    score = sum((late > early) - (late < early) for early, late in pairs)
    return score / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)


def _first_stands_out(window: Sequence[float]) -> bool:
    """Whether the first step is slower than Tukey's upper fence of the ones after it."""
    lower, upper = _quartiles(window[1:])
    return window[0] > upper + max(1.5 * (upper - lower), MAX_FIRST_EXCESS * upper)


def is_steady(times: Sequence[float]) -> bool:
    """Whether the most recent of `times` (seconds, in order) show neither start-up nor trend.

    Splits the recent window into halves, as pyperf's warm-up calibration does, and asks that
    the first step is no outlier, that medians, quartiles and spread of the halves agree, and
    that any remaining shift is negligible or without trend. Thresholds: the constants above.
    """
    if len(times) < MIN_WINDOW:
        return False
    window = _recent(times)
    half = len(window) // 2
    early, late = window[:half], window[half:]
    middle = statistics.median(late)
    shift = abs(statistics.median(early) - middle) / middle
    quartile_shift = max(abs(a - b) / b for a, b in zip(_quartiles(early), _quartiles(late)))
    spread_shift = abs(_spread(early) - _spread(late)) / middle
    return (
        not _first_stands_out(window)
        and shift <= MAX_MEDIAN_SHIFT
        and quartile_shift <= MAX_QUARTILE_SHIFT
        and spread_shift <= MAX_SPREAD_SHIFT
        and (shift <= NEGLIGIBLE_SHIFT or abs(trend_z(window)) <= MAX_TREND_Z)
    )


def warm_up(
    clock: Clock,
    step: Callable[[], object],
    protocol: Protocol,
    meet: Callable[[], object] = lambda: None,
    slowest: Callable[[Sequence[float]], Sequence[float]] = lambda seconds: seconds,
) -> WarmUp:
    """Run `step` until it is steady or `warmup_max_s` is spent, whichever comes first.

    Of a cell that several processes run together each calls this: `meet` returns when all have come
    to it, and `slowest` gives them the same times, so that all end after the same step.
    """
    clock.sync()
    start_s = clock.now()
    times: list[float] = []
    steady, total_s = False, 0.0
    while len(times) < protocol.warmup_min_steps or not (
        steady or total_s >= protocol.warmup_max_s
    ):
        meet()
        taken_s = time_call(clock, step)
        taken_s, total_s = slowest([taken_s, clock.now() - start_s])
        times.append(taken_s)
        steady = is_steady(times)
    return WarmUp(times[0], len(times), total_s, steady, tuple(times))


def samples_per_block(protocol: Protocol, step_s: float) -> int:
    """Samples that fill a block of `block_s` with steps of `step_s` seconds, within the bounds."""
    assert step_s > 0, step_s
    wanted = math.ceil(protocol.block_s / step_s)
    return min(max(wanted, protocol.min_samples), protocol.max_samples)


def run_block(
    clock: Clock, step: Callable[[], object], n: int, meet: Callable[[], object] = lambda: None
) -> list[float]:
    """Seconds of each of `n` consecutive steps, with the garbage collector held still. `meet` is
    called before each, outside of its time."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        times = []
        for _ in range(n):
            meet()
            times.append(time_call(clock, step))
        return times
    finally:
        if was_enabled:
            gc.enable()


def palindromic(arms: Sequence[str], blocks: int) -> list[str]:
    """The arm of each turn, `blocks` turns an arm: A B B A A B B A, or A B C C B A A B C ...

    Every second round runs backwards, so that a drift that is linear in time cancels when
    `blocks` is even: all arms then have the same mean position.
    """
    rounds = (arms if i % 2 == 0 else arms[::-1] for i in range(blocks))
    return [arm for turn in rounds for arm in turn]
