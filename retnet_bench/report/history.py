"""The history of runs in words."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.table import Table

from retnet_bench.analysis.verdicts.history import FEWEST, Line, Run, Step
from retnet_bench.report import layout
from retnet_bench.results import labels
from retnet_bench.results.quantities import of_unit
from retnet_bench.results.schema import EXACT, METRICS

_KEYS = ("workload", "metric", "arm", "size", "length", "batch")


def history_table(lines: Sequence[Line]) -> Table:
    """A row per line: first and last value, noise from run to run, and its steps. Lines that are
    alike in all that is shown have the settings in which their cells differ, too."""
    machines = len({line.about["fingerprint"] for line in lines}) > 1
    keys = {key: key for key in _KEYS} | ({"fingerprint": "machine"} if machines else {})
    named = [[_word(line.about[key]) for key in keys] for line in lines]
    cells = [
        (" ".join(words), str(line.about["cell_json"]))
        for words, line in zip(named, lines, strict=True)
    ]
    own = labels.differences(cells)
    if any(own.values()):
        named = [[*words, own[cell]] for words, cell in zip(named, cells, strict=True)]
        keys["cell_json"] = "setting"
    columns = "|".join([*keys.values(), ">runs|>first|>last|>noise|steps"])
    order = sorted(range(len(lines)), key=lambda i: _order(lines[i]))
    made = layout.table("History", columns, ([*named[i], *_course(lines[i])] for i in order))
    for column in made.columns[: len(keys)]:
        column.no_wrap = True
    return made


def _course(line: Line) -> list[str]:
    ends = (_value(line, i) for i in (0, -1))
    noise = "exact" if line.about["metric"] in EXACT else f"{100 * line.noise:.2g} %"
    return [str(len(line.points)), *ends, noise, steps_text(line)]


def summary(runs: Sequence[Run], lines: Sequence[Line]) -> str:
    """Which runs in which order, and how the lines were told apart."""
    words = f"{len(runs)} runs in order of their first record: {', '.join(r.label for r in runs)}"
    known = {line.about["fingerprint"]: line.about["machine"] for line in lines}
    if len(known) > 1:
        named = ", ".join(f"{fingerprint} ({machine})" for fingerprint, machine in known.items())
        words += f"; {len(known)} machines, never compared with each other: {named}"
    return words


def steps_text(line: Line) -> str:
    """`abc1234 +10.2 %`; why nothing was looked for in too few runs."""
    if not line.steps:
        few = line.about["metric"] not in EXACT and len(line.points) < FEWEST
        return f"needs {FEWEST} runs" if few else "none"
    return ", ".join(f"{step.label} {percent(step)}" for step in line.steps)


def percent(step: Step) -> str:
    return f"{100 * (step.ratio - 1):+.3g} %"


def _order(line: Line) -> tuple:
    keys = ("fingerprint", "workload", "metric", "arm", "size", "length", "batch")
    values = [line.about[key] for key in keys]
    return tuple((pd.isna(value), 0 if pd.isna(value) else value) for value in values)  # type: ignore


def _value(line: Line, at: int) -> str:
    metric = METRICS.get(str(line.about["metric"]))
    return of_unit(metric.unit if metric else "").text(float(line.points["estimate"].iloc[at]))


def _word(value: object) -> str:
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]
