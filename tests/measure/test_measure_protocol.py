from __future__ import annotations

import dataclasses
import gc
import random

import pytest
from fakes.clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.measure.protocol import (
    MAX_WINDOW,
    Protocol,
    is_steady,
    palindromic,
    run_block,
    samples_per_block,
    trend_z,
    warm_up,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("processes", 0),
        ("blocks", -1),
        ("min_samples", 0),
        ("max_samples", 2),
        ("warmup_min_steps", 0),
        ("block_s", 0.0),
        ("warmup_max_s", float("inf")),
        ("timeout_s", float("nan")),
        ("interleave", "steps"),
    ],
)
def test_protocol_refuses_nonsense_and_names_the_field(field, value):
    with pytest.raises(ValueError, match=rf"(?s)Protocol.*\b{field}\b"):
        Protocol(**{field: value})


def test_protocol_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Protocol().blocks = 7


STEADY = [1.00, 1.01, 0.99, 1.00, 0.99, 1.01]


def test_six_quiet_steps_are_steady_and_five_are_not():
    assert is_steady(STEADY)
    assert is_steady([1.0] * 6)
    assert not is_steady([1.0] * 5)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([30.0, *STEADY[1:]], id="slow first step"),
        pytest.param([1.15, *[1.0] * 5], id="slow first step on a quiet machine"),
        pytest.param([1.10, 1.08, 1.06, 1.04, 1.02, 1.00], id="falling"),
        pytest.param([1.000, 1.008, 1.016, 1.024, 1.032, 1.040], id="rising slowly"),
        pytest.param([1.0, 1.0, 1.0, 1.2, 1.2, 1.2], id="level shift"),
        pytest.param([0.7, 1.0, 1.3, 1.0, 1.0, 1.0], id="spread shrinks"),
    ],
)
def test_start_up_and_trends_are_not_steady(times):
    assert not is_steady(times)


def test_one_outlier_in_a_long_window_does_not_unsettle():
    assert is_steady([*STEADY * 3, 5.0, *STEADY])


def test_the_start_is_forgotten():
    assert is_steady([30.0, 2.0, *STEADY])
    assert is_steady([9.0] * MAX_WINDOW + STEADY * 10)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1, 0.2])
def test_a_noisy_machine_becomes_steady_too(noise):
    source = random.Random(0)
    times: list[float] = []
    while not is_steady(times):
        times.append(source.lognormvariate(0, noise))
    assert len(times) <= 100


def test_trend_z_by_hand():
    # n = 3: S = 3 rising pairs, variance 3 * 2 * 11 / 18 = 11/3
    assert trend_z([1, 2, 3]) == pytest.approx(3 / (11 / 3) ** 0.5)
    assert trend_z([3, 2, 1]) == pytest.approx(-3 / (11 / 3) ** 0.5)
    assert trend_z([1, 1, 1, 1]) == 0


def test_warm_up_ends_at_the_first_steady_window():
    clock = FakeClock()
    done = warm_up(clock, clock.steps([8.0, 0.5, 0.25]), Protocol(warmup_max_s=1000.0))
    # the six most recent steps must not hold the 8.0, nor the 0.5 as their slow first one
    assert done.times == (8.0, 0.5, *[0.25] * 6)
    assert (done.first_step_s, done.steps, done.steady) == (8.0, 8, True)
    assert done.total_s == 8.0 + 0.5 + 6 * 0.25
    assert done.step_s == 0.25


def test_warm_up_of_ever_slower_steps_ends_with_its_budget():
    clock = FakeClock()
    done = warm_up(clock, clock.steps(2.0**i for i in range(50)), Protocol(warmup_max_s=10.0))
    assert done.times == (1.0, 2.0, 4.0, 8.0)  # 7 s were not enough, 15 s are
    assert (done.steady, done.total_s) == (False, 15.0)


def test_warm_up_runs_its_fewest_steps_even_over_budget():
    clock = FakeClock()
    protocol = Protocol(warmup_max_s=10.0, warmup_min_steps=3)
    done = warm_up(clock, clock.steps([30.0, 4.0]), protocol)
    assert done.times == (30.0, 4.0, 4.0)
    assert not done.steady


def test_warm_up_budget_counts_the_time_between_steps():
    clock = FakeClock()
    step = clock.steps([1.0])

    def slow_host() -> None:
        step()
        clock.idle(3.0)

    assert warm_up(clock, slow_host, Protocol(warmup_max_s=10.0)).steps == 3


@pytest.mark.parametrize(
    ("step_s", "samples"), [(0.1, 5), (0.3, 3), (0.15, 4), (60.0, 3), (1e-6, 200)]
)
def test_samples_per_block(step_s, samples):
    assert samples_per_block(Protocol(block_s=0.5), step_s) == samples


def test_run_block_returns_each_step_and_nothing_else():
    clock = FakeClock()
    assert run_block(clock, clock.steps([0.5, 0.25, 1.0]), 3) == [0.5, 0.25, 1.0]
    assert clock.log == ["sync", "now", "work", "sync", "now"] * 3


@pytest.mark.parametrize("enabled", [True, False])
def test_run_block_holds_the_collector_still_and_restores_it(enabled):
    seen = []
    try:
        (gc.enable if enabled else gc.disable)()
        run_block(FakeClock(), lambda: seen.append(gc.isenabled()), 2)
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert seen == [False, False]


def test_run_block_collects_before_and_restores_after_a_failure(monkeypatch):
    order = []
    monkeypatch.setattr(gc, "collect", lambda: order.append("collect"))

    def fail() -> None:
        order.append("step")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_block(FakeClock(), fail, 3)
    assert order == ["collect", "step"]
    assert gc.isenabled()


def test_palindromic_by_hand():
    assert "".join(palindromic("AB", 4)) == "ABBAABBA"
    assert "".join(palindromic("AB", 3)) == "ABBAAB"
    assert "".join(palindromic("ABC", 2)) == "ABCCBA"
    assert palindromic(["retnet"], 3) == ["retnet"] * 3


arms_lists = st.lists(st.text(max_size=3), min_size=1, max_size=6, unique=True)


@given(arms_lists, st.integers(1, 12))
def test_palindromic_gives_every_arm_its_turns(arms, blocks):
    order = palindromic(arms, blocks)
    assert {arm: order.count(arm) for arm in arms} == dict.fromkeys(arms, blocks)
    assert len(order) == blocks * len(arms)


@given(arms_lists, st.integers(1, 6).map(lambda half: 2 * half))
def test_palindromic_cancels_linear_drift(arms, blocks):
    order = palindromic(arms, blocks)
    sums = {arm: sum(i for i, a in enumerate(order) if a == arm) for arm in arms}
    assert len(set(sums.values())) == 1
