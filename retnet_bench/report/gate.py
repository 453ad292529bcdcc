"""The gate's report: a table for the terminal, Markdown, JUnit XML, JSON and a figure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from rich.table import Table

from retnet_bench import files
from retnet_bench.analysis.tables.floor import read_floors
from retnet_bench.analysis.verdicts.decision import NOT_COMPARABLE, PASS, REGRESSION, Policy
from retnet_bench.analysis.verdicts.gate import compare
from retnet_bench.analysis.verdicts.gate_report import Report, Row
from retnet_bench.base import UserError, printable
from retnet_bench.figures import gate as picture
from retnet_bench.figures import style
from retnet_bench.report import layout
from retnet_bench.results.store import read_records

HEADER = ("verdict", "cell", "figure", "baseline", "candidate", "ratio [95 % interval]", "remark")


def check(
    candidate: Path, baseline: Path, policy: Policy, selftest_of: Path | None = None
) -> Report:
    """Two sets of stored records compared, with the noise floors stored beside either, or in the
    results folder `selftest_of`.

    UserError for records that cannot be read or none at all, and a set compared with itself.
    """
    if candidate.exists() and candidate.resolve() == baseline.resolve():
        raise UserError(f"candidate and baseline are both {candidate}: nothing would be compared")
    candidate_records, baseline_records = read_records(candidate), read_records(baseline)
    machine = set(candidate_records["fingerprint"])
    found = [read_floors(p, machine) for p in (selftest_of or candidate, baseline)]
    known = [floors for floors in found if any(floor.value for floor in floors.values())]
    return compare(candidate_records, baseline_records, known[0] if known else found[0], policy)


def table(report: Report) -> Table:
    """Timed figures and whatever did not pass; exact figures that passed are only counted."""
    columns = (f">{name}" if name.startswith("ratio") else name for name in HEADER)
    return layout.table(
        "Gate: candidate / baseline", "|".join(columns), map(_cells, listed(report))
    )


def listed(report: Report) -> list[Row]:
    """The rows worth reading one by one."""
    return [row for row in report.rows if row.kind == "timed" or row.verdict != PASS]


def _cells(row: Row) -> tuple[str, ...]:
    values = (row.baseline or "", row.candidate or "")
    return (row.verdict, row.cell, row.figure, *values, ratio_text(row), _remark(row))


def ratio_text(row: Row) -> str:
    """`1.023 [1.001, 1.046]`."""
    if row.ratio is None:
        return ""
    if row.low is None:
        return f"{row.ratio:.3f} [no interval]"
    return f"{row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}]"


def _remark(row: Row) -> str:
    if row.detectable is None:
        return row.remark
    known = f"{row.detectable:.1%}" if row.detectable < 1 else "more than 100 %"
    return "; ".join(filter(None, [row.remark, f"detectable: {known}"]))


def write(report: Report, folder: Path) -> list[Path]:
    """gate.md, gate.xml, gate.json and, where ratios exist, gate.svg and gate.png in `folder`."""
    texts = {"gate.md": markdown(report), "gate.xml": junit(report), "gate.json": as_json(report)}
    for name, text in texts.items():
        files.write_text(folder / name, text)
    written = [folder / name for name in texts]
    drawn = picture.draw(report)
    if drawn is not None:
        written += [style.save(drawn, folder / f"gate.{form}") for form in ("svg", "png")]
    return written


def as_json(report: Report) -> str:
    return json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n"


def markdown(report: Report) -> str:
    """A job summary."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"## Gate: {report.outcome}"
    yield ""
    yield f"{_escaped(report.summary)}. Exit code {report.exit_code}."
    yield ""
    for side in ("candidate", "baseline"):
        known = (report.about.get(f"{side}_{key}") for key in ("machine", "git_revision"))
        yield f"- {side}: {', '.join(_escaped(value or 'not recorded') for value in known)}"
    rows = listed(report)
    if not rows:
        return
    yield ""
    yield f"| {' | '.join(HEADER)} |"
    yield f"|{' --- |' * len(HEADER)}"
    for row in rows:
        yield f"| {' | '.join(map(_escaped, _cells(row)))} |"


def _escaped(text: str) -> str:
    one_line = printable(text.replace("\n", " "))
    return one_line.replace("|", "\\|").replace("<", "&lt;")


def junit(report: Report) -> str:
    """A test suite: one case per figure. A regression is a failure, an inconclusive figure an
    error, and what could not be compared is skipped."""
    suite = ElementTree.Element("testsuite", name="retnet-bench gate", tests=str(len(report.rows)))
    counts = {"failures": REGRESSION, "errors": "inconclusive", "skipped": NOT_COMPARABLE}
    for key, verdict in counts.items():
        suite.set(key, str(sum(row.verdict == verdict for row in report.rows)))
    for row in report.rows:
        _case(suite, row)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, row: Row) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=printable(row.cell))
    case.set("name", printable(row.figure))
    message = "; ".join(filter(None, [ratio_text(row), _remark(row)])) or row.verdict
    tag = {REGRESSION: "failure", "inconclusive": "error", NOT_COMPARABLE: "skipped"}
    if row.verdict in tag:
        summary = f"{row.verdict}: {row.baseline} -> {row.candidate}; {message}"
        ElementTree.SubElement(case, tag[row.verdict], message=printable(summary))
    else:
        ElementTree.SubElement(case, "system-out").text = printable(f"{row.verdict}: {message}")
