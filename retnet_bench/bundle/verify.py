"""The verb `verify`: an archive's claims, figures and data against its own records, here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.table import Table
from rich.text import Text

from retnet_bench import files
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.base import UserError, printable, quoted
from retnet_bench.bundle import contents
from retnet_bench.bundle.archive import Bundle
from retnet_bench.bundle.contents import Stated
from retnet_bench.bundle.reads import TRUST, outside, reads
from retnet_bench.bundle.records import read
from retnet_bench.bundle.texts import Text as DataText
from retnet_bench.bundle.texts import look_again, named, read_texts
from retnet_bench.report import layout
from retnet_bench.study.study import Study

OK, DIFFERS, NOT_COMPARED = "ok", "differs", "not compared"

ROUNDING = 1e-12
"""Relative difference of numbers that are equal: the same code on another processor."""
OTHER_VERSIONS = 1e-6
"""The same where numpy, scipy, pandas or retnet-bench have another version."""
NUMBERS = ("verdict", "estimate", "low", "high", "n", "unit")
WORDS = ("at", "reason")
"""Fields of a claim's finding; another version may put the words otherwise."""
LONGEST_REMARK = 1000
"""Characters of a remark."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    result: str
    remark: str = ""


def verify(bundle: Bundle, trusted: bool = False) -> list[Check]:
    """What the records in the bundle say, held against what else is in it and what is here.

    Nothing that the study or the texts name outside of the archive is opened, nothing trained,
    unless `trusted`. UserError for what can't be read, such as records of a newer schema.
    """
    with bundle.named():
        study = contents.study_of(bundle.folder)
        records = read(bundle.folder)
        found = contents.findings(bundle.folder, records)
        return [
            Check("files", OK, f"{len(bundle.manifest.files)}, each with the manifest's sha256"),
            _records(study, records),
            _manifest(bundle, study, records),
            *_reads(study),
            *_claims(bundle, found),
            *_figures(bundle, study.figures, records),
            _environment(bundle, records),
            *_texts(bundle, records, trusted),
            _packages(bundle),
        ]


def failed(checks: Iterable[Check]) -> bool:
    return any(check.result == DIFFERS for check in checks)


def table(checks: Iterable[Check], title: str = "Verification") -> Table:
    """A row per check."""
    rows = (
        (Text(printable(c.what)), c.result, Text(printable(c.remark, LONGEST_REMARK)))
        for c in checks
    )
    return layout.table(title, "what|result|remark", rows)


def summary(checks: Iterable[Check]) -> str:
    """One line: the outcome and how many checks had which result."""
    counts = Counter(check.result for check in checks)
    results = (name for name in (DIFFERS, NOT_COMPARED, OK) if counts[name])
    counted = ", ".join(f"{counts[name]} {name}" for name in results)
    return f"{'differs' if counts[DIFFERS] else 'nothing differs'}: {counted}"


def others(then: Mapping[str, str], names: Iterable[str]) -> str:
    """The packages of another version, in words: `numpy 2.4.6, here 2.3.1`; empty when none."""
    here = contents.versions()
    pairs = ((name, quoted(then.get(name, "not recorded")), here[name]) for name in names)
    return "; ".join(f"{name} {a}, here {b}" for name, a, b in pairs if a != b)


# --- what it says of itself -----------------------------------------------------------------------


def _records(study: Study, records: pd.DataFrame) -> Check:
    found = contents.foreign_cells(study, records)
    if found:
        return Check("records", DIFFERS, contents.foreign_text(found, study))
    return Check("records", OK, f"{records['cell_id'].nunique()} cells, {len(records):,} rows")


def _manifest(bundle: Bundle, study: Study, records: pd.DataFrame) -> Check:
    for field, here in contents.about(study, records).items():
        there = getattr(bundle.manifest, field)
        if there != here:
            remark = f"{field} is {quoted(there)}, from study and records {quoted(here)}"
            return Check("manifest", DIFFERS, remark)
    return Check("manifest", OK, "study, machines and revisions as in the records")


def _reads(study: Study) -> Iterator[Check]:
    """What a run of the study would open; nothing of it is opened here."""
    found = reads(study)
    for thing in outside(found):
        yield Check(f"study reads {thing.what}", NOT_COMPARED, f"{thing.how}; only with {TRUST}")
    own = ", ".join(thing.what for thing in found if not thing.outside) or "no text"
    yield Check("study reads", OK, f"of retnet-bench itself: {own}")


# --- claims ---------------------------------------------------------------------------------------


def _claims(bundle: Bundle, found: list[Finding]) -> Iterator[Check]:
    there = {claim.name: claim for claim in contents.read_claims(bundle.folder)}
    here = {finding.claim.name: contents.stated(finding) for finding in found}
    unlike = others(bundle.manifest.versions, contents.COMPUTED_BY)
    for name in dict.fromkeys([*there, *here]):
        yield _claim(name, there.get(name), here.get(name), unlike)
    if not there and not here:
        yield Check("claims", OK, "the study states none")


def _claim(name: str, there: Stated | None, here: Stated | None, unlike: str) -> Check:
    what = f"claim {quoted(name)}"
    if there is None or here is None:
        lacking = "claims.json" if there is None else "study.yaml"
        return Check(what, DIFFERS, f"{lacking} has no such claim")
    fields, tolerance = (NUMBERS, OTHER_VERSIONS) if unlike else (NUMBERS + WORDS, ROUNDING)
    unequal = list(_unequal(there, here, fields, tolerance))
    by = f" ({unlike})" if unlike else ""
    if unequal:
        return Check(what, DIFFERS, "; ".join(unequal) + by)
    within = f", equal within {OTHER_VERSIONS:g}{by}" if unlike else ""
    return Check(what, OK, f"{here.verdict}{within}")


def _unequal(there: Stated, here: Stated, fields: Iterable[str], tolerance: float) -> Iterator[str]:
    for field in fields:
        a, b = getattr(there, field), getattr(here, field)
        if not (_close(a, b, tolerance) if isinstance(a, float) else a == b):
            yield f"{field} is {quoted(a)} in claims.json, {quoted(b)} from the records"


def _close(a: float, b: float | None, tolerance: float) -> bool:
    return b is not None and math.isclose(a, b, rel_tol=tolerance, abs_tol=ROUNDING)


# --- figures --------------------------------------------------------------------------------------


def _figures(bundle: Bundle, names: Iterable[str], records: pd.DataFrame) -> list[Check]:
    unlike = others(bundle.manifest.versions, contents.DRAWN_BY)
    names = list(dict.fromkeys(names))
    with files.scratch() as again:
        undrawn = contents.draw(names, records, again, ("svg",))
        return [
            Check(
                f"figure {quoted(name)}",
                *_figure(_packed(bundle, name), again / f"{name}.svg", undrawn.get(name), unlike),
            )
            for name in names
        ]


def _packed(bundle: Bundle, name: str) -> Path | None:
    """A figure in the archive; asked of the manifest, because a name may lead elsewhere."""
    svg = f"{contents.FIGURES}/{name}.svg"
    return bundle.folder / svg if svg in bundle.manifest.files else None


def _figure(there: Path | None, here: Path, why: str | None, unlike: str) -> tuple[str, str]:
    """Result and remark of one figure; `why` it could not be drawn here."""
    if there is None:
        return (OK, f"drawn neither there nor here: {why}") if why else (DIFFERS, "not in there")
    if why:
        return DIFFERS, f"can't be drawn from the records: {why}"
    if unlike:
        return NOT_COMPARED, f"redrawn; drawn there by {unlike}"
    if there.read_bytes() == here.read_bytes():
        return OK, "redrawn: the same SVG"
    return DIFFERS, "redrawn from the records: another SVG"


# --- what it was taken with -----------------------------------------------------------------------


def _environment(bundle: Bundle, records: pd.DataFrame) -> Check:
    path = bundle.folder / contents.ENVIRONMENT
    stored = path.read_bytes() if path.is_file() else b""
    if stored == contents.as_bytes(contents.environment_text(records)):
        return Check("environment", OK, f"as in the records: {', '.join(bundle.manifest.machines)}")
    return Check("environment", DIFFERS, f"{contents.ENVIRONMENT} is not that of the records")


def _texts(bundle: Bundle, records: pd.DataFrame, trusted: bool) -> Iterator[Check]:
    there = read_texts(bundle.folder)
    here = look_again(there, trusted)
    for text in there:
        yield Check(text.words, *_text(text, here.get(text.key)))
    known = {text.key for text in there}
    for text in named(records):
        if text.key not in known:
            yield Check(text.words, DIFFERS, f"the records name it, {contents.DATA} does not")


def _text(there: DataText, here: DataText | None) -> tuple[str, str]:
    if there.sha256 is None:
        return NOT_COMPARED, f"its checksum was not known when it was packed: {there.reason}"
    if here is None or here.sha256 is None:
        return NOT_COMPARED, (here and here.reason) or "not on this machine"
    if here.sha256 == there.sha256:
        return OK, f"sha256 {here.sha256[:12]}..."
    return DIFFERS, f"sha256 here is {here.sha256}, there it was {there.sha256}"


def _packages(bundle: Bundle) -> Check:
    """Of the lock: another version is no difference of the results, but worth knowing."""
    path = bundle.folder / contents.LOCK
    if not path.is_file():
        raise UserError(f"{path} is missing")
    lines = path.read_text("utf-8", "replace").splitlines()
    here = set(contents.lock())
    unlike = [line for line in lines if line not in here]
    if not unlike:
        return Check("packages", OK, f"{len(lines)} as in {contents.LOCK}")
    more = f" and {len(unlike) - 5} more" if len(unlike) > 5 else ""
    first = ", ".join(map(quoted, unlike[:5]))
    return Check("packages", NOT_COMPARED, f"others here than {first}{more}")
