"""`verify --rerun`: the bundled study run again here, and both runs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from retnet_bench.analysis.verdicts.decision import PASS, REGRESSION, Policy
from retnet_bench.analysis.verdicts.gate_report import Report
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.base import UserError
from retnet_bench.bundle import contents
from retnet_bench.bundle.archive import Bundle
from retnet_bench.bundle.pack import RUNS
from retnet_bench.bundle.reads import refuse_outside
from retnet_bench.bundle.records import read
from retnet_bench.bundle.verify import DIFFERS, NOT_COMPARED, OK, Check
from retnet_bench.report import gate, layout
from retnet_bench.report.claims import ours
from retnet_bench.results.store import every_record, read_records
from retnet_bench.run import session as running
from retnet_bench.study import study as studies

DECIDED = ("holds", "does not hold")


@dataclass(frozen=True)
class Rerun:
    """A second run of a bundle's study, held against the first."""

    folder: Path
    claims: list[tuple[Finding, Finding]]
    """There and here."""
    report: Report
    """Of the gate, the archived records being the baseline."""
    checks: list[Check]


def rerun(bundle: Bundle, out: Path | None, console: Console, trusted: bool = False) -> Rerun:
    """Run the bundle's study in `out`, default runs/<study>-rerun; what is there already is kept,
    so that an interrupted run goes on. Verdicts are compared on any machine, speeds on the same.

    UserError, unless `trusted`, for a study that reads what is not in the archive."""
    with bundle.named():
        study, source = studies.load(str(bundle.folder / contents.STUDY))
        archived = read(bundle.folder)
    if not trusted:
        with studies.Source(bundle.path, source.text).named():
            refuse_outside(study)
    folder = out or RUNS / f"{study.name}-rerun"
    _refuse_archived(folder, archived)
    source = studies.Source(bundle.path / contents.STUDY, source.text)
    running.run(study, source, folder, console)
    return compare(bundle, archived, folder)


def _refuse_archived(folder: Path, archived: pd.DataFrame) -> None:
    """Records held against themselves would agree, and say nothing."""
    if not (folder / "records").is_dir() or not any((folder / "records").glob("*.parquet")):
        return
    if set(read_records(every_record(folder))["run_id"]) & set(archived["run_id"]):
        raise UserError(f"{folder} holds the archived records themselves; name a new one by --out")


def compare(bundle: Bundle, archived: pd.DataFrame, folder: Path) -> Rerun:
    """The records in `folder` held against the archived ones."""
    repeated = read_records(folder)
    with bundle.named():
        there = contents.findings(bundle.folder, archived)
        here = contents.findings(folder, repeated)
        elsewhere = _elsewhere(archived, repeated)
        report = gate.check(folder, bundle.folder, Policy(exact_only=bool(elsewhere)))
    claims = list(zip(there, here, strict=True))  # of one study.yaml
    checks = [_verdict(*pair) for pair in claims]
    if elsewhere:
        checks.append(Check("speeds, here and there", NOT_COMPARED, elsewhere))
    checks.append(_outcome(report))
    return Rerun(folder, claims, report, checks)


def _elsewhere(archived: pd.DataFrame, repeated: pd.DataFrame) -> str:
    """Why speeds can't be compared; empty on the same machine."""
    if set(archived["fingerprint"]) & set(repeated["fingerprint"]):
        return ""
    there, here = (_machines(records) for records in (archived, repeated))
    return f"taken on {there}, this is {here}"


def _machines(records: pd.DataFrame) -> str:
    named = records[["machine", "fingerprint"]].drop_duplicates().itertuples(index=False, name=None)
    return " and ".join(f"{machine} (fingerprint {fingerprint})" for machine, fingerprint in named)


def _verdict(there: Finding, here: Finding) -> Check:
    what, remark = (
        f"claim {here.claim.name}, here and there",
        f"{there.verdict}, here {here.verdict}",
    )
    if there.verdict == here.verdict:
        return Check(what, OK, here.verdict)
    decided = there.verdict in DECIDED and here.verdict in DECIDED
    return Check(what, DIFFERS if decided else NOT_COMPARED, remark)


def _outcome(report: Report) -> Check:
    results = {PASS: OK, REGRESSION: DIFFERS}
    exact = "exact figures: " if report.policy.exact_only else ""
    result = results.get(report.outcome, NOT_COMPARED)
    return Check("gate, here and there", result, f"{exact}{report.summary}")


def tables(found: Rerun) -> Iterator[Table]:
    """The claims side by side, and what the gate has to say row by row."""
    if found.claims:
        yield _claims_table(found)
    if gate.listed(found.report):
        yield gate.table(found.report)


def _claims_table(found: Rerun) -> Table:
    rows = (
        (here.claim.name, ours(there), there.verdict, ours(here), here.verdict)
        for there, here in found.claims
    )
    columns = "claim|there|verdict|here|verdict here"
    return layout.table("Claims, there and here", columns, rows)
