from __future__ import annotations

import time

import pytest
import torch
from fakes.clock import FakeClock

from retnet_bench.measure.clock import WallClock, time_call


def test_time_call_counts_the_work_and_only_the_work():
    clock = FakeClock()
    clock.work(7.0)  # left over from before: must not be counted
    assert time_call(clock, lambda: clock.work(0.25)) == 0.25
    assert clock.log == ["work", "sync", "now", "work", "sync", "now"]


def test_fake_clock_refuses_a_time_read_before_sync():
    clock = FakeClock()
    start_s = clock.now()
    clock.work(0.0)
    with pytest.raises(AssertionError, match="before sync"):
        clock.now()
    clock.sync()
    assert clock.now() == start_s


def test_wall_clock_measures_a_sleep():
    assert 0.02 <= time_call(WallClock("cpu"), lambda: time.sleep(0.02)) < 0.5


def test_wall_clock_on_cpu_leaves_cuda_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("synchronised"))
    WallClock("cpu").sync()


def test_wall_clock_waits_for_its_own_cuda_device(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    WallClock("cuda:1").sync()
    assert waited == [torch.device("cuda:1")]


def test_wall_clock_waits_for_any_other_accelerator(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    WallClock("xpu").sync()
    assert waited == [torch.device("xpu")]
