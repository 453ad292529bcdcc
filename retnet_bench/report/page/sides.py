"""What stands side by side on a page: the results folders, each read by itself and never mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from retnet_bench import yaml_file
from retnet_bench.analysis.tables import baselines, quality, ratios, scaling, tuning
from retnet_bench.analysis.tables.floor import Floors, read_floors
from retnet_bench.analysis.tables.scaling import Scaling
from retnet_bench.analysis.verdicts import claims, judging
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.base import UserError, printable
from retnet_bench.results import current, lock
from retnet_bench.results.store import read_records

MOST = 12
"""Results of one page: each has a column of its own in people's heads."""


@dataclass(frozen=True)
class Side:
    """One results folder."""

    label: str
    """Its name on the page: the folder's, with as much of the way to it as tells it apart."""
    path: Path
    records: pd.DataFrame
    findings: list[Finding]
    floors: Floors
    question: str
    figures: list[str]
    """The figures that its study ends in."""
    yaml: str
    """The study's text; empty where no study.yaml stands beside the records."""
    is_written: bool
    """Whether another process is writing to the folder now."""

    @property
    def has_losses(self) -> bool:
        """Whether any trained model was scored."""
        return bool((self.records["metric"] == "document_nll_nat").any())

    @cached_property
    def laws(self) -> Scaling | None:
        """The scaling laws of its losses in bits per byte; None where the records can't be fitted
        as one (`show` says why)."""
        try:
            return scaling.fits(self.records) if self.has_losses else None
        except UserError:
            return None

    @cached_property
    def ratios(self) -> pd.DataFrame:
        """See `ratios.pair_ratios`."""
        return ratios.pair_ratios(self.records, self.floors)

    @cached_property
    def crossovers(self) -> pd.DataFrame:
        """See `ratios.crossovers`."""
        return ratios.crossovers(self.records)

    @cached_property
    def quality_and_speed(self) -> quality.Joined:
        """See `quality.joined`."""
        return quality.joined(self.records)

    @cached_property
    def unfinished(self) -> dict[tuple[str, str], str]:
        """See `tuning.unfinished`."""
        return tuning.unfinished(self.records, current.of([self.path]))

    @cached_property
    def workloads(self) -> set[str]:
        return set(self.records["workload"])

    @property
    def study(self) -> str:
        return ", ".join(sorted(self.records["study"].unique()))


def read(paths: Sequence[Path]) -> list[Side]:
    """A side per path, in order. UserError for a path without records, one that is named twice,
    and more than MOST."""
    if len(paths) > MOST:
        raise UserError(f"{len(paths)} results are too many for one page: give {MOST} at most")
    twice = [path for path, n in Counter(path.resolve() for path in paths).items() if n > 1]
    if twice:
        raise UserError(f"{printable(twice[0])} is named twice: each results folder once")
    return [_side(path, label) for path, label in zip(paths, labels(paths), strict=True)]


def labels(paths: Sequence[Path]) -> list[str]:
    """The least of the end of each path that tells it from the others: `a/x`, `b/x`."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-depth:]) for part in parts]
        if len(set(found)) == len(found):
            break
    return found


def across(found: Sequence[Side]) -> Side | None:
    """All sides as one, where models were trained in one folder and timed in another: of one
    machine, and without a cell in common, which would be runs of the same; else None."""
    cells = [set(side.records["cell_id"]) for side in found]
    machines = {name for side in found for name in side.records["fingerprint"]}
    if len(found) < 2 or len(machines) > 1 or len(set.union(*cells)) < sum(map(len, cells)):
        return None
    records = pd.concat([side.records for side in found], ignore_index=True)
    return replace(found[0], label=" + ".join(side.label for side in found), records=records)


def _side(path: Path, label: str) -> Side:
    folder = path if path.is_dir() else path.parent
    is_written = path.is_dir() and lock.is_held(path / lock.NAME)
    own = claims.beside(path)  # all that may be refused, first
    records = baselines.as_studies_say(read_records(path), [path])
    file = folder / "study.yaml"
    text = yaml_file.read(file) if file.is_file() else ""
    study = yaml_file.parse(text, file) if text else {}
    study = study if isinstance(study, dict) else {}
    return Side(
        label=label,
        path=path,
        records=records,
        findings=judging.evaluate(records, own),
        floors=read_floors(path, set(records["fingerprint"])),
        question=_text(study.get("question")),
        figures=_names(study.get("figures")),
        yaml=text,
        is_written=is_written,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
