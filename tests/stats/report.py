"""`nox -s stats`: the statistics and the gate under the noise of our own records, as a table.

Coverage is of 95 % intervals; an alarm is a study of equal things with any cell called a
regression; "missed" is a cell 5 % slower that passed. Give a factor for more trials: `-- 4`.
Ends with an error where intervals of scaling laws hold planted laws in less than 95 % of trials.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from stats import laws, trials
from stats.trials import STUDIES, Design

SLOW = 0.05
WANTED = 0.95
"""Of the intervals of scaling laws."""


def main(factor: float) -> None:
    console = Console(width=140)
    table, short = _laws(int(3000 * factor))
    console.print(table)
    if short:
        raise SystemExit(f"coverage below {WANTED}: {'; '.join(short)}")
    fitted, busy = trials.fitted(), trials.fitted(trials.BUSY)
    for study, noise in (fitted | busy).items():
        console.print(f"{study}: {noise}", highlight=False)
    console.print(_coverage(fitted | busy, int(1000 * factor)))
    console.print(_gate(fitted, int(200 * factor)))


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in names:
        table.add_column(name, justify="right")
    return table


def _laws(n: int) -> tuple[Table, list[str]]:
    """Coverage of planted scaling laws, and what is below WANTED."""
    designs = {"the study scaling": laws.SCALING, "4 sizes x 3 budgets": laws.GRID}
    found = {name: laws.coverage(design, n) for name, design in designs.items()}
    table = _table(f"Planted scaling laws, {n} trials: in the 95 % interval", "of", *designs)
    rows = list(next(iter(found.values())))
    for row in rows:
        table.add_row(row, *(f"{shares[row]:.3f}" for shares in found.values()))
    short = [
        f"{row} of {name} {shares[row]:.3f}"
        for name, shares in found.items()
        for row in rows
        if shares[row] < WANTED
    ]
    return table, short


def _coverage(fitted: dict, n: int) -> Table:
    names = ("noise", "processes x blocks", "paired ratio", "unpaired ratio", "time of one arm")
    table = _table(f"Coverage of 95 % intervals, {n} trials each", *names)
    for study, noise in fitted.items():
        default = trials.default(study, noise)
        differing = replace(default, noise=replace(noise, process=0.02))
        for told, design in (
            (study, default),
            (f"{study}, one process", replace(default, processes=1, blocks=default.total)),
            (f"{study}, more blocks", replace(default, blocks=4 * default.blocks)),
            (f"{study}, processes differ by 2 %", differing),
        ):
            table.add_row(
                told,
                f"{design.processes} x {design.blocks}",
                f"{trials.coverage(design, n):.3f}",
                f"{trials.coverage(replace(design, paired=False), n):.3f}",
                f"{trials.center_coverage(design, n):.3f}",
            )
    return table


def _gate(fitted: dict, n: int) -> Table:
    names = ("noise", "sides", "cells x processes x blocks", "A/A alarms", "A/A passed")
    slow = ("5 % slower: missed", "called regression", "study caught", "blocks asked for")
    table = _table(f"The gate at its default limit of 5 %, {n} studies each", *names, *slow)
    for study, noise in fitted.items():
        cells, default = STUDIES[study].cells, trials.default(study, noise)
        asked = trials.blocks_for_power(default, cells, 0.01)
        for blocks in (default.blocks, 4 * default.blocks, -(-asked // default.processes)):
            for paired in (True, False):
                design = replace(default, blocks=blocks, paired=paired)
                table.add_row(*_gate_row(study, design, cells, n))
    return table


def _gate_row(study: str, design: Design, cells: int, n: int) -> list[str]:
    equal = trials.outcomes(design, cells, n)
    slow = trials.outcomes(design, cells, max(n // 4, 20), [SLOW] * cells, seed=1)
    tau = 0.01 if design.paired else 0.02
    return [
        study,
        "interleaved" if design.paired else "two sessions",
        f"{cells} x {design.processes} x {design.blocks}",
        f"{trials.alarms(equal):.2%}",
        f"{trials.passed(equal):.1%}",
        f"{trials.passed(slow):.2%}",
        f"{trials.share(slow, 'regression'):.1%}",
        f"{trials.alarms(slow):.1%}",
        str(trials.blocks_for_power(design, cells, tau, 100)),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "scale", type=float, nargs="?", default=1.0, help="of all numbers of trials"
    )
    main(parser.parse_args().scale)
