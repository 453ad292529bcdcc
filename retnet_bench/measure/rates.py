"""What this machine does in a second: measured once, kept with the machine's fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from retnet_bench.data import cache
from retnet_bench.measure import environment
from retnet_bench.measure.clock import Clock, WallClock, time_call
from retnet_bench.measure.devices import Rates
from retnet_bench.models.agreement import DTYPES

REPEATS = 5
CALLS = 200
"""Small operator calls whose mean is the overhead of one."""
COPY_ELEMENTS = 2**24
SIZES = {"cpu": 512, "cuda": 4096}
"""Width of the square matrices multiplied."""


def measure(device: str, dtypes: Iterable[str] = DTYPES, clock: Clock | None = None) -> Rates:
    """Best of five: a matmul in each dtype, a copy and a triad, and the mean of small calls.

    Seconds: one or two on a CPU; a dtype that the processor emulates takes longer.
    """
    clock = clock or WallClock(device)
    kind = torch.device(device).type
    name = environment.machine_name(environment.capture(device))
    return Rates(
        name=name,
        flops_per_s={
            dtype: _matmul(clock, device, SIZES.get(kind, 4096), dtype) for dtype in dtypes
        },
        bytes_per_s=max(_copy(clock, device), _triad(clock, device)),
        launch_s=_launch(clock, device),
        memory_bytes=None,
        source="measured on this machine",
        threads=torch.get_num_threads() if kind == "cpu" else None,
    )


def _best_s(clock: Clock, fn: Callable[[], object]) -> float:
    fn()
    return min(time_call(clock, fn) for _ in range(REPEATS))


def _matmul(clock: Clock, device: str, n: int, dtype: str) -> float:
    a, out = (torch.ones(n, n, device=device, dtype=DTYPES[dtype]) for _ in range(2))
    return 2 * n**3 / _best_s(clock, lambda: torch.mm(a, a, out=out))


def _copy(clock: Clock, device: str) -> float:
    a, b = (torch.ones(COPY_ELEMENTS, device=device) for _ in range(2))
    return 2 * a.nbytes / _best_s(clock, lambda: b.copy_(a))


def _triad(clock: Clock, device: str) -> float:
    a, b, c = (torch.ones(COPY_ELEMENTS, device=device) for _ in range(3))
    return 3 * a.nbytes / _best_s(clock, lambda: torch.add(b, c, alpha=2.0, out=a))


def _launch(clock: Clock, device: str) -> float:
    x = torch.zeros(1, device=device)

    def calls() -> None:
        for _ in range(CALLS):
            x.add_(1.0)

    return _best_s(clock, calls) / CALLS


def path(device: str) -> Path:
    """Where this machine's rates are kept."""
    fingerprint = environment.fingerprint(environment.capture(device))
    return cache.cache_folder() / f"rates-{fingerprint}.json"


def keep(device: str, found: Rates) -> Path:
    """Keep the best of these and of those kept before, for a rate taken in a busy moment is none;
    written whole or not at all. Returns the file."""
    earlier = kept(device)
    rates = found if earlier is None else _best(found, earlier)
    target = path(device)
    cache.replace(target, json.dumps(asdict(rates), indent=1).encode())
    return target


def _best(a: Rates, b: Rates) -> Rates:
    flops = {
        dtype: max(a.flops_per_s.get(dtype) or 0.0, b.flops_per_s.get(dtype) or 0.0) or None
        for dtype in {**b.flops_per_s, **a.flops_per_s}
    }
    bandwidth = max(a.bytes_per_s or 0.0, b.bytes_per_s or 0.0) or None
    calls = [s for s in (a.launch_s, b.launch_s) if s is not None]
    launch_s = min(calls, default=None)
    return replace(a, flops_per_s=flops, bytes_per_s=bandwidth, launch_s=launch_s)


def kept(device: str) -> Rates | None:
    """What `keep` wrote on this machine with these threads and this torch, or None."""
    try:
        return Rates(**json.loads(path(device).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
