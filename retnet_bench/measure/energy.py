"""Joules over a window, of GPUs (NVML) and processors (RAPL): by counters where there are any, from
power where not.

Under MIN_WINDOW_S nothing is said: the GPU's counter moves in steps of up to 0.1 s, and
short windows read 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from retnet_bench.measure.reading import Reading

ROOT = Path("/")
MIN_WINDOW_S = 2.0
"""Shortest window whose energy is told: one step of the counter is then 5 % at most."""
SHORT = f"window under {MIN_WINDOW_S:g} s: the counters are too coarse"
MAX_PACKAGE_W = 1000.0
"""More than any processor package draws: tells how often a counter may have wrapped."""


@dataclass(frozen=True)
class Rapl:
    """One processor package's energy counter, which starts again at 0 after `range_uj`."""

    energy_uj: int
    range_uj: int


def rapl(root: Path = ROOT) -> Reading[dict[str, Rapl]]:
    """The counters of all packages, by their folder (powercap, power/powercap/powercap.rst).

    Sub-domains (cores, uncore) are part of their package; "psys" would count it twice.
    """
    folders = sorted((root / "sys/class/powercap").glob("*rapl:*"))
    try:
        packages = [f for f in folders if (f / "name").read_text().startswith("package")]
        counters = {f.name: Rapl(*map(_number, _files(f))) for f in packages}
    except OSError as error:
        return Reading.missing(f"RAPL: {error.filename}: {error.strerror}")
    return Reading(counters) if counters else Reading.missing("no RAPL under /sys/class/powercap")


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "energy_uj", folder / "max_energy_range_uj"


def _number(file: Path) -> int:
    return int(file.read_text())


def cpu_energy_j(
    before: Reading[dict[str, Rapl]], after: Reading[dict[str, Rapl]], window_s: float
) -> Reading[float]:
    """Joules of all packages between two readings `window_s` apart, of everyone on the machine."""
    if before.value is None or after.value is None:
        return Reading.missing(before.reason or after.reason or "")
    if window_s < MIN_WINDOW_S:
        return Reading.missing(SHORT)
    if any(window_s * MAX_PACKAGE_W * 1e6 > c.range_uj for c in before.value.values()):
        return Reading.missing("window so long that the RAPL counter may have wrapped twice")
    spent = ((after.value[k].energy_uj - c.energy_uj) % c.range_uj for k, c in before.value.items())
    return Reading(sum(spent) * 1e-6)


def counted_j(before: Reading[float], after: Reading[float], window_s: float) -> Reading[float]:
    """Joules between two readings of a counter that does not wrap, such as the GPU's."""
    if before.value is None or after.value is None:
        return Reading.missing(before.reason or after.reason or "")
    if window_s < MIN_WINDOW_S:
        return Reading.missing(SHORT)
    if after.value <= before.value:
        return Reading.missing("the energy counter did not move")
    return Reading(after.value - before.value)


def integrated_j(
    times_s: Sequence[float], power_w: Sequence[float], start_s: float, end_s: float
) -> Reading[float]:
    """Joules from samples of power: trapezoids between them, the outer ones held to the ends."""
    if end_s - start_s < MIN_WINDOW_S:
        return Reading.missing(SHORT)
    if len(times_s) < 2:
        return Reading.missing("fewer than two samples of power")
    times = [start_s, *times_s, end_s]
    power = [power_w[0], *power_w, power_w[-1]]
    widths = (late - early for early, late in pairwise(times))
    means = ((a + b) / 2 for a, b in pairwise(power))
    return Reading(sum(width * mean for width, mean in zip(widths, means)))
