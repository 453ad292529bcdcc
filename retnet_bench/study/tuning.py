"""A study's sweep as it runs: what is still to be trained, and what it has led to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from retnet_bench.analysis.tables import tuning
from retnet_bench.analysis.tables.choices import Best, Choice, choose
from retnet_bench.base import UserError
from retnet_bench.models.config import size as size_of
from retnet_bench.results.store import every_record, finished, read_records
from retnet_bench.study import plan
from retnet_bench.study.plan import Pair, Planned
from retnet_bench.study.study import Study
from retnet_bench.study.sweep import SWEEP

RATE = tuning.RATE
ALONE = 2.0
"""Factor by which a grid of one rate is extended."""


@dataclass(frozen=True)
class Sweep:
    """A study that says `tune`, and the records of its folder (None: none yet)."""

    study: Study
    records: pd.DataFrame | None = None
    here: bool = True
    """False: for a plan of another machine."""

    @cached_property
    def cells(self) -> list[Planned]:
        """The trainings of the grid as the study says it."""
        pairs = plan.make(self.study, here=self.here)
        return [p for pair in pairs for p in pair if p.cell.workload == SWEEP]

    @cached_property
    def further(self) -> list[Planned]:
        """The trainings by which the grid is extended, once and at one end, for an arm and size
        whose best rate is that end. Known as soon as all others of that arm and size are there."""
        return [p for group in self._places.values() for p in self._extended(group)]

    @property
    def grid(self) -> list[Pair]:
        """The trainings of the grid, those of all arms with the same settings together."""
        return _in_pairs(self.cells)

    @property
    def extension(self) -> list[Pair]:
        """`further`, likewise."""
        return _in_pairs(self.further)

    @property
    def waiting(self) -> list[Planned]:
        """What is still to be trained of it."""
        return [planned for planned in (*self.cells, *self.further) if not self._has([planned])]

    def choose(self, arm: str, size: str) -> Choice | None:
        """The settings of an arm at a size; None as long as a training of its is waiting."""
        groups = {place: group for place, group in self._places.items() if place[0] == arm}
        if not groups:
            return Choice({}, f"arm {arm} is not in the sweep: the recipe's settings")
        if any(planned.cell.arm == arm for planned in self.waiting):
            return None
        found = [best for place, group in groups.items() if (best := self._best(place, group))]
        if not found:
            tried = "; ".join(self._failed(size, group) for (_, size), group in groups.items())
            return Choice({}, "", f"no rate of its sweep gave a score: {tried}")
        return choose(size, size_of(size).d_model, found)

    @property
    def known(self) -> list[Pair]:
        """Every pair of the study as far as it is known: the sweep, then what waits for it."""
        return [*self.grid, *self.extension, *self.rest]

    @property
    def rest(self) -> list[Pair]:
        """Every pair that is not of the sweep, with the settings that it has led to so far."""
        found = plan.make(self.study, self.choose, here=self.here)
        return [pair for pair in found if pair[0].cell.workload != SWEEP]

    # --- what is there -------------------------------------------------------------------------

    @cached_property
    def _places(self) -> dict[tuple[str, str], list[Planned]]:
        """The grid by arm and size."""
        found: dict[tuple[str, str], list[Planned]] = {}
        for planned in self.cells:
            found.setdefault((planned.cell.arm, planned.cell.size), []).append(planned)
        return found

    @cached_property
    def _trained(self) -> pd.DataFrame:
        if self.records is None:
            return pd.DataFrame(columns=["cell_id"])
        return tuning.trainings(self.records)

    def _has(self, cells: list[Planned]) -> bool:
        return {planned.cell.cell_id for planned in cells} <= {*self._trained["cell_id"]}

    def _points(self, cells: list[Planned]) -> pd.DataFrame:
        ids = [planned.cell.cell_id for planned in cells]
        return tuning.points(self._trained[self._trained["cell_id"].isin(ids)])

    def _best_point(self, cells: list[Planned]) -> pd.Series | None:
        """The best point of cells that all are there; None where none has a score."""
        table = self._points(cells)
        best = table[table["best"]]
        return None if best.empty else best.iloc[0]

    def _extended(self, grid: list[Planned]) -> Iterator[Planned]:
        if not self._has(grid):
            return
        best = self._best_point(grid)
        if best is None or not best["at_end"]:
            return
        rates = sorted({planned.cell.learning_rate or 0.0 for planned in grid})
        beyond = _beyond(rates, float(best[RATE]))
        for planned in grid:
            if planned.cell.learning_rate == best[RATE] and _same(planned, best):
                cell = replace(planned.cell, learning_rate=beyond)
                yield replace(planned, cell=cell)

    def _best(self, place: tuple[str, str], grid: list[Planned]) -> Best | None:
        extended = [p for p in self.further if (p.cell.arm, p.cell.size) == place]
        best = self._best_point([*grid, *extended])
        if best is None:
            return None
        return tuning.best_of(best, [*self.study.tune.axes] if self.study.tune else [])

    def _failed(self, size: str, grid: list[Planned]) -> str:
        table = self._points(grid)
        rates = ", ".join(f"{rate:g}" for rate in sorted(table[RATE].unique()))
        why = table["why"].dropna()
        return f"size {size} at {rates}{f' ({why.iloc[0]})' if len(why) else ''}"


def of_folder(study: Study, folder: Path) -> Sweep:
    """The study's sweep as far as the records of a results folder have come; those of other
    versions of the study serve it, too, where they are of its cells."""
    return Sweep(study, read_records(every_record(folder)) if finished(folder) else None)


def stages(sweep: Callable[[], Sweep]) -> Iterator[tuple[Sweep, list[Pair]]]:
    """The parts of the plan of a study that tunes, each of which needs the records of those before
    it: the sweep's grid, what extends that, and the cells that wait for it; and with each the sweep
    as it is by then.

    `sweep` gives the study's sweep with the records that there are at that time. Raises UserError
    for records of the sweep that can't be read back.
    """
    first = sweep()
    yield first, first.grid
    last = sweep()
    if last.extension:
        yield last, last.extension
        last = sweep()
    if lost := ", ".join(planned.cell.name for planned in last.waiting):
        raise UserError(f"the sweep's records can't be read back: {lost}")
    yield last, last.rest


def _in_pairs(cells: Iterable[Planned]) -> list[Pair]:
    """Cells that are equal in everything but the arm, together, where the first of them stands."""
    found: dict[str, Pair] = {}
    for planned in cells:
        found.setdefault(planned.cell.pair_id, []).append(planned)
    return [*found.values()]


def _beyond(rates: list[float], best: float) -> float:
    """The rate beyond the end of `rates` that `best` is, by the factor between the last two; three
    digits."""
    if len(rates) == 1:
        return float(f"{best * ALONE:.3g}")
    neighbour = rates[1] if best == rates[0] else rates[-2]
    return float(f"{best * best / neighbour:.3g}")


def _same(planned: Planned, point: pd.Series) -> bool:
    """Whether a training has the point's other settings."""
    others = [axis for axis in tuning.AXES if axis != RATE]
    return all(tuning.plain(point[axis]) == getattr(planned.cell, axis) for axis in others)
