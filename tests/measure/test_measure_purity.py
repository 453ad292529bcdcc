"""A disturbed block must be told from a quiet one, and a quiet one must stay pure."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from fakes.clock import FakeClock
from fakes.cuda import FakeCuda
from fakes.machine import FakeMachine

from retnet_bench.measure import purity
from retnet_bench.measure.purity import Counters, judge, readings, snapshot
from retnet_bench.measure.reading import Series, unreported

START = Counters(
    at_s=100.0,
    own_s=50.0,
    n_cores=2,
    threads=1,
    busy_s=500.0,
    waited_s=1.0,
    frames_compiled=4,
    inductor_benchmarks=0,
    triton_autotunes=12,
    triton_kernels=3,
    inductor_autotunes=0,
    allocator_retries=0,
    device_mallocs=40,
    major_faults=7,
    minor_faults=90_000,
    involuntary_switches=1_000,
)


def after(seconds: float = 0.5, **grown: float) -> Counters:
    """The counters of one thread that ran alone for `seconds`, and what else went up."""
    quiet = {
        "at_s": seconds,
        "own_s": seconds,
        "busy_s": seconds + 0.02,  # two ticks of services
        "waited_s": 0.001 * seconds,
        "minor_faults": int(20_000 * seconds),  # training allocates
        "involuntary_switches": int(290 * seconds),
    }
    added = quiet | {field: quiet.get(field, 0) + value for field, value in grown.items()}
    return replace(START, **{f: getattr(START, f) + value for f, value in added.items()})


def test_a_quiet_block_is_pure():
    assert judge(START, after()) is None
    assert judge(START, after(30.0)) is None


@pytest.mark.parametrize(
    ("grown", "reason"),
    [
        ({"frames_compiled": 1}, "frames compiled: 1"),
        ({"inductor_benchmarks": 6}, "kernel benchmarks by inductor: 6"),
        ({"inductor_autotunes": 2}, "autotunes by inductor: 2"),
        ({"triton_autotunes": 8}, "configurations tried by Triton's autotuner: 8"),
        ({"triton_kernels": 1}, "Triton kernels made: 1"),
        ({"allocator_retries": 1}, "allocator retries: 1"),
        ({"device_mallocs": 2}, "device mallocs: 2"),
        ({"major_faults": 3}, "page faults from storage: 3"),
    ],
)
def test_what_must_not_happen_even_once(grown, reason):
    """Pain 6 (autotune in mid-run), pain 7 (a recompile on the second run), D8."""
    assert judge(START, after(**grown)) == reason


def test_storms():
    faults = judge(START, after(minor_faults=200_000))
    assert faults == "420,000 page faults/s (limit 200,000)"
    switches = judge(START, after(involuntary_switches=1_000))
    assert switches == "2,290 involuntary switches/s (limit 1,000)"


def test_load_by_others_is_told_by_its_share():
    """D6: a launcher that spins on the other core during the measurement."""
    assert (
        judge(START, after(busy_s=0.48)) == "others used 50% of the 2 allowed core(s) (limit 10%)"
    )
    assert judge(START, after(1.0, busy_s=0.1)) is None
    assert judge(START, after(0.05, busy_s=0.02)) is None  # a few ticks are no measurement


def test_waiting_for_a_core():
    reason = judge(START, after(waited_s=0.15))
    assert reason == "threads waited for a core 30% of the time (limit 5%)"
    assert judge(replace(START, threads=8), replace(after(waited_s=0.15), threads=8)) is None


def test_several_reasons_stand_in_one_line():
    both = judge(START, after(frames_compiled=1, major_faults=1))
    assert both == "frames compiled: 1; page faults from storage: 1"


def test_a_step_too_short_for_the_clock():
    short = judge(START, after(), steps_s=[5e-6, 4e-6, 900e-6], clock_cost_s=1e-6)
    assert short == "a step of 5 us is only 5 times the clock's own cost (at least 100)"
    assert judge(START, after(), steps_s=[1e-4], clock_cost_s=1e-6) is None


def test_the_clock_s_cost_is_that_of_an_empty_step():
    class SlowClock(FakeClock):
        def now(self) -> float:
            self.idle(2e-6)
            return super().now()

    assert purity.clock_cost_s(SlowClock()) == pytest.approx(2e-6)


def test_what_can_t_be_counted_is_not_held_against_the_block_and_has_a_reason():
    unknown = Counters(at_s=0.0, unknown=(("busy_s", "no /proc"), ("waited_s", "no /proc")))
    late = replace(unknown, at_s=1.0, own_s=1.0, unknown=(*unknown.unknown, ("frequency_mhz", "?")))
    assert judge(unknown, late) is None
    assert [(s.values, s.reason) for s in readings(unknown, late)] == [
        ((), "no /proc"),
        ((), "no /proc"),
        ((), "?"),
    ]


def test_readings_of_a_block():
    late = replace(after(1.0, busy_s=0.48, waited_s=0.019), frequency_mhz=2500.0)
    found = {series.metric: series.values for series in readings(START, late)}
    assert found["foreign_cpu_share"] == pytest.approx((0.25,))
    assert found["cpu_wait_share"] == pytest.approx((0.02,))
    assert found["cpu_frequency_mhz"] == (2500.0,)


def test_threads_that_ended_make_no_negative_waiting():
    late = replace(after(), waited_s=0.2, frequency_mhz=1.0)
    assert readings(START, late)[1].values == (0.0,)


def test_a_reason_is_told_once():
    reported: set = set()
    lost, value = Series("a_s", "s", (), "no counter"), Series("b_s", "s", (1.0,))
    assert unreported([lost, value], reported) == [lost, value]
    assert unreported([lost, value], reported) == [value]
    assert unreported([Series("a_s", "s", (), "another")], reported)[0].reason == "another"


def test_snapshot_reads_the_machine(tmp_path, monkeypatch):
    machine = FakeMachine(tmp_path)
    monkeypatch.setattr(purity.cores, "allowed", lambda: purity.Reading([0, 1]))
    machine.use(user=3.0, steal=1.0)
    machine.threads(0.25)
    machine.clock(2_000_000, 3_000_000)
    found = snapshot("cpu", tmp_path)
    assert (found.n_cores, found.busy_s, found.waited_s) == (2, 8.0, 0.25)
    assert found.frequency_mhz == 2500.0
    assert found.unknown == ()
    assert found.device_mallocs is None


def touch_new_pages(count: int) -> None:
    """Memory that no allocator had before, in small pages, each written to: so many faults."""
    size = mmap.PAGESIZE
    with mmap.mmap(-1, count * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
        with suppress(OSError, AttributeError):  # a kernel without huge pages knows no such advice
            fresh.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(count):
            fresh[page * size] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_real_page_faults_and_processor_time_are_seen():
    before = snapshot("cpu")
    touch_new_pages(8192)
    late = snapshot("cpu")
    if before.minor_faults is None:
        assert "counts no page faults" in dict(before.unknown)["minor_faults"]
    else:
        assert late.minor_faults >= before.minor_faults + 8192
    assert late.own_s > before.own_s
    assert late.at_s > before.at_s


def test_a_kernel_that_counts_no_faults_says_so_and_not_0(monkeypatch):
    usage = SimpleNamespace(ru_majflt=0, ru_minflt=0, ru_nivcsw=3)
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setitem(sys.modules, "resource", fake)
    found = snapshot("cpu")
    assert (found.major_faults, found.minor_faults, found.involuntary_switches) == (None, None, 3)
    assert dict(found.unknown)["major_faults"] == "this kernel counts no page faults"


def test_nothing_is_imported_to_be_counted():
    loaded = set(sys.modules)
    snapshot("cpu")
    assert not {m for m in set(sys.modules) - loaded if m.startswith(("torch._", "triton"))}


def fake_module(monkeypatch, name: str, **names: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_dynamo_s_and_inductor_s_counters(monkeypatch):
    counters = {
        "frames": {"total": 5, "ok": 4},
        "inductor": {"benchmarking.X.benchmark_gpu": 3, "coordesc_tuning_bench": 2, "extern": 9},
    }
    fake_module(monkeypatch, "torch._dynamo.utils", counters=counters)
    found = snapshot("cpu")
    assert (found.frames_compiled, found.inductor_benchmarks) == (5, 5)


def test_a_real_recompile_is_seen():
    """Pain 7: a guard that recompiles on a later call, inside the block."""
    compiled = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    compiled(torch.zeros(2))
    warm = snapshot("cpu")
    compiled(torch.zeros(2))
    same = snapshot("cpu")
    compiled(torch.zeros(3))
    late = snapshot("cpu")
    torch._dynamo.reset()
    assert same.frames_compiled == warm.frames_compiled
    assert "frames compiled: 1" in judge(same, late)


def test_triton_s_autotuner_is_counted_once_loaded_and_still_works(monkeypatch):
    class Autotuner:
        def _bench(self, config: int) -> int:
            return 2 * config

    fake_module(monkeypatch, "triton.runtime.autotuner", Autotuner=Autotuner)
    before = snapshot("cpu")
    assert before.triton_autotunes == 0
    assert [Autotuner()._bench(c) for c in (1, 2)] == [2, 4]
    late = snapshot("cpu")
    assert late.triton_autotunes == 2
    assert "autotuner: 2" in judge(before, late)
    assert snapshot("cpu").triton_autotunes == 2  # not wrapped again


def test_the_cuda_allocator_is_asked_only_once_cuda_works(monkeypatch):
    FakeCuda(monkeypatch, "GPU-1", initialized=False)
    assert snapshot("cuda").device_mallocs is None
    FakeCuda(monkeypatch, "GPU-1")
    stats = {"num_alloc_retries": 1, "num_device_alloc": 17}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    found = snapshot("cuda")
    assert (found.allocator_retries, found.device_mallocs) == (1, 17)


def test_a_platform_without_getrusage(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    found = snapshot("cpu")
    assert found.minor_faults is None
    assert "no getrusage" in dict(found.unknown)["minor_faults"]


def test_getrusage_numbers_stand_where_they_belong(monkeypatch):
    usage = SimpleNamespace(ru_majflt=1, ru_minflt=2, ru_nivcsw=3)
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setitem(sys.modules, "resource", fake)
    found = snapshot("cpu")
    assert (found.major_faults, found.minor_faults, found.involuntary_switches) == (1, 2, 3)
