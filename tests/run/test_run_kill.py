"""Ended at random moments, and nothing lost; `tests/trials/kill_resume.py` does it forty times,
and `tests/trials/kill_ranks.py` twenty times to ranks of worlds."""

from __future__ import annotations

import pytest
from trials import kill_ranks
from trials.kill_resume import main


@pytest.mark.slow
def test_three_ends_lose_nothing(capsys):
    main(times=3, seed=0)
    assert "unreadable parts 0" in capsys.readouterr().out


@pytest.mark.slow
def test_three_kills_of_ranks_lose_nothing(capsys):
    kill_ranks.main(times=3, seed=0)
    assert "unreadable parts 0" in capsys.readouterr().out
