"""Quantities in the units they are shown in."""

from __future__ import annotations

import pandas as pd
import pytest

from retnet_bench.results import quantities
from retnet_bench.results.quantities import MEMORY, SLOPE, TIME, Quantity, memory, of_unit
from retnet_bench.results.schema import METRICS

_PREFIXES = {"": 1.0, "k": 1e-3, "m": 1e3, "\N{MICRO SIGN}": 1e6, "M": 1e-6, "G": 1e-9, "T": 1e-12}
_NAMES = {"B": "bytes", "B/s": "bytes/s", "FLOP": "flop", "FLOP/s": "flop/s", "J/token": "j/token"}
DECLARED = [found for found in vars(quantities).values() if isinstance(found, Quantity)]


@pytest.mark.parametrize("shown", DECLARED, ids=lambda shown: f"{shown.name}, {shown.unit}")
def test_the_factor_is_what_the_prefix_of_the_unit_says(shown):
    if shown.unit == "millions":
        assert shown.factor == 1e-6
        return
    if shown == SLOPE:
        assert shown.unit == "ms per 1,000 tokens"
        assert shown.factor == 1e3 * 1000
        return
    known = {
        prefix + unit: factor
        for prefix, factor in _PREFIXES.items()
        for unit in (shown.kept, *(name for name, kept in _NAMES.items() if kept == shown.kept))
    }
    assert shown.factor == known[shown.unit]


def test_a_value_is_shown_with_its_unit():
    assert TIME.text(0.01234) == "12.34 ms"
    assert TIME.rounded(0.0123456, 3) == "12.3 ms"
    assert TIME.rounded(12.3456, 4) == "12,350 ms"
    assert TIME.rounded(0.05, 4) == "50 ms"
    assert memory(0.4e9) == MEMORY
    assert memory(80e9).text(80e9) == "80.00 GB"
    assert MEMORY.label() == "peak memory of tensors (MB)"
    row = pd.Series({"estimate": 2e-6, "low": 1e-6, "high": 3e-6})
    assert SLOPE.interval(row) == "2.000 [1.000, 3.000]"


def test_metrics_of_other_units_stay_as_they_are_kept():
    assert of_unit("s") == TIME
    assert of_unit("bytes") == MEMORY
    assert of_unit("x").text(1.5) == "1.500 x"
    assert of_unit("").text(1.5) == "1.500"
    assert {m.unit for m in METRICS.values()} >= {"s", "bytes"}
