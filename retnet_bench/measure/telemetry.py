"""The machine during one block: clocks, power, temperature, throttling, energy, other users.

Runs in the runner, which waits blocked meanwhile, so that the measured process is not touched. A
thread is started only where there is a GPU to ask.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from retnet_bench.measure import energy, nvml
from retnet_bench.measure.energy import ROOT
from retnet_bench.measure.reading import Reading, Series

SAMPLE_S = 0.1
"""Between samples: the driver renews its own readings every 20 to 100 ms."""
THREAD_END_S = 5.0
"""How long a sampler that hangs in the driver is waited for."""
GAUGES: dict[str, tuple[str, Callable[..., float]]] = {
    "gpu_sm_clock_mhz": ("mhz", nvml.sm_clock_mhz),
    "gpu_memory_clock_mhz": ("mhz", nvml.memory_clock_mhz),
    "gpu_power_w": ("w", nvml.power_w),
    "gpu_temperature_c": ("c", nvml.temperature_c),
    "gpu_throttle_bits": ("bits", nvml.throttle_bits),
}
THROTTLES = {
    0x08: "hardware slowdown",
    0x20: "too hot (software)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}
"""Bits of nvmlClocksEventReasons that make a block impure. The others are recorded only: idle,
clocks set by the user, and the power cap, which a busy card reaches in every block."""
MAX_FOREIGN_BYTES = 1 << 30
"""Most GPU memory of others: a desktop or an idle context takes less, a model more."""
MAX_FOREIGN_PERCENT = 5
"""Most of the GPU that another process may use: a desktop's drawing takes less."""
NO_SAMPLE = f"block over before the first sample, {SAMPLE_S:g} s after its start"
OTHER_NAMES = "NVML lists none of our processes (another process id namespace?)"

Question = Callable[[Any, Any], Any]


class Telemetry:
    """`with Telemetry("cuda", uuid, pids) as t: worker.ask("block")`, then `t.readings()`.

    `uuid`: as `nvml.torch_uuid` gives it in the worker; torch and NVML may number GPUs differently.
    `pids`: the worker processes of this pair, which are not foreign. `gpus`, `machines`: how many
    work on the block, of which these are the first. One block, one object.
    """

    def __init__(
        self,
        device: str,
        uuid: str | None = None,
        pids: Iterable[int] = (),
        *,
        now: Callable[[], float] = time.monotonic,
        sample_s: float = SAMPLE_S,
        root: Path = ROOT,
        gpus: int = 1,
        machines: int = 1,
    ) -> None:
        self.on_gpu, self.gpus, self.machines = device.startswith("cuda"), gpus, machines
        self.pids = frozenset(pids)
        self._now, self._sample_s, self._root = now, sample_s, root
        self._uuid = uuid or ""
        self._why_not = self._gpu_trouble(uuid)
        self._thread: threading.Thread | None = None
        self._samples: dict[str, list[tuple[float, Reading]]] = {name: [] for name in GAUGES}
        self._processes: list[Reading[dict[int, int | None]]] = []

    def _gpu_trouble(self, uuid: str | None) -> str | None:
        if not self.on_gpu:
            return "device is cpu"
        return nvml.keep_open() if uuid else "the UUID of torch's device is unknown"

    def _ask(self, question: Question) -> Reading:
        if self._why_not is not None:
            return Reading.missing(self._why_not)
        return nvml.ask_gpu(self._uuid, question)

    def __enter__(self) -> Telemetry:
        self._since_us = int(time.time() * 1e6)
        if self._why_not is None:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)
            self._thread.start()
        self._rapl = energy.rapl(self._root)
        self._joules = self._ask(nvml.energy_j)
        self._start_s = self._now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_s = self._now()
        self._joules_after = self._ask(nvml.energy_j)
        self._rapl_after = energy.rapl(self._root)
        if self._thread is not None:
            self._stop.set()
            self._thread.join(THREAD_END_S)
        self._use = self._ask(partial(nvml.utilisation, since_us=self._since_us))

    def _sample(self) -> None:
        """The thread: nothing at the very start, when the GPU is still idle."""
        while not self._stop.wait(self._sample_s):
            for name, (_, question) in GAUGES.items():
                self._samples[name].append((self._now(), self._ask(question)))
            self._processes.append(self._ask(nvml.processes))

    def readings(self) -> list[Series]:
        """Everything known of the block; a metric without values has a reason."""
        gpu = [*self._gauges(), self._foreign(), *self._gpu_energy()] if self.on_gpu else []
        window_s = self._end_s - self._start_s
        joules = energy.cpu_energy_j(self._rapl, self._rapl_after, window_s)
        if self.machines > 1:
            words = f"{self.machines} machines worked on it, of which one is watched"
            joules = Reading.missing(words)
        found = [*gpu, Series.of("cpu_energy_j", "j", joules)]
        if any(one.unit == "j" and one.values for one in found):
            found.append(Series("energy_window_s", "s", (window_s,)))
        return found

    def _gauges(self) -> list[Series]:
        return [_series(name, unit, self._of(name)) for name, (unit, _) in GAUGES.items()]

    def _of(self, name: str) -> list[Reading]:
        return [reading for _, reading in self._samples[name]] or [self._nothing()]

    def _nothing(self) -> Reading:
        return Reading.missing(self._why_not or NO_SAMPLE)

    def _foreign(self) -> Series:
        taken = [_others(found, self.pids) for found in self._processes]
        return _series("gpu_foreign_bytes", "bytes", taken or [self._nothing()])

    def _gpu_energy(self) -> list[Series]:
        """The counter's energy; without a counter, a second metric that says it was integrated.
        Of one GPU among several it would be no energy of the block."""
        if self.gpus > 1:
            reason = f"{self.gpus} GPUs worked on it, of which one is watched"
            return [Series("gpu_energy_j", "j", (), reason)]
        window_s = self._end_s - self._start_s
        counted = energy.counted_j(self._joules, self._joules_after, window_s)
        found = [Series.of("gpu_energy_j", "j", counted)]
        power = [(at, r.value) for at, r in self._samples["gpu_power_w"] if r.value is not None]
        if counted.value is None and power:
            times, watts = zip(*power)
            joules = energy.integrated_j(times, watts, self._start_s, self._end_s)
            found.append(Series.of("gpu_integrated_energy_j", "j", joules))
        return found

    def judge(self) -> str | None:
        """Why the block is not pure, as far as the GPU tells; None if it is."""
        return "; ".join([*self._throttled(), *self._shared()]) or None

    def _throttled(self) -> list[str]:
        bits = 0
        for reading in self._of("gpu_throttle_bits"):
            bits |= reading.value or 0
        found = [words for bit, words in THROTTLES.items() if bits & bit]
        return [f"GPU throttled: {', '.join(found)} (bits {bits:#x})"] if found else []

    def _shared(self) -> list[str]:
        found = []
        most = max(self._foreign().values, default=0.0)
        if most > MAX_FOREIGN_BYTES:
            limit = MAX_FOREIGN_BYTES / 1e9
            found.append(f"others held {most / 1e9:.2f} GB of the GPU (limit {limit:.2f})")
        use = self._use.value or {}
        # where our own processes are not in the list, it is in other names, and tells nothing
        others = [use[pid] for pid in use if pid not in self.pids] if self.pids & use.keys() else []
        if max(others, default=0) > MAX_FOREIGN_PERCENT:
            found.append(f"others used {max(others)} % of the GPU (limit {MAX_FOREIGN_PERCENT} %)")
        return found


def _others(found: Reading[dict[int, int | None]], own: frozenset[int]) -> Reading[int]:
    """Bytes of processes that are not `own`. In a container the driver may list ids of the host,
    or none at all: then ours are not among them, and nothing is known of others."""
    if found.value is None:
        return Reading.missing(found.reason or "")
    if not own & found.value.keys():
        return Reading.missing(OTHER_NAMES)
    sizes = [size for pid, size in found.value.items() if pid not in own]
    if any(size is None for size in sizes):
        return Reading.missing("the driver does not tell the memory of single processes")
    return Reading(sum(size for size in sizes if size is not None))


def _series(metric: str, unit: str, found: list[Reading]) -> Series:
    """The samples that have a value; the first reason when none has."""
    values = tuple(float(reading.value) for reading in found if reading.value is not None)
    return Series(metric, unit, values, None if values else found[0].reason)
