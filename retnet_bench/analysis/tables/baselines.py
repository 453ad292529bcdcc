"""Which arm the others of a study are compared with.

A baseline is a choice of the reader, not of the measurement: every row carries the one that the
study stated when the row was taken, and the study's newest word is the one that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from retnet_bench import yaml_file
from retnet_bench.base import UserError, printable, quoted


def stated(records: pd.DataFrame) -> pd.Series[Any]:
    """The baseline of each study that states one, by study: the one of its newest row."""
    newest = records.dropna(subset="baseline").sort_values("recorded_at", kind="stable")
    return newest.groupby("study")["baseline"].last()


def as_studies_say(records: pd.DataFrame, results: Sequence[Path]) -> pd.DataFrame:
    """`records` with the baselines that the `study.yaml` of each results folder names now, so that
    a finished study takes another one without being measured again. UserError for one that is no
    name."""
    for path in results:
        file = path / "study.yaml"
        study = _study(file)
        baseline = study.get("baseline")
        if not isinstance(baseline, str | None):
            words = f"baseline must be the name of an arm, is {quoted(repr(baseline))}"
            raise UserError(f"{printable(file)}: {words}")
        of_study = records["study"] == study.get("name")
        records = records.assign(baseline=records["baseline"].mask(of_study, baseline))
    return records


def _study(path: Path) -> dict[str, Any]:
    found = yaml_file.parse(yaml_file.read(path), path) if path.is_file() else None
    return found if isinstance(found, dict) else {}
