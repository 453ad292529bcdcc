"""The card of claims: what was stated, what was measured here, and why the two may differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.table import Table

from retnet_bench import files
from retnet_bench.analysis.tables.captions import contract_text
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.base import printable
from retnet_bench.report import layout
from retnet_bench.report.claims import asked, ours, stated
from retnet_bench.results.markdown import markdown_table
from retnet_bench.results.store import read_records

COLUMNS = {"claim": 4, "paper": 4, "ours [95 % interval]": 4, "verdict": 2, "why they differ": 6}
"""Column and its share of the width."""
TITLE = "Claims, the paper and here"
NOTE = (
    "A verdict is on the direction, at the sizes and on the machine named; the paper's number "
    "stands beside ours and takes no part in it."
)


def parts(folders: Sequence[Path], findings: Sequence[Finding], out: Path) -> Iterator[Table | str]:
    """What the claims of several results folders came to: the table, written to `out`/card.md as
    well, and where to look further."""
    if not folders:
        return
    if findings:
        conditions = [f"{folder.name}: {contract_text(read_records(folder))}" for folder in folders]
        files.write_text(out / "card.md", markdown(findings, conditions))
        yield card(findings)
        yield NOTE
        yield f"written: {out / 'card.md'}"
    yield f"the tables: retnet-bench show {' '.join(map(str, folders))}"


def card(findings: Iterable[Finding]) -> Table:
    """A row per claim, for the terminal."""
    return layout.prose(TITLE, COLUMNS, map(cells, findings))


def markdown(findings: Iterable[Finding], conditions: Sequence[str]) -> str:
    """The same as a page; `conditions` say how the records behind it were taken, one a line."""
    lines = [
        f"# {TITLE}",
        NOTE,
        "\n".join(f"- {printable(line)}" for line in conditions),
        markdown_table(tuple(COLUMNS), map(_of_one_line, map(cells, findings))),
    ]
    return "\n\n".join(lines)


def _of_one_line(row: Iterable[str]) -> list[str]:
    return [printable(cell, keep="\n").replace("\n", "<br>") for cell in row]


def cells(finding: Finding) -> tuple[str, ...]:
    """The texts of a claim's row, in the order of COLUMNS."""
    claim = finding.claim
    why = f"\n{finding.reason}" if finding.reason else ""
    at = f"\n{finding.at}" if finding.at else ""
    return (
        f"{claim.says}\n({claim.source})",
        stated(claim) if claim.paper else "no number",
        f"{ours(finding)}{at}",
        f"{asked(finding)}: {finding.verdict}{why}",
        claim.objection or "",
    )
