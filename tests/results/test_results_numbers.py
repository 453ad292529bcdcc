"""Numbers in words: digits that the numbers bear."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.results.numbers import at_least_zero, interval, quantity, seconds, size_bytes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12340, "12,340"),
        (math.pi, "3.142"),
        (0.0123456, "0.01235"),
        (0.99996, "1.0000"),
        (999.96, "1,000.0"),
        (0.00012, "0.00012"),
        (1.5e-7, "1.5e-07"),
        (-2.5, "-2.500"),
        (0, "0"),
        (0.0, "0"),
        (float("nan"), "not measured"),
    ],
)
def test_quantity(value, text):
    assert quantity(value) == text


@given(st.floats(1e-30, 1e15), st.sampled_from([1, -1]))
def test_quantity_keeps_at_least_three_digits(value, sign):
    shown = float(quantity(sign * value).replace(",", ""))
    assert shown == pytest.approx(sign * value, rel=5e-3)


def test_interval_says_when_there_is_none():
    row = pd.Series({"estimate": 2.0, "low": 1.5, "high": 2.5})
    assert interval(row) == "2.000 [1.500, 2.500]"
    assert interval(row, 1e3) == "2,000 [1,500, 2,500]"
    nothing = float("nan")
    assert interval(row.replace(1.5, nothing)) == ("2.000 [no interval]")
    assert interval(row.replace(2.0, nothing)) == "not measured"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.24, "8.2 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_seconds(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_500_000, "1.5 MB"), (80e9, "80 GB")],
)
def test_size_bytes_are_decimal(value, text):
    """D12: flash-attn divides by 2^20 x 1000 and prints GB."""
    assert size_bytes(value) == text


def test_what_a_fit_holds_at_its_bound_is_not_said_as_if_it_were_known():
    def said(*ends: float) -> str:
        return at_least_zero(pd.Series(dict(zip(("estimate", "low", "high"), ends, strict=True))))

    assert said(0.0, 0.0, 0.0) == "0 (at its bound)"
    assert said(0.0, float("nan"), float("nan")) == "0 (at its bound)"
    assert said(0.0, 0.0, 0.058) == "0 (at its bound) [0, 0.05800]"
    assert said(1.5, 1.0, 2.0) == "1.500 [1.000, 2.000]"
