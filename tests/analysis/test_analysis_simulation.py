"""The short proof by simulation, under the noise of our own records. Long version: nox -s stats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stats import trials
from stats.trials import BUSY, STUDIES, Design


@pytest.fixture(scope="module")
def fitted():
    return trials.fitted()


def default(fitted, study: str) -> Design:
    return trials.default(study, fitted[study])


@pytest.mark.slow
@pytest.mark.parametrize("study", list(BUSY))
def test_ratios_cover_the_truth_on_the_machine_of_the_reference_runs(study):
    noise = trials.fitted({study: BUSY[study]})[study]
    assert 0.93 <= trials.coverage(trials.default(study, noise), 1500) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("study", list(STUDIES))
def test_ratios_cover_the_truth_as_they_are_measured_by_default(fitted, study):
    assert 0.93 <= trials.coverage(default(fitted, study), 1500) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("study", ["train_throughput", "decode"])
def test_a_lone_arm_s_time_covers_the_truth_because_of_its_several_processes(fitted, study):
    design = default(fitted, study)
    alone = replace(design, processes=1, blocks=design.total)
    covered = trials.center_coverage(design, 1500)
    assert 0.93 <= covered <= 0.97
    assert trials.center_coverage(alone, 1500) < covered


@pytest.mark.parametrize("study", ["decode", "gate, training", "gate, decode"])
def test_the_gate_raises_no_false_alarms(fitted, study):
    """At most 1 % of studies: none in 100 small ones, where 1 % would allow for one or two."""
    assert trials.alarms(trials.outcomes(default(fitted, study), 6, 100)) <= 0.01


def test_how_processes_differ_is_known_from_the_records(fitted):
    assert all(noise.process is not None and noise.process < 0.03 for noise in fitted.values())


def test_a_slow_down_of_the_limit_hardly_ever_passes(fitted):
    verdicts = trials.outcomes(default(fitted, "train_throughput"), 6, 60, [0.05] * 6)
    assert trials.passed(verdicts) <= 0.05


def test_the_blocks_that_the_gate_asks_for_give_it_its_power(fitted):
    design = default(fitted, "train_throughput")
    asked = trials.blocks_for_power(design, 1, 0.01)
    enough = Design(noise=design.noise, blocks=asked)
    verdicts = trials.outcomes(enough, 1, 120, [0.05])
    assert trials.alarms(verdicts) >= 0.9
    assert trials.passed(trials.outcomes(enough, 1, 60)) >= 0.95


def test_ten_percent_are_caught_in_19_of_20_studies_with_24_blocks(fitted):
    enough = Design(noise=fitted["train_throughput"], blocks=24)
    assert trials.alarms(trials.outcomes(enough, 4, 60, [0.1] * 4)) >= 0.95
