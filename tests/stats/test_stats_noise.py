"""The noise model finds back what the simulator put in."""

from __future__ import annotations

import numpy as np
import pytest
from golden.records import frame, record
from stats import noise
from stats.noise import Noise

TRUTH = Noise(scale=0.02, df=4.0, shared=0.03, rho=0.6, drift=0.05, outliers=0.05, outlier_size=0.3)


def records_of(model: Noise, trials: int = 60, blocks: int = 8, processes: int = 1):
    logs = noise.simulate(
        model, np.random.default_rng(0), trials=trials, blocks=blocks, processes=processes
    )
    turns = noise._turns(2, blocks)
    return frame(
        record(
            "train_step_s",
            arm,
            cell_id=f"{arm}{t}",
            pair_id=str(t),
            process=i // blocks,
            block=i % blocks,
            order=int(turns[a, i % blocks]),
            samples=[float(np.exp(logs[t, a, i]))],
        )
        for t in range(trials)
        for a, arm in enumerate(("retnet", "transformer"))
        for i in range(processes * blocks)
    )


def test_the_order_is_palindromic():
    assert noise._turns(2, 4).tolist() == [[0, 3, 4, 7], [1, 2, 5, 6]]


def test_the_fit_finds_the_noise_that_was_simulated():
    found = noise.fit(records_of(TRUTH), "train_step_s")
    assert 0.5 * TRUTH.outliers < found.outliers < 1.5 * TRUTH.outliers
    assert found.outlier_size == pytest.approx(0.3, rel=0.5)
    assert 0.01 < found.shared < 0.04
    assert 0.2 < found.drift / TRUTH.drift < 1.8
    assert found.n == 60 * 2 * 8


def test_pure_t_noise_has_its_scale_and_no_shared_part():
    pure = Noise(scale=0.02, df=3.0)
    found = noise.fit(records_of(pure, blocks=24), "train_step_s")
    assert found.scale == pytest.approx(0.02, rel=0.1)
    assert found.df == pytest.approx(3.0, rel=0.35)
    assert found.shared < 0.006
    assert found.outliers < 0.01


def test_one_process_a_cell_says_nothing_about_processes_and_several_do():
    assert noise.fit(records_of(TRUTH), "train_step_s").process is None
    several = Noise(scale=0.01, df=5.0, process=0.05)
    found = noise.fit(records_of(several, processes=4), "train_step_s")
    assert found.process == pytest.approx(0.05, rel=0.25)


def test_a_slow_part_that_both_arms_share_is_not_taken_for_their_processes():
    """Foreign load in one process's time meets both arms."""
    loaded = Noise(scale=0.02, df=4.0, shared=0.06, rho=0.9)
    found = noise.fit(records_of(loaded, processes=4, blocks=16), "train_step_s")
    assert found.process < 0.01
