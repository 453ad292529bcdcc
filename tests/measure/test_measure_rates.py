"""Rates by a fake clock, and the file that keeps them."""

from __future__ import annotations

import pytest
import torch

from retnet_bench.measure import rates


class Ticks:
    """Every call it times takes `s` seconds."""

    def __init__(self, s: float) -> None:
        self.s, self.time = s, 0.0

    def now(self) -> float:
        self.time += self.s
        return self.time

    def sync(self) -> None:
        pass


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(rates, "SIZES", {"cpu": 16})
    monkeypatch.setattr(rates, "COPY_ELEMENTS", 1000)
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path))


def test_rates_are_work_over_time():
    found = rates.measure("cpu", ["fp32", "fp64"], Ticks(0.5))
    assert found.flops_per_s == pytest.approx({"fp32": 2 * 16**3 / 0.5, "fp64": 2 * 16**3 / 0.5})
    assert found.bytes_per_s == pytest.approx(3 * 4000 / 0.5)  # the triad moves three arrays
    assert found.launch_s == pytest.approx(0.5 / rates.CALLS)
    assert found.memory_bytes is None


def test_rates_are_kept_for_this_machine_only(monkeypatch, tmp_path):
    assert rates.kept("cpu") is None
    found = rates.measure("cpu", ["fp32"], Ticks(0.5))
    assert rates.keep("cpu", found).parent == tmp_path
    assert rates.kept("cpu") == found
    assert found.threads == torch.get_num_threads()
    monkeypatch.setattr(rates.environment, "fingerprint", lambda env: "another")
    assert rates.kept("cpu") is None


def test_a_damaged_file_counts_as_not_measured():
    rates.keep("cpu", rates.measure("cpu", ["fp32"], Ticks(0.5))).write_text("{")
    assert rates.kept("cpu") is None


def test_the_best_of_each_is_kept():
    slow, fast = (rates.measure("cpu", ["fp32"], Ticks(s)) for s in (0.5, 0.25))
    rates.keep("cpu", fast)
    rates.keep("cpu", slow)
    assert rates.kept("cpu") == fast
    rates.keep("cpu", rates.measure("cpu", ["fp64"], Ticks(1.0)))
    assert set(rates.kept("cpu").flops_per_s) == {"fp32", "fp64"}
    assert rates.kept("cpu").bytes_per_s == fast.bytes_per_s
