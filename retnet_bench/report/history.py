"""The history of runs in words."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.table import Table

from retnet_bench.analysis.history import FEWEST, Line, Run, Step
from retnet_bench.report.numbers import quantity

_KEYS = ("workload", "metric", "arm", "size", "length", "batch")


def history_table(lines: Sequence[Line]) -> Table:
    """A row per line: first and last value, noise from run to run, and its steps."""
    table = Table(title="History", title_justify="left", header_style="bold")
    machines = len({line.about["fingerprint"] for line in lines}) > 1
    for name in [*_KEYS, *(["machine"] if machines else [])]:
        table.add_column(name)
    for name in ("runs", "first", "last", "noise"):
        table.add_column(name, justify="right")
    table.add_column("steps")
    for line in lines:
        machine = f"{line.about['machine']} ({line.about['fingerprint']})"
        keys = [_word(line.about[key]) for key in _KEYS] + ([machine] if machines else [])
        ends = [quantity(float(line.points["estimate"].iloc[i])) for i in (0, -1)]
        noise = f"{100 * line.noise:.2g} %" if line.noise else "exact"
        table.add_row(*keys, str(len(line.points)), *ends, noise, steps_text(line))
    return table


def summary(runs: Sequence[Run], lines: Sequence[Line]) -> str:
    """Which runs in which order, and how the lines were told apart."""
    words = f"{len(runs)} runs in order of their first record: {', '.join(r.label for r in runs)}"
    prints = {line.about["fingerprint"] for line in lines}
    if len(prints) > 1:
        words += f"; {len(prints)} machines (fingerprints), each with lines of its own"
    return words


def steps_text(line: Line) -> str:
    """`abc1234 +10.2 %`; why nothing was looked for in too few runs."""
    if not line.steps:
        few = line.noise and len(line.points) < FEWEST
        return f"needs {FEWEST} runs" if few else "none"
    return ", ".join(f"{step.label} {percent(step)}" for step in line.steps)


def percent(step: Step) -> str:
    return f"{100 * (step.ratio - 1):+.3g} %"


def _word(value: object) -> str:
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]
