"""What a run says while it runs: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from retnet_bench.base import printable
from retnet_bench.results import labels
from retnet_bench.results.live import LiveFile
from retnet_bench.results.quantities import TIME
from retnet_bench.results.schema import OK_STATUSES, TIMES
from retnet_bench.run.runner import Finished
from retnet_bench.workloads import Cell
from retnet_bench.workloads.base import SCORE


class Reporter:
    """Use as a context. `cells` are those of the whole study, by which one is told from another;
    `total_s` are the predicted seconds of what there is to do; `live` is the file in which other
    terminals read how far it is."""

    def __init__(
        self,
        console: Console,
        cells: Iterable[Cell],
        total_s: float,
        live: LiveFile | None = None,
    ) -> None:
        self.console = console
        self.live = live
        self.own = labels.differences(map(_named, cells))
        self.progress = Progress(
            TextColumn("{task.percentage:>3.0f} %"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            # The bar redraws between blocks only: a redraw inside one would be measured.
            auto_refresh=False,
        )
        self.task = self.progress.add_task("", total=max(total_s, 1e-9))

    def __enter__(self) -> Reporter:
        if self.live:
            self.live.__enter__()
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        if self.live:
            self.live.__exit__()

    def turn(self, words: str) -> None:
        """A few words on what is being done now."""
        self.progress.update(self.task, description=escape(printable(words)))
        self.progress.refresh()
        if self.live:
            self.live.turn(words)

    def finished(self, cell: Finished, predicted_s: float) -> None:
        """A line for a cell that is done."""
        self.progress.update(self.task, advance=predicted_s)
        if self.live:
            self.live.finished(predicted_s, cell.status not in OK_STATUSES)
        colour = "green" if cell.status == "ok" else "yellow"
        self.console.print(
            Text(f"{cell.status:<11}", colour),
            Text(printable(outcome_text(cell, self.own[_named(cell.planned.cell)]))),
            soft_wrap=True,
        )


def _named(cell: Cell) -> tuple[str, str]:
    return cell.name, cell.canonical()


def outcome_text(cell: Finished, own: str = "") -> str:
    """Cell and outcome in one line. `own` are the settings that tell it from others of its name."""
    name = cell.planned.cell.name + (f" {own}" if own else "")
    return f"{name:<52} {headline(cell)}"


def headline(cell: Finished) -> str:
    """The cell's result in a few words, or why there is none."""
    if cell.status not in OK_STATUSES:
        return cell.reason or cell.status
    workload = cell.planned.cell.workload
    metric = TIMES.get(workload, "")
    values = [v for row in cell.rows if row["metric"] == metric for v in row["samples"]]
    if values:
        of = " a step" if metric.endswith("_step_s") else " a request" * (metric == "request_s")
        return TIME.rounded(statistics.median(values), 4) + of
    return bits_per_byte(cell) or right_answers(cell) or scores(cell) or "memory only"


def right_answers(cell: Finished) -> str:
    """Of recall: the share of queries answered right at each number of pairs."""
    counts: dict[str, dict[int, float]] = {"recall_correct": {}, "recall_queries": {}}
    for row in cell.rows:
        if row["metric"] in counts and row["phase"] == SCORE:
            counts[row["metric"]][row["pairs"]] = row["samples"][0]
    right, asked = counts.values()
    shares = [f"{n} pairs {100 * right[n] / asked[n]:.1f} %" for n in sorted(asked)]
    return f"right of {', '.join(shares)}" if shares else ""


def scores(cell: Finished) -> str:
    """Each score of a task, in the task's own order; of several tasks the mean of each."""
    scored = [row for row in cell.rows if row["task"] and row["phase"] == SCORE]
    shown: dict[str, list[float]] = {}
    for row in scored:
        if row["value"] is not None:
            shown.setdefault(row["metric"], []).append(row["value"])
    tasks = len({row["task"] for row in scored})
    over = f", means of {tasks} tasks" if tasks > 1 else ""
    words = [f"{metric} {statistics.mean(values):.3g}" for metric, values in shown.items()]
    return f"{', '.join(words)}{over}" if words else ""


SCORED = {
    ("document_nll_nat", "document_bytes"): "",
    ("validation_nll_nat", "validation_bytes"): ", validation",
}
"""Metrics of the loss and the bytes of what a training is scored on, and how that is said."""


def bits_per_byte(cell: Finished) -> str:
    for metrics, of in SCORED.items():
        nll, n_bytes = (
            sum(row["samples"][0] for row in cell.rows if row["metric"] == metric)
            for metric in metrics
        )
        if n_bytes:
            return f"{nll / n_bytes / math.log(2):.3f} bits per byte{of}"
    return ""
