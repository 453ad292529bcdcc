"""What else happened while a block was timed: counters before and after, and what they mean.

Taken in the measured process, outside its timed steps. Nothing is imported to be counted: what
was never loaded has not run. A block in which something happened keeps its samples, and its
status becomes `impure` with the line that `judge` writes.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from retnet_bench.measure import cores
from retnet_bench.measure.clock import Clock, time_call
from retnet_bench.measure.cores import ROOT
from retnet_bench.measure.reading import Reading, Series

MAX_FOREIGN_SHARE = 0.10
"""Most of the allowed cores' time that others may use: an idle virtual machine's services take
1 to 2 %, one busy neighbour on two cores 50 %."""
MIN_FOREIGN_S = 0.05
"""Less foreign time than this is not seen: the kernel counts it in ticks of 10 ms on each core."""
MAX_WAIT_SHARE = 0.05
"""Most of its time that a thread may wait for a core. On a two-core virtual machine 0.1 % with a
core to itself, 29 to 93 % with a competitor, where steps took 1.5 to 2.3 times as long."""
MAX_SWITCHES_PER_S = 1000.0
"""Most involuntary context switches of one thread: with time slices of 3 ms or longer a fair
competitor makes 300 (20 to 290 seen here, loaded or not), so that this is a storm of wake-ups."""
MAX_MINOR_FAULTS_PER_S = 200_000.0
"""Most page faults without storage: torch's own allocations make 5,000 to 20,000 in a training
step on the CPU. At about 0.5 us each, ten times that is a tenth of the block."""
MIN_CLOCK_COSTS = 100.0
"""Least length of a step in reads of the clock: the clock's own cost then stays within 1 %."""
CLOCK_READS = 101
"""Empty calls that tell the clock's cost; their median is not moved by an interrupt."""

_COUNT = "_retnet_bench_count"
_TUNING = re.compile("benchmark|autotune|tuning")
_COUNTED = {  # what counts up when a kernel is tuned or made anew; module, class, method
    "triton_autotunes": ("triton.runtime.autotuner", "Autotuner", "_bench"),
    "triton_kernels": ("triton.compiler.compiler", "CompiledKernel", "__init__"),
    "inductor_autotunes": (
        "torch._inductor.runtime.triton_heuristics",
        "CachingAutotuner",
        "benchmark_all_configs",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Everything counted so far, at one moment. None: not counted on this machine."""

    at_s: float = 0.0
    own_s: float = 0.0
    """Processor time of this process, all its threads."""
    n_cores: int | None = None
    """Cores this process may use."""
    threads: int = 1
    """Intra-op threads: how many could wait for a core at once."""
    busy_s: float | None = None
    waited_s: float | None = None
    frequency_mhz: float | None = None
    frames_compiled: int | None = None
    inductor_benchmarks: int | None = None
    triton_autotunes: int | None = None
    triton_kernels: int | None = None
    inductor_autotunes: int | None = None
    allocator_retries: int | None = None
    device_mallocs: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    involuntary_switches: int | None = None
    unknown: tuple[tuple[str, str], ...] = ()
    """(field, reason) of what this machine can't count."""


def snapshot(device: torch.device | str, root: Path = ROOT) -> Counters:
    """Read every counter now. Initialises nothing: the CUDA allocator is asked only once it works.

    Call it right before and right after the block, in the process that runs it.
    """
    found: dict[str, Any] = {
        **_compilers(),
        **_allocator(torch.device(device)),
        **_usage(),
        **_cores(root),
    }
    known = {k: v.value if isinstance(v, Reading) else v for k, v in found.items()}
    unknown = tuple((k, v.reason) for k, v in found.items() if isinstance(v, Reading) and v.reason)
    return Counters(
        at_s=time.perf_counter(),
        own_s=time.process_time(),
        threads=torch.get_num_threads(),
        unknown=unknown,
        **known,
    )


def _compilers() -> dict[str, int | None]:
    """Frames dynamo compiled, recompiles too; inductor's benchmarks; kernels tuned or made."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    counters = dynamo.counters if dynamo is not None else {}
    inductor = counters.get("inductor", {})
    benchmarks = (v for k, v in inductor.items() if _TUNING.search(k))
    return {
        "frames_compiled": counters.get("frames", {}).get("total", 0),
        "inductor_benchmarks": sum(benchmarks),
        **{name: _calls(*place) for name, place in _COUNTED.items()},
    }


def _calls(module: str, owner: str, method: str) -> int:
    """Calls of a method since it was first asked about; 0 while its module is not loaded."""
    kind = getattr(sys.modules.get(module), owner, None)
    if kind is None or not hasattr(kind, method):
        return 0
    if not hasattr(getattr(kind, method), _COUNT):
        setattr(kind, method, _counting(getattr(kind, method)))
    return getattr(getattr(kind, method), _COUNT)[0]


def _counting(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with its calls counted in an attribute of the answer."""
    count = [0]

    @wraps(function)
    def counted(*arguments: Any, **named: Any) -> Any:
        count[0] += 1
        return function(*arguments, **named)

    setattr(counted, _COUNT, count)
    return counted


def _allocator(device: torch.device) -> dict[str, int]:
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return {}
    stats = torch.cuda.memory_stats(device)
    return {
        "allocator_retries": stats.get("num_alloc_retries", 0),
        "device_mallocs": stats.get("num_device_alloc", 0),
    }


def _usage() -> dict[str, Any]:
    """Page faults and context switches of all threads, getrusage(2)."""
    names = ("major_faults", "minor_faults", "involuntary_switches")
    try:
        import resource
    except ImportError:
        return dict.fromkeys(names, Reading.missing(f"no getrusage on {sys.platform}"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found: dict[str, Any] = dict(zip(names, (usage.ru_majflt, usage.ru_minflt, usage.ru_nivcsw)))
    if not usage.ru_minflt:  # starting Python alone makes thousands
        found |= dict.fromkeys(names[:2], Reading.missing("this kernel counts no page faults"))
    return found


def _cores(root: Path) -> dict[str, Any]:
    own_cores = cores.allowed()
    if own_cores.value is None:
        return dict.fromkeys(("n_cores", "busy_s", "waited_s", "frequency_mhz"), own_cores)
    return {
        "frequency_mhz": cores.frequency_mhz(own_cores.value, root),  # first: the cores cool down
        "n_cores": len(own_cores.value),
        "busy_s": cores.busy_s(own_cores.value, root),
        "waited_s": cores.waited_s(root),
    }


@dataclass(frozen=True)
class CounterChange:
    """What was counted between two snapshots of one process."""

    before: Counters
    after: Counters

    @property
    def wall_s(self) -> float:
        return self.after.at_s - self.before.at_s

    def increase(self, field: str) -> float | None:
        """How far a counter went up; None when either end is unknown."""
        early, late = getattr(self.before, field), getattr(self.after, field)
        return None if early is None or late is None else late - early

    def foreign_s(self) -> float | None:
        """Core seconds that other processes and the hypervisor took of the allowed cores."""
        busy = self.increase("busy_s")
        return None if busy is None else max(0.0, busy - (self.after.own_s - self.before.own_s))

    def foreign_share(self) -> float | None:
        """`foreign_s` over all that the cores had to give."""
        taken = self.foreign_s()
        return None if taken is None else taken / (self.wall_s * (self.after.n_cores or 1))

    def wait_share(self) -> float | None:
        """Part of their time that the threads, were they always ready, stood in line for a core.

        Threads that ended in the block took their waiting with them, hence no less than 0.
        """
        waited = self.increase("waited_s")
        if waited is None:
            return None
        return max(0.0, waited) / (self.wall_s * max(1, self.after.threads))


def judge(
    before: Counters,
    after: Counters,
    *,
    steps_s: Sequence[float] = (),
    clock_cost_s: float = 0.0,
) -> str | None:
    """Why the block between two snapshots is not pure, in one line with numbers; None if it is.

    `steps_s`: the samples, where they are times of steps; `clock_cost_s`: of `clock_cost`. What
    this machine can't count is not held against the block: `after.unknown` says what that is.
    """
    block = CounterChange(before, after)
    reasons = [*_machinery(block), *_storms(block), *_company(block)]
    reasons += _too_short(steps_s, clock_cost_s)
    return "; ".join(reasons) or None


def _machinery(block: CounterChange) -> list[str]:
    """What must not happen even once."""
    words = {
        "frames_compiled": "frames compiled",
        "inductor_benchmarks": "kernel benchmarks by inductor",
        "inductor_autotunes": "autotunes by inductor",
        "triton_autotunes": "configurations tried by Triton's autotuner",
        "triton_kernels": "Triton kernels made",
        "allocator_retries": "allocator retries",
        "device_mallocs": "device mallocs",
        "major_faults": "page faults from storage",
    }
    increase = ((text, block.increase(field)) for field, text in words.items())
    return [f"{text}: {int(count)}" for text, count in increase if count and count > 0]


def _storms(block: CounterChange) -> list[str]:
    """What happens a little in any block, and disturbs when it is much."""
    found = []
    for field, limit, words in (
        ("minor_faults", MAX_MINOR_FAULTS_PER_S, "page faults"),
        ("involuntary_switches", MAX_SWITCHES_PER_S * block.after.threads, "involuntary switches"),
    ):
        rate = (block.increase(field) or 0) / block.wall_s
        if rate > limit:
            found.append(f"{rate:,.0f} {words}/s (limit {limit:,.0f})")
    return found


def _company(block: CounterChange) -> list[str]:
    """Others on the cores: how much of these they took, and how long they made us wait."""
    taken, share, waited = block.foreign_s(), block.foreign_share(), block.wait_share()
    found = []
    if taken is not None and taken > MIN_FOREIGN_S and (share or 0) > MAX_FOREIGN_SHARE:
        cores_word = f"{block.after.n_cores} allowed core(s)"
        found.append(f"others used {share:.0%} of the {cores_word} (limit {MAX_FOREIGN_SHARE:.0%})")
    if waited is not None and waited > MAX_WAIT_SHARE:
        found.append(
            f"threads waited for a core {waited:.0%} of the time (limit {MAX_WAIT_SHARE:.0%})"
        )
    return found


def _too_short(steps_s: Sequence[float], clock_cost_s: float) -> list[str]:
    if not steps_s or clock_cost_s <= 0:
        return []
    step_s = statistics.median(steps_s)
    if step_s >= MIN_CLOCK_COSTS * clock_cost_s:
        return []
    times = f"{step_s / clock_cost_s:.3g} times the clock's own cost"
    return [f"a step of {step_s * 1e6:.3g} us is only {times} (at least {MIN_CLOCK_COSTS:g})"]


def clock_cost_s(clock: Clock) -> float:
    """Seconds that `time_call` reports for nothing at all; once a process is enough."""
    return statistics.median(time_call(clock, lambda: None) for _ in range(CLOCK_READS))


def readings(before: Counters, after: Counters) -> list[Series]:
    """What the block's counters say that is worth keeping, for pure blocks too."""
    block = CounterChange(before, after)
    why = dict((*before.unknown, *after.unknown))
    found: tuple[tuple[str, str, float | None, str], ...] = (
        ("foreign_cpu_share", "relative", block.foreign_share(), "busy_s"),
        ("cpu_wait_share", "relative", block.wait_share(), "waited_s"),
        ("cpu_frequency_mhz", "mhz", after.frequency_mhz, "frequency_mhz"),
    )
    return [
        Series.of(
            metric, unit, Reading(value) if value is not None else Reading.missing(why[field])
        )
        for metric, unit, value, field in found
    ]
