"""What a worker sets before it measures."""

from __future__ import annotations

import pytest
import torch
from fakes.cells import QUICK, cell

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
