"""The short proof that intervals of scaling laws hold planted laws; `nox -s stats` asserts 95 %."""

from __future__ import annotations

from stats import laws


def test_intervals_hold_the_planted_law():
    """40 studies of the shipped grid: 34 of 40 is what true coverage of 0.95 falls below once in
    150 times."""
    found = laws.coverage(laws.SCALING, 40)
    assert set(found) >= {"E", "A", "alpha", "B", "beta", "best loss", "compute ratio"}
    assert min(found.values()) >= 34 / 40, found


def test_intervals_that_are_too_short_would_be_seen(monkeypatch):
    """The same laws whose seeds scatter three times as much as one seed alone can tell."""
    alone = laws.Design(laws.SCALING.sizes, laws.SCALING.tokens, (1,) * len(laws.SCALING.sizes))
    monkeypatch.setattr(laws, "LUCK", 3 * laws.LUCK)
    assert min(laws.coverage(alone, 12).values()) <= 9 / 12
