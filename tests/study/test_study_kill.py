"""Killed at random moments, and nothing lost; the script prints what it saw."""

from __future__ import annotations

import pytest
from kill_resume import main


@pytest.mark.slow
def test_twenty_kills_lose_nothing(capsys):
    main(times=20, seed=0)
    assert "unreadable parts 0" in capsys.readouterr().out
