"""The processor cores this process may use: which they are, keeping to them, who else is on them.

Linux tells all of it under /proc and /sys; elsewhere each answer is a reason. `root` is for tests.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

from retnet_bench.measure.reading import Reading

ROOT = Path("/")
BUSY_FIELDS = (1, 2, 3, 6, 7, 8)
"""user, nice, system, irq, softirq, steal in a `cpuN` line of /proc/stat (proc_stat(5)); guest time
is part of user. What is left out is idle and waiting for storage."""


def allowed() -> Reading[list[int]]:
    """Logical processors the scheduler may put this process on."""
    if not hasattr(os, "sched_getaffinity"):
        return Reading.missing(f"no affinity on {sys.platform}")
    return Reading(sorted(os.sched_getaffinity(0)))


def _text(path: Path) -> str | None:
    """The stripped text of a small system file; None when it can't be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _topology(core: int, root: Path) -> str:
    """Text that hyper-threads of one physical core share; where it can't be told, its own."""
    text = _text(root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    return str(core) if text is None else text


def choose(cores: list[int], threads: int, root: Path = ROOT) -> list[int]:
    """`threads` of `cores`: one of each physical core first, second hyper-threads only after."""
    seen: dict[str, int] = {}
    rank = {}
    for core in cores:
        place = _topology(core, root)
        rank[core] = seen[place] = seen.get(place, -1) + 1
    return sorted(sorted(cores, key=lambda core: (rank[core], core))[:threads])


def pin(threads: int, root: Path = ROOT, place: int = 0) -> Reading[list[int]]:
    """Keep this process, with the threads it has and will have, to `threads` cores.

    `place`: of several such processes side by side, which this is; each has cores of its own.
    Returns the cores. Where it can't be done nothing is changed, and the reading says why.
    """
    cores = allowed()
    if cores.value is None:
        return cores
    wanted = (place + 1) * threads
    if wanted > len(cores.value):
        return Reading.missing(f"{wanted} threads on {len(cores.value)} allowed cores: not pinned")
    earlier = choose(cores.value, place * threads, root)
    chosen = sorted({*choose(cores.value, wanted, root)}.difference(earlier))
    try:
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), chosen)
    except OSError as error:
        return Reading.missing(f"sched_setaffinity: {error.strerror}")
    return Reading(chosen)


def busy_s(cores: list[int], root: Path = ROOT) -> Reading[float]:
    """Seconds since boot that `cores` were not idle, whoever used them, the hypervisor included.

    Counted in ticks: 10 ms a core on most kernels.
    """
    try:
        lines = (root / "proc/stat").read_text().splitlines()
    except OSError as error:
        return Reading.missing(f"/proc/stat: {error.strerror}")
    names = {f"cpu{core}" for core in cores}
    counts = [fields for fields in map(str.split, lines) if fields and fields[0] in names]
    if len(counts) != len(names):
        return Reading.missing(f"/proc/stat has {len(counts)} of {len(names)} cores")
    ticks = sum(int(fields[i]) for fields in counts for i in BUSY_FIELDS)
    return Reading(ticks / os.sysconf("SC_CLK_TCK"))


def waited_s(root: Path = ROOT) -> Reading[float]:
    """Seconds that this process's living threads were ready to run and had no core.

    Second number of /proc/self/task/*/schedstat (sched-stats.rst), in nanoseconds.
    """
    found = [_text(file) for file in (root / "proc/self/task").glob("*/schedstat")]
    texts = [text for text in found if text is not None]  # a thread may end while we look
    if not texts:
        return Reading.missing("no /proc/self/task/*/schedstat")
    return Reading(sum(int(text.split()[1]) for text in texts) * 1e-9)


def frequency_mhz(cores: list[int], root: Path = ROOT) -> Reading[float]:
    """Mean clock rate of `cores` now. The rate in /proc/cpuinfo is a virtual machine's nameplate,
    so that only cpufreq counts."""
    files = [root / f"sys/devices/system/cpu/cpu{c}/cpufreq/scaling_cur_freq" for c in cores]
    try:
        return Reading(statistics.mean(int(file.read_text()) for file in files) / 1000)
    except FileNotFoundError:
        return Reading.missing("no cpufreq under /sys/devices/system/cpu (a virtual machine?)")
    except OSError as error:
        return Reading.missing(f"scaling_cur_freq: {error.strerror}")
