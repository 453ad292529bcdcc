"""What a sweep leads to at sizes that it did not try: log-log in the width, held beyond."""

from __future__ import annotations

import pytest

from retnet_bench.analysis.tables.choices import Best, choose


def best(size: str, width: int, rate: float, **others: float) -> Best:
    return Best(size, width, {"learning_rate": rate, **others})


PAIR = [best("a", 64, 8e-3), best("b", 256, 2e-3)]


def rate(width: int, found: list[Best], size: str = "x") -> float:
    return float(choose(size, width, found).settings["learning_rate"])


def test_a_size_that_was_tried_has_its_own():
    choice = choose("b", 256, PAIR)
    assert choice.settings == {"learning_rate": 2e-3}
    assert choice.how == "the best of the sweep at size b"
    assert choice.refused is None


def test_between_widths_the_rate_is_interpolated_in_logarithms():
    """Halfway between 64 and 256 in the logarithm is 128, and between 8e-3 and 2e-3 it is 4e-3."""
    assert rate(128, PAIR) == 4e-3
    assert rate(128, PAIR[::-1]) == 4e-3
    words = choose("x", 128, PAIR).how
    assert words.startswith(
        "interpolated in log-log of the width between 0.008 at size a (width 64)"
    )
    assert rate(192, PAIR) == pytest.approx(8e-3 * (192 / 64) ** -1, rel=5e-3)


def test_beyond_them_the_line_is_followed_with_its_exponent_held():
    assert rate(512, PAIR) == 1e-3  # exponent -1, the steepest that is allowed
    assert rate(32, PAIR) == 0.016
    steep = [best("a", 64, 8e-3), best("b", 128, 1e-3)]  # exponent -3
    assert rate(256, steep) == 5e-4
    rising = [best("a", 64, 1e-3), best("b", 128, 4e-3)]  # exponent +2
    assert rate(256, rising) == 4e-3
    assert rate(32, rising) == 1e-3
    assert "extrapolated" in choose("x", 256, rising).how
    assert "exponent 0" in choose("x", 256, rising).how


def test_of_three_widths_the_neighbours_count():
    found = [*PAIR, best("c", 1024, 2e-3)]
    assert rate(512, found) == 2e-3
    assert rate(128, found) == 4e-3
    assert rate(2048, found) == 2e-3


def test_one_width_is_followed_by_the_recipe_s_rule():
    assert rate(256, PAIR[:1]) == 4e-3
    assert "to the power -0.5" in choose("x", 256, PAIR[:1]).how


def test_two_sizes_of_one_width_count_as_their_geometric_mean():
    found = [best("a", 64, 1e-3), best("b", 64, 4e-3)]
    assert rate(64, found) == 2e-3
    assert rate(64, found, "a") == 1e-3
    assert rate(256, found) == 1e-3


def test_what_is_no_rate_is_that_of_the_nearest_width():
    found = [best("a", 64, 8e-3, batch=8), best("b", 256, 2e-3, batch=32)]
    assert choose("x", 100, found).settings["batch"] == 8
    choice = choose("x", 200, found)
    assert choice.settings["batch"] == 32
    assert choice.how.endswith("; batch 32 of size b")


def test_rates_have_three_digits():
    assert rate(96, PAIR) == 0.00533


def test_the_end_of_a_grid_is_said():
    found = [Best("a", 64, {"learning_rate": 8e-3}, "0.008 is at the end of the grid"), PAIR[1]]
    assert choose("x", 128, found).how.endswith("; size a: 0.008 is at the end of the grid")
    assert choose("b", 256, found).how == "the best of the sweep at size b"
