"""What a worker sets before it measures."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fakes.cells import QUICK, cell
from fakes.clock import FakeClock

from retnet_bench.run.worker import Session


class Told(Exception):
    pass


def test_numbers_below_the_normal_range_are_zeros_before_any_thread_is_made(monkeypatch):
    """Threads have what the one that makes them has."""

    def told(on: bool) -> None:
        raise Told(on)

    monkeypatch.setattr(torch, "set_flush_denormal", told)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: pytest.fail("too early"))
    with pytest.raises(Told, match="True"):
        Session(cell(), QUICK).prepare()


@pytest.mark.parametrize(("mode", "untimed"), [("eager", [30.0]), ("compile", [30.0, 20.0])])
def test_a_candidate_s_compiling_is_none_of_its_time(monkeypatch, mode, untimed):
    clock = FakeClock()
    steps = clock.steps([*untimed, *[0.001] * 200])
    session = Session(cell(mode=mode), replace(QUICK, warmup_max_s=0.01))
    session.clock = clock
    session.workload = SimpleNamespace(step=steps, check=lambda: None)
    monkeypatch.setattr(session, "_build", lambda *given: [])
    monkeypatch.setattr(session, "_mode_error", lambda: None)
    times = session.trial().times
    assert times == pytest.approx([0.001] * len(times))
    assert len(times) >= 2
