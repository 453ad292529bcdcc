"""Which cells of a results folder count: those of its study as a run last planned it.

A run writes their list beside study.yaml. Records of cells that the study no longer has stay on the
disk and serve again if it gets them back, but whoever reads the folder leaves them out and names
them in one line. Where there is no list, as in folders of earlier versions, every record counts;
so it does where the folder `records` or a part is read by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from retnet_bench import files
from retnet_bench.base import UserError, printable, warn_once

NAME = "cells.json"
EVAL = "eval"
"""Stands for the study in records of the verb `eval`, which are of none: they always count."""
MOST_BYTES = 50_000_000
"""Of the list. A cell has 150."""


@dataclass(frozen=True)
class Listed:
    """A cell of the study."""

    cell_id: str
    pair_id: str
    workload: str
    arm: str
    size: str
    waits: bool
    """For the study's sweep: its settings, and so its id, are not known yet."""


def write(folder: Path, cells: Iterable[Listed]) -> None:
    """Say which cells count from now on."""
    lines = ",\n".join(json.dumps(asdict(cell)) for cell in cells)
    files.write_text(folder / NAME, f"[\n{lines}\n]\n")


def read(folder: Path) -> list[Listed] | None:
    """The cells that count; None where nobody said. UserError for what is no such list."""
    path = folder / NAME
    if not path.is_file():
        return None
    with files.guarded(path, "read"), path.open("rb") as file:
        raw = file.read(MOST_BYTES)
    try:
        return [_listed(cell) for cell in json.loads(raw)]
    except (ValueError, TypeError, KeyError, RecursionError):
        words = "is no list of a study's cells; delete it, and run the study again, which writes it"
        raise UserError(f"{printable(path)} {words}") from None


def of(folders: Iterable[Path]) -> list[Listed] | None:
    """The cells that count in several folders; None unless each says which."""
    found = [read(folder) for folder in folders]
    lists = [cells for cells in found if cells is not None]
    return [cell for cells in lists for cell in cells] if len(lists) == len(found) else None


def _listed(raw: dict[str, Any]) -> Listed:
    texts = {name: raw[name] for name in ("cell_id", "pair_id", "workload", "arm", "size")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError
    return Listed(**texts, waits=bool(raw["waits"]))


def ids(folder: Path) -> set[str] | None:
    """The ids of the cells that count, and those that they have where their jobs ran; None where
    nobody said."""
    listed = read(folder)
    if listed is None:
        return None
    found = {cell.cell_id for cell in listed}
    pairs = {cell.pair_id for cell in listed if not cell.waits}
    return found.union(*(_of_job(folder / "jobs" / f"{pair}.outcome.json") for pair in pairs))


def earlier(folder: Path, cells: pd.DataFrame) -> set[str]:
    """Of `cells`, with columns [cell_id, study], the ids of those that don't count."""
    known = ids(folder)
    if known is None:
        return set()
    return {*cells.loc[cells["study"] != EVAL, "cell_id"]} - known


def _of_job(path: Path) -> set[str]:
    """Ids that a pair's cells had where its job ran: `auto` may mean other things there. What is no
    such file says nothing here; `status` complains of it."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        return {str(cell) for cell in json.loads(path.read_bytes())["cells"]}
    return set()


def counting(folder: Path, records: pd.DataFrame) -> pd.DataFrame:
    """`records` of a folder without those of earlier versions of its study, which a line on stderr
    names. UserError where nothing else is there."""
    gone = earlier(folder, records[["cell_id", "study"]])
    if not gone:
        return records
    lost = records["cell_id"].isin(gone)
    count, of = len(gone), records["cell_id"].nunique()
    is_are = "cell is" if of == 1 else "cells is" if count == 1 else "cells are"
    said = f"{printable(folder)}: {count} of {of} {is_are} of an earlier version of its study"
    if lost.all():
        raise UserError(f"{said}, and none of it as it is now: run it again")
    warn_once(f"{said} and left out, such as {_words(records[lost].iloc[0])}")
    return records[~lost].reset_index(drop=True)


def _words(row: pd.Series) -> str:
    rate = "" if pd.isna(row["learning_rate"]) else f" learning_rate {row['learning_rate']:g}"
    shape = f"{row['size']} {row['arm']} length {row['length']} batch {row['batch']}"
    return printable(f"{row['workload']} {shape}{rate}")
