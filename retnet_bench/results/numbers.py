"""Numbers as people read them: three or four digits, and never more than the interval bears."""

from __future__ import annotations

import math

import pandas as pd


def quantity(value: float) -> str:
    """Four significant digits, thousands separated: 12,340; 3.142; 0.0012."""
    if value != value:
        return "not measured"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "-\N{INFINITY}"
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def interval(row: pd.Series, scale: float = 1.0) -> str:
    """`estimate [low, high]`; without an interval it says so."""
    if row["estimate"] != row["estimate"]:
        return "not measured"
    estimate = quantity(row["estimate"] * scale)
    if row["low"] != row["low"]:
        return f"{estimate} [no interval]"
    return f"{estimate} [{quantity(row['low'] * scale)}, {quantity(row['high'] * scale)}]"


def at_least_zero(row: pd.Series) -> str:
    """`interval` of what can't be below 0. An estimate of 0 is no finding but where the fit was
    stopped, and an interval of nothing but that is none."""
    if row["estimate"] != 0:
        return interval(row)
    known = f" [0, {quantity(row['high'])}]" if row["high"] > 0 else ""
    return f"0 (at its bound){known}"


def millions(value: float) -> str:
    """Of parameters: 3.15M."""
    return f"{value / 1e6:.3g}M"


def short(value: float) -> str:
    """Of parameters, tokens and ticks: 3.15M, 1.3B, 250k, 10."""
    for letter, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if scale <= abs(value) < math.inf:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}" if math.isfinite(value) else quantity(value)


def seconds(value: float) -> str:
    """8.2 s, 3 min 20 s, 2 h 5 min."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size_bytes(value: float) -> str:
    """Decimal units, as drives and papers count: 1 GB = 1e9 bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"
