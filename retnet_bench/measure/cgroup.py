"""What the control groups (v1 and v2) of this process allow it.

A limit of None means that no limit could be found. `root` is for tests.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")
UNLIMITED_BYTES = 1 << 60  # v1 writes "no limit" as a number near 2^63


def _text(path: Path) -> str | None:
    """The file's text; None when it is not there or may not be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _folders(controller: str, root: Path) -> list[Path]:
    """This process's group for `controller` and all groups around it, innermost first.

    A v1 hierarchy that carries the controller goes before the v2 one (hybrid set-ups).
    """
    found: dict[str, list[Path]] = {}
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / (controller if controllers else "")
            inner = Path(group.lstrip("/"))
            found["v1" if controllers else "v2"] = [base / f for f in (inner, *inner.parents)]
    return found.get("v1") or found.get("v2") or []


def _bytes(folder: Path, *names: str) -> int | None:
    """The number in the first file of `names` that holds one."""
    texts = (_text(folder / name) for name in names)
    return next((int(text) for text in texts if text and text.isdigit()), None)


def _limit(folder: Path) -> int | None:
    limit = _bytes(folder, "memory.max", "memory.limit_in_bytes")
    return limit if limit is not None and limit < UNLIMITED_BYTES else None


def _used(folder: Path) -> int:
    """Bytes in use that the kernel could not reclaim at once (file cache not counted)."""
    used = _bytes(folder, "memory.current", "memory.usage_in_bytes") or 0
    stat = dict(line.split() for line in (_text(folder / "memory.stat") or "").splitlines())
    cache = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
    return max(used - int(cache), 0)


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """The tightest memory limit on this process."""
    limits = (_limit(folder) for folder in _folders("memory", root))
    return min((limit for limit in limits if limit is not None), default=None)


def memory_headroom_bytes(root: Path = ROOT) -> int | None:
    """Bytes left below the tightest limit; limits of outer groups count their whole use."""
    folders = [(folder, _limit(folder)) for folder in _folders("memory", root)]
    left = (limit - _used(folder) for folder, limit in folders if limit is not None)
    return max(min(left), 0) if any(limit is not None for _, limit in folders) else None


def oom_kills(root: Path = ROOT) -> int | None:
    """How many processes the kernel has killed for want of memory so far: in this process's group,
    or on the whole machine where no group counts them."""
    groups = _folders("memory", root)[:1]
    counters = [
        group / name for group in groups for name in ("memory.events", "memory.oom_control")
    ]
    for path in (*counters, root / "proc/vmstat"):
        found = dict(line.split() for line in (_text(path) or "").splitlines())
        if "oom_kill" in found:
            return int(found["oom_kill"])
    return None


def _cpus(folder: Path) -> float | None:
    both = _text(folder / "cpu.max")
    quota, period = both.split() if both else ("max", "0")
    quota = _text(folder / "cpu.cfs_quota_us") or quota
    period = _text(folder / "cpu.cfs_period_us") or period
    return int(quota) / int(period) if quota.isdigit() else None


def cpu_limit(root: Path = ROOT) -> float | None:
    """Processors' worth of time this process may use (2.0: two cores)."""
    limits = (_cpus(folder) for folder in _folders("cpu", root))
    return min((limit for limit in limits if limit is not None), default=None)
