"""The tables of `show` as rows of the page, each with what it can be filtered by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table as RichTable

from retnet_bench.figures import published as figure
from retnet_bench.report import card, quality
from retnet_bench.report.page.keys import NAMES, Cells
from retnet_bench.report.page.sides import Side
from retnet_bench.report.tables import Known, by_workload
from retnet_bench.results.numbers import quantity
from retnet_bench.results.schema import METRICS
from retnet_bench.results.store import of_latest_runs

_RATIO = " / "


@dataclass(frozen=True)
class Column:
    name: str
    is_number: bool


@dataclass(frozen=True)
class Row:
    cells: list[str]
    keys: dict[str, str] = field(default_factory=dict)
    """What the row can be filtered by."""
    others: list[str] = field(default_factory=list)
    """The arms that it compares its own with."""

    @property
    def json(self) -> str:
        return json.dumps({**self.keys, **({"others": self.others} if self.others else {})})


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[Column]
    rows: list[Row]
    caption: str = ""


def tables(side: Side) -> Iterator[Table]:
    """Every table that `show` prints of one results folder."""
    cells = Cells(side.records)
    known = Known(side.laws, side.ratios, side.crossovers, side.quality_and_speed, side.unfinished)
    for workload, table in by_workload(side.records, side.floors, known):
        yield _table(table, workload, cells)


def _table(table: RichTable, workload: str, cells: Cells) -> Table:
    columns = [Column(str(c.header), c.justify == "right") for c in table.columns]
    texts = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    names = [column.name for column in columns]
    rows = [_row(list(row), names, workload, cells) for row in texts]
    return Table(str(table.title), columns, rows, str(table.caption or ""))


def _row(texts: list[str], names: Sequence[str], workload: str, cells: Cells) -> Row:
    said = {name.replace(" ", "_"): text for name, text in zip(names, texts, strict=True)}
    arm, *others = said.get("arms", "").split(_RATIO)
    if arm:
        said["arm"] = arm
    metric = METRICS.get(said.get("metric", ""))
    said["workload"] = said.get("workload") or workload or (metric.workload if metric else "")
    known = cells.keys({name: said.get(name, "") for name in NAMES})
    return Row(texts, known, others)


def failures(side: Side) -> Table | None:
    """Every cell that was not measured, with its reason and the end of its stderr."""
    latest = of_latest_runs(side.records)
    lost = latest[latest["metric"] == "outcome"]
    names = ["workload", "arm", "size", "length", "batch", "status", "reason", "stderr_tail"]
    cells = Cells(side.records)
    rows = [_row(_plain(row), names, "", cells) for row in lost[names].itertuples(index=False)]
    columns = [Column("end of stderr" if n == "stderr_tail" else n, False) for n in names]
    return Table("Not measured", columns, rows) if rows else None


def _plain(row: Sequence[Any]) -> list[str]:
    return ["" if value is None or value != value else str(value) for value in row]


def claims(side: Side) -> Table | None:
    """The card of claims: the paper beside ours, and why the two may differ."""
    columns = [Column(name, False) for name in card.COLUMNS]
    rows = [Row(list(card.cells(finding))) for finding in side.findings]
    return Table(card.TITLE, columns, rows, card.NOTE) if rows else None


def joined(both: Side | None) -> Table | None:
    """Quality beside speed of models that were trained in one folder and timed in another."""
    if both is None:
        return None
    table = quality.joined(both.records, both.quality_and_speed)
    return None if table is None else _table(table, "", Cells(both.records))


def published(side: Side) -> Table | None:
    """What others published of the arms here, for a study that ends in that figure."""
    if "published" not in side.figures:
        return None
    columns = [Column(name, False) for name in ("arm", "what", "number", "published by")]
    rows = [
        Row([str(row.arm), str(row.what), _printed(row), str(row.source)], {"arm": str(row.arm)})
        for row in figure.others(sorted(side.records["arm"].unique())).itertuples()
    ]
    return Table("As others published it", columns, rows, figure.SOURCE) if rows else None


def _printed(row: Any) -> str:
    return f"{quantity(row.relative)} {row.unit}"
