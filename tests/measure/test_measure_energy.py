from __future__ import annotations

import pytest
from fakes.machine import FakeMachine
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.measure import energy
from retnet_bench.measure.energy import SHORT, Rapl, counted_j, cpu_energy_j, integrated_j, rapl
from retnet_bench.measure.reading import Reading
from retnet_bench.measure.telemetry import Telemetry

RANGE = 262_143_328_850


def packages(*uj: int, range_uj: int = RANGE) -> Reading:
    return Reading({f"intel-rapl:{i}": Rapl(value, range_uj) for i, value in enumerate(uj)})


def test_packages_are_counted_once_each(tmp_path):
    machine = FakeMachine(tmp_path)
    for domain, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
    ):
        machine.energy(domain, name, 5_000_000)
    assert set(rapl(tmp_path).value) == {"intel-rapl:0", "intel-rapl:1"}


def test_joules_of_all_packages():
    found = cpu_energy_j(packages(0, 5_000_000), packages(30_000_000, 15_000_000), 2.0)
    assert found.value == pytest.approx(40.0)


def test_a_counter_that_wrapped_within_the_window():
    found = cpu_energy_j(packages(RANGE - 1_000_000), packages(29_000_000), 5.0)
    assert found.value == pytest.approx(30.0)


def test_a_window_in_which_it_may_have_wrapped_twice_is_unknown():
    found = cpu_energy_j(packages(0), packages(30_000_000), 300.0)
    assert found.reason == "window so long that the RAPL counter may have wrapped twice"


@given(st.integers(0, RANGE - 1), st.integers(0, RANGE - 1))
def test_wrapping_never_makes_energy_negative_or_changes_it(start, spent):
    found = cpu_energy_j(packages(start), packages((start + spent) % RANGE), 2.0)
    assert found.value == pytest.approx(spent * 1e-6)


def test_short_windows_and_missing_counters_are_reasons():
    """Pain 20: never 0 J for want of a counter or of time."""
    assert cpu_energy_j(packages(0), packages(9), 1.99).reason == SHORT
    gone = Reading.missing("no RAPL under /sys/class/powercap")
    assert cpu_energy_j(gone, gone, 9.0) == gone
    assert counted_j(Reading(1.0), Reading(9.0), 1.0).reason == SHORT
    assert counted_j(Reading(9.0), Reading(9.0), 4.0).reason == "the energy counter did not move"
    assert integrated_j([1.0], [5.0], 0.0, 4.0).reason == "fewer than two samples of power"


def test_power_is_integrated_by_trapezoids_and_held_at_the_ends():
    # 100 W for 1 s, rising to 300 W within 2 s, held for 1 s
    assert integrated_j([1.0, 3.0], [100.0, 300.0], 0.0, 4.0).value == pytest.approx(800.0)


@given(st.lists(st.floats(0.1, 9.9), min_size=2, max_size=20), st.floats(1.0, 1000.0))
def test_constant_power_integrates_to_power_times_window(times, watts):
    found = integrated_j(sorted(times), [watts] * len(times), 0.0, 10.0)
    assert found.value == pytest.approx(10 * watts)


@pytest.fixture
def now() -> list[float]:
    return [0.0]


def test_a_cpu_block_starts_no_thread_and_has_its_joules(tmp_path, now):
    machine = FakeMachine(tmp_path)
    machine.energy("intel-rapl:0", "package-0", 0)
    with Telemetry("cpu", now=lambda: now[0], root=tmp_path) as telemetry:
        assert telemetry._thread is None
        now[0] += 3.0
        machine.energy("intel-rapl:0", "package-0", 45_000_000)
    values = {series.metric: series.values for series in telemetry.readings()}
    assert values == {"cpu_energy_j": (45.0,), "energy_window_s": (3.0,)}
    assert telemetry.judge() is None


def test_joules_of_one_machine_are_not_those_of_two(tmp_path, now):
    machine = FakeMachine(tmp_path)
    machine.energy("intel-rapl:0", "package-0", 0)
    with Telemetry("cpu", now=lambda: now[0], root=tmp_path, machines=2) as telemetry:
        now[0] += 3.0
        machine.energy("intel-rapl:0", "package-0", 45_000_000)
    (series,) = telemetry.readings()
    assert series.reason == "2 machines worked on it, of which one is watched"


def test_a_cpu_block_without_rapl_says_so(tmp_path, now):
    with Telemetry("cpu", now=lambda: now[0], root=tmp_path) as telemetry:
        now[0] += 3.0
    (series,) = telemetry.readings()
    assert (series.metric, series.values) == ("cpu_energy_j", ())
    assert series.reason == "no RAPL under /sys/class/powercap"


def test_the_block_may_fail_and_telemetry_still_ends(tmp_path):
    with pytest.raises(KeyError), Telemetry("cpu", root=tmp_path) as telemetry:
        raise KeyError
    assert telemetry.readings()


def test_limits_are_what_the_documentation_says():
    assert energy.MIN_WINDOW_S == 2.0
