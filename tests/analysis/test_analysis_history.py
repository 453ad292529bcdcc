"""Histories: steps are found where they are, noise is no step, bad input is one line."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from golden.records import blocks, document, record
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.analysis.verdicts import history
from retnet_bench.base import UserError
from retnet_bench.results.store import Store

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def store(folder, i, rows, revision=None):
    """A results folder of run `i`; its revision begins with i in hexadecimal."""
    when = {"run_id": f"run-{i}", "recorded_at": START + timedelta(days=i), "git_dirty": False}
    said = {"git_revision": revision or f"{i:x}" * 40}
    Store(folder).append([row | when | said for row in rows], "part")


def levels(seconds):
    return [seconds * noise for noise in (0.99, 1.0, 1.01)]


def test_a_step_is_named_by_the_first_revision_of_the_new_level(tmp_path):
    for i in range(10):
        seconds = 0.1 * (1.1 if i >= 6 else 1.0) * (1 + 0.002 * (-1) ** i)
        rows = blocks("train_step_s", "retnet", levels(seconds))
        rows.append(record("peak_tensor_bytes", samples=[1e6 if i < 3 else 2e6]))
        store(tmp_path / f"r{9 - i}", i, rows)
    found = {line.about["metric"]: line for line in history.lines(history.read([tmp_path]))}
    (step,) = found["train_step_s"].steps
    assert (step.run, step.label) == (6, "6666666")
    assert step.ratio == pytest.approx(1.1, rel=5e-3)
    (exact,) = found["peak_tensor_bytes"].steps
    assert (exact.run, exact.ratio) == (3, pytest.approx(2.0))
    assert found["peak_tensor_bytes"].noise == 0


def test_another_machine_is_another_line(tmp_path):
    for i in range(6):
        fingerprint = "a" if i % 2 else "b"
        seconds = 0.1 if i % 2 else 0.5
        store(
            tmp_path / f"r{i}",
            i,
            blocks("train_step_s", "retnet", levels(seconds), fingerprint=fingerprint),
        )
    found = history.lines(history.read([tmp_path]))
    assert [line.about["fingerprint"] for line in found] == ["b", "a"]
    assert [line.points["run"].tolist() for line in found] == [[0, 2, 4], [1, 3, 5]]
    assert [line.steps for line in found] == [(), ()]


def test_two_revisions_of_one_folder_are_two_runs(tmp_path):
    store(tmp_path, 0, blocks("train_step_s", "retnet", levels(0.1)))
    store(tmp_path, 1, blocks("train_step_s", "retnet", levels(0.2)))
    runs = history.read([tmp_path])
    assert [run.label for run in runs] == ["0000000", "1111111"]
    (line,) = history.lines(runs)
    assert line.points["estimate"].tolist() == pytest.approx([0.1, 0.2])


def test_two_studies_of_one_revision_are_one_run(tmp_path):
    for i in range(2):
        for study, length in (("a", 64), ("b", 512)):
            rows = blocks("train_step_s", "retnet", levels(0.1), length=length)
            store(tmp_path / f"{study}{i}", i, rows)
    runs = history.read([tmp_path])
    assert [run.label for run in runs] == ["0000000", "1111111"]
    assert [line.points["run"].tolist() for line in history.lines(runs)] == [[0, 1]] * 2


def test_perplexity_is_followed_too(tmp_path):
    for i in range(2):
        rows = document("retnet", "a", 50.0 + i) + document("retnet", "b", 60.0)
        store(tmp_path / str(i), i, rows)
    (line,) = history.lines(history.read([tmp_path / "0", tmp_path / "1"]))
    assert line.about["metric"] == "perplexity_per_byte"
    assert line.points["estimate"].tolist() == pytest.approx([np.exp(0.55), np.exp(0.555)])


def test_too_little_is_one_line(tmp_path):
    one = tmp_path / "one"
    store(one, 0, blocks("train_step_s", "retnet", [0.1]))
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other"
    store(other, 1, blocks("train_step_s", "retnet", [0.1], length=64))
    for paths, words in (
        ([one], "needs two runs or more, .*one holds 1"),
        ([one, one], "holds 1"),
        ([one, empty], "no records in .*empty: give results folders"),
        ([tmp_path / "nowhere"], "no such file or folder"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            history.read(paths)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"no cell was measured on one machine in two of these 2"):
        history.lines(history.read([one, other]))


# --- simulation: what the module's docstring says -----------------------------------------------


def simulated(random, n, series, heavy=False):
    noise = (
        random.standard_t(3, (series, n)) / np.sqrt(3) if heavy else random.normal(size=(series, n))
    )
    return 0.02 * noise


def steps_in(values):
    return history.change_points(values, history._noise(values))


@pytest.mark.parametrize("heavy", [False, True])
def test_at_most_one_in_twenty_series_of_30_equal_runs_has_a_step(heavy):
    series = simulated(np.random.default_rng(5), 30, 100, heavy)
    assert np.mean([bool(steps_in(values)) for values in series]) <= 0.05


def test_a_tenth_more_at_a_noise_of_2_percent_is_found_within_one_run():
    series = simulated(np.random.default_rng(6), 30, 60)
    series[:, 15:] += np.log(1.1)
    found = [any(abs(at - 15) <= 1 for at in steps_in(values)) for values in series]
    assert np.mean(found) >= 0.95


def test_one_outlier_is_no_step():
    values = simulated(np.random.default_rng(7), 30, 1)[0]
    values[12] += np.log(2)
    assert steps_in(values) == []


@settings(max_examples=30)
@given(st.floats(-5, 5), st.integers(2, 8), st.floats(0.01, 2))
def test_noiseless_steps_are_exact_at_any_level(level, at, size):
    values = np.full(10, level)
    values[at:] += size
    assert history.change_points(values, history._noise(values)) == [at]
