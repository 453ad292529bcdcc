"""The pairs of a study, at the same places wherever it is planned: a job is one of them by place.

A study that tunes grows as its sweep ends: first stands the grid, then what extends it, then the
cells that wait for it. A place is used only once every pair before it is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from retnet_bench.results.store import every_record, finished, read_records
from retnet_bench.run.jobs.book import Book
from retnet_bench.study import plan, tuning
from retnet_bench.study.plan import Pair
from retnet_bench.study.study import Study
from retnet_bench.study.tuning import Sweep


@dataclass(frozen=True)
class Stage:
    """Pairs of a study that can be run once those of the stages before it have been."""

    pairs: list[Pair]
    """Every pair known so far."""
    places: range
    """Those of this stage among them."""

    @property
    def own(self) -> list[Pair]:
        return self.pairs[self.places.start : self.places.stop]


def pairs(study: Study, book: Book) -> list[Pair]:
    """Every pair that is known so far."""
    return plan.make(study) if study.tune is None else _sweep(study, book).known


def stages(study: Study, planned: list[Pair], book: Book) -> Iterator[Stage]:
    """One, of the study as it was planned; of a study that tunes up to three, each planned from the
    records of those before it. Raises UserError for records of a sweep that can't be read back."""
    if study.tune is None:
        yield Stage(planned, range(len(planned)))
        return
    before = 0
    for sweep, own in tuning.stages(lambda: _sweep(study, book)):
        yield Stage(sweep.known, range(before, before + len(own)))
        before += len(own)


def _sweep(study: Study, book: Book) -> Sweep:
    """The study's sweep, its trainings under the ids that they have here: where a job ran, `auto`
    may mean another device, kernel or number of threads."""
    if not finished(book.results):
        return Sweep(study)
    records, grid = read_records(every_record(book.results)), Sweep(study).grid
    extension = Sweep(study, _with_ids_here(records, grid, book)).extension
    return Sweep(study, _with_ids_here(records, [*grid, *extension], book))


def _with_ids_here(records: pd.DataFrame, known: list[Pair], book: Book) -> pd.DataFrame:
    here: dict[str, str] = {}
    for pair in known:
        ids = [planned.cell.cell_id for planned in pair]
        ran = book.ran_as(pair[0].cell.pair_id, ids)
        here |= {there: own for own, there in ran.items()}
    return records.assign(cell_id=records["cell_id"].replace(here))
