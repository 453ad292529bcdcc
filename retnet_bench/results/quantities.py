"""How quantities are shown: the name and the unit that every table, figure, claim and gate has for
them, declared once. What the paper printed keeps the paper's own units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from retnet_bench.results.numbers import interval, quantity


@dataclass(frozen=True)
class Quantity:
    """A value in the unit `kept`, of records and of analysis, times `factor` is in `unit`."""

    name: str
    kept: str
    unit: str
    factor: float = 1.0

    def of(self, value: float) -> float:
        """In the unit shown."""
        return self.factor * value

    def text(self, value: float) -> str:
        """`12.34 ms`."""
        return f"{quantity(self.of(value))} {self.unit}".strip()

    def rounded(self, value: float, digits: int) -> str:
        """The same to so many significant digits: of rates, predictions and single readings."""
        number = float(f"{self.of(value):.{digits}g}")
        return f"{number:,.12g} {self.unit}"

    def interval(self, row: pd.Series) -> str:
        """`12.34 [11.02, 13.56]`, for a column that names the unit."""
        return interval(row, self.factor)

    def label(self, name: str = "") -> str:
        """`peak memory of tensors (MB)`, for an axis. `name` where it has another there."""
        return f"{name or self.name} ({self.unit})"


TIME = Quantity("time of a step", "s", "ms", 1e3)
DECODE_STEP = replace(TIME, name="time of one decode step")
FIRST_TOKEN = replace(TIME, name="time to first token")
OUTPUT_TOKEN = replace(TIME, name="time per output token")
MEMORY = Quantity("peak memory of tensors", "bytes", "MB", 1e-6)
STATE = Quantity("state of a sequence", "bytes", "kB", 1e-3)
LARGE_MEMORY = replace(MEMORY, unit="GB", factor=1e-9)
SLOPE = Quantity("slope", "s/position", "ms per 1,000 tokens", 1e6)
RATE = Quantity("rate", "tokens/s", "tokens/s")
ENERGY = Quantity("energy", "j/token", "mJ/token", 1e3)
TOKENS_SEEN = Quantity("tokens seen", "tokens", "millions", 1e-6)

OPERATOR_CALL = Quantity("operator call", "s", "\N{MICRO SIGN}s", 1e6)
COMPUTATION = Quantity("computation", "flop", "TFLOP", 1e-12)
COMPUTE_RATE = Quantity("peak", "flop/s", "TFLOP/s", 1e-12)
BANDWIDTH = Quantity("bandwidth", "bytes/s", "GB/s", 1e-9)

_OF_UNIT = {found.kept: found for found in (TIME, MEMORY)}


def memory(largest: float) -> Quantity:
    """For an axis that reaches `largest` bytes: GB from half of one on."""
    return LARGE_MEMORY if largest >= 0.5e9 else MEMORY


def of_unit(unit: str) -> Quantity:
    """How a metric kept in `unit` is shown: in that unit itself, where no other is declared."""
    return _OF_UNIT.get(unit, Quantity("", unit, unit))
