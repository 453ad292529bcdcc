"""What a bundle holds besides study and records: all of it follows from them, but for the lock.

Packing and verifying call the same functions, so whatever differs is not in how it was made.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from retnet_bench import __version__
from retnet_bench.analysis.verdicts import claims, judging
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.base import UserError, natural, quoted
from retnet_bench.figures import plot
from retnet_bench.study import study as studies
from retnet_bench.study.study import Study

STUDY = "study.yaml"
CLAIMS = "claims.json"
ENVIRONMENT = "environment.json"
LOCK = "lock.txt"
DATA = "data.json"
FIGURES = "figures"
T = TypeVar("T")
Listed = Annotated[list[T], Field(max_length=1000)]
"""Claims or texts of a bundle: each becomes a row of what is printed."""

COMPUTED_BY = ("retnet-bench", "numpy", "scipy", "pandas")
"""What a claim's numbers come from."""
DRAWN_BY = (*COMPUTED_BY, "matplotlib")
"""What the bytes of a figure come from."""


# --- the study ------------------------------------------------------------------------------------


def study_of(folder: Path) -> Study:
    """The study beside the records, checked. UserError where there is none or it can't be read."""
    path = folder / STUDY
    if not path.is_file():
        raise UserError(f"{folder} has no {STUDY}: give the results folder of a study that was run")
    return studies.load(str(path))[0]


_TOLD = ("size", "length", "dtype", "mode", "seed")
"""Settings that a cell has as the study says them; others are resolved on the machine."""


def foreign_cells(study: Study, records: pd.DataFrame) -> list[str]:
    """The cells in the records that the study has not, in words."""
    listed: dict[str, list[dict[str, Any]]] = {}
    for group, point, _ in study.points():
        values = {name: getattr(point, name) for name in _TOLD}
        known = {name: value for name, value in values.items() if value is not None}
        listed.setdefault(group.workload, []).append(known)
    found = []
    for row in records.drop_duplicates("cell_id").to_dict("records"):
        described = json.loads(row["cell_json"])
        settings = {name: described.get(name, row[name]) for name in _TOLD}
        cell = {name: value for name, value in settings.items() if not pd.isna(value)}
        points = listed.get(row["workload"], []) if row["arm"] in study.arms else []
        same = any(all(point.get(k, v) == v for k, v in cell.items()) for point in points)
        if row["study"] != study.name or not same:
            words = f"{row['workload']} {row['size']} {row['arm']} length {row['length']}"
            found.append(f"{words} (study {row['study']})")
    return found


def foreign_text(found: Sequence[str], study: Study) -> str:
    """The first of them, and how many there are."""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"no cell of study {study.name}: {quoted(found[0])}{more}"


def about(study: Study, records: pd.DataFrame) -> dict[str, Any]:
    """What the manifest says of study and records."""

    def named(column: str) -> list[str]:
        return sorted(map(str, records[column].dropna().unique()), key=natural)

    return {
        "study": study.name,
        "created_at": records["recorded_at"].max().isoformat(),
        "machines": named("machine"),
        "fingerprints": named("fingerprint"),
        "git_revisions": named("git_revision"),
    }


# --- claims ---------------------------------------------------------------------------------------


class Stated(BaseModel):
    """What the records say to a claim. A number that is not known is null."""

    name: str
    verdict: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    at: str
    reason: str


def findings(folder: Path, records: pd.DataFrame) -> list[Finding]:
    """What the records in a results folder say to the claims of its study."""
    return judging.evaluate(records, claims.beside(folder))


def stated(finding: Finding) -> Stated:
    interval = finding.interval
    return Stated(
        name=finding.claim.name,
        verdict=finding.verdict,
        estimate=_known(interval.estimate),
        low=_known(interval.low),
        high=_known(interval.high),
        n=int(interval.n),
        unit=finding.unit,
        at=finding.at,
        reason=finding.reason,
    )


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def claims_text(found: Iterable[Finding]) -> str:
    """claims.json. An end of an interval may be infinite, which JSON has no number for: "inf"."""
    rows = [stated(finding).model_dump() for finding in found]
    return as_json([{key: _finite(value) for key, value in row.items()} for row in rows])


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def read_claims(folder: Path) -> list[Stated]:
    """claims.json of an unpacked bundle."""
    return read_list(folder / CLAIMS, TypeAdapter(Listed[Stated]))


# --- figures --------------------------------------------------------------------------------------


def draw(
    names: Iterable[str],
    records: pd.DataFrame,
    out: Path,
    formats: Sequence[str] = ("svg", "png"),
) -> dict[str, str]:
    """Draw figures into `out`; returns why, by name, for those that can't be drawn."""
    undrawn: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            plot(records, [name], out, formats)
        except UserError as error:
            undrawn[name] = str(error)
    return undrawn


# --- environment and versions ---------------------------------------------------------------------


def environment_text(records: pd.DataFrame) -> str:
    """environment.json: each capture that stands in the records once, with the cells it is of."""
    captured = records[records["environment_json"].notna()]
    captures = []
    for text, rows in captured.groupby("environment_json"):
        first, cells = rows.iloc[0], sorted(set(rows["cell_id"]))
        about = {"machine": first["machine"], "fingerprint": first["fingerprint"], "cells": cells}
        captures.append(about | {"environment": _read_json(str(text))})
    return as_json(sorted(captures, key=lambda capture: capture["cells"]))


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"records: environment_json is no JSON: {quoted(error)}") from None


def lock() -> list[str]:
    """`name==version` of every distribution that is installed here, sorted."""
    found = {(d.name, d.version) for d in importlib.metadata.distributions() if d.name}
    return sorted((f"{name}=={version}" for name, version in found), key=str.lower)


def versions() -> dict[str, str]:
    """Of what numbers and figures come from, here."""
    found = {name: importlib.metadata.version(name) for name in DRAWN_BY[1:]}
    return {"retnet-bench": __version__, "python": platform.python_version(), **found}


# --- JSON -----------------------------------------------------------------------------------------


def as_json(value: Any) -> str:
    try:
        return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    except (ValueError, RecursionError) as error:
        raise UserError(f"records: what they say is no JSON: {quoted(error)}") from None


def as_bytes(text: str) -> bytes:
    """A text as it is packed: UTF-8; what is no character (half a surrogate pair) as its escape."""
    return text.encode("utf-8", "backslashreplace")


def read_list(path: Path, adapter: TypeAdapter[Any]) -> Any:
    """A list of the adapter's models from a file. UserError names the field that is wrong."""
    try:
        return adapter.validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = quoted(".".join(map(str, problem["loc"])))
        raise UserError(f"{path}: {where or 'not a list'}: {problem['msg']}") from None
