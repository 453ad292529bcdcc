from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fakes.machine import FakeMachine
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.measure import cores

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="affinity")


def test_one_hyper_thread_of_each_physical_core_first(tmp_path):
    FakeMachine(tmp_path).siblings("0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7")
    assert cores.choose(list(range(8)), 3, tmp_path) == [0, 1, 2]
    assert cores.choose(list(range(8)), 6, tmp_path) == [0, 1, 2, 3, 4, 5]
    assert cores.choose([0, 4, 1], 2, tmp_path) == [0, 1]


def test_neighbouring_numbers_may_be_siblings(tmp_path):
    FakeMachine(tmp_path).siblings("0-1", "0-1", "2-3", "2-3")
    assert cores.choose([0, 1, 2, 3], 2, tmp_path) == [0, 2]


@given(st.sets(st.integers(0, 30), min_size=1), st.integers(1, 40))
@settings(max_examples=50)
def test_chosen_cores_are_allowed_and_as_many_as_can_be(allowed, threads):
    chosen = cores.choose(sorted(allowed), threads, cores.ROOT / "nowhere")
    assert set(chosen) <= allowed
    assert len(set(chosen)) == len(chosen) == min(threads, len(allowed))


PIN = """
import os, threading
from retnet_bench.measure import cores
started, hold = threading.Event(), threading.Event()
threading.Thread(target=lambda: (started.set(), hold.wait()), daemon=True).start()
started.wait()
first = cores.allowed().value[0]
assert cores.pin(1).value == [first]
assert {t: os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")}.values()
assert all(os.sched_getaffinity(int(t)) == {first} for t in os.listdir("/proc/self/task"))
print(cores.pin(2).reason)
"""


@linux_only
def test_pin_moves_all_threads_and_refuses_what_does_not_fit():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PIN], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "2 threads on 1 allowed cores: not pinned"


def test_no_affinity_on_this_platform_is_a_reason(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert "no affinity" in cores.pin(1).reason


def test_a_refused_affinity_is_a_reason(monkeypatch):
    def refuse(task: int, chosen: list[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", lambda task: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    assert cores.pin(1).reason == "sched_setaffinity: Operation not permitted"


def test_busy_time_counts_steal_and_no_guest_twice(tmp_path):
    machine = FakeMachine(tmp_path, cores=3)
    machine.use(user=2.0, steal=0.5, idle=100.0)
    assert cores.busy_s([0], tmp_path).value == 2.5
    assert cores.busy_s([0, 2], tmp_path).value == 5.0
    assert cores.busy_s([0, 7], tmp_path).reason == "/proc/stat has 1 of 2 cores"


def test_waiting_is_summed_over_threads(tmp_path):
    assert cores.waited_s(tmp_path).reason == "no /proc/self/task/*/schedstat"
    FakeMachine(tmp_path).threads(0.5, 0.25)
    assert cores.waited_s(tmp_path).value == pytest.approx(0.75)


def test_frequency_is_the_mean_of_the_allowed_cores(tmp_path):
    assert "no cpufreq" in cores.frequency_mhz([0], tmp_path).reason
    FakeMachine(tmp_path).clock(3_000_000, 2_000_000, 1)
    assert cores.frequency_mhz([0, 1], tmp_path).value == 2500.0
