"""Predicted times corrected by the user's own records."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from retnet_bench.analysis.tables import rows
from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS
from retnet_bench.measure.devices import recognise
from retnet_bench.predict.footprint import footprint
from retnet_bench.results.schema import TIMES
from retnet_bench.workloads import Cell

if TYPE_CHECKING:
    import pandas as pd
from retnet_bench.predict.rooflines import operator_seconds, step_of
from retnet_bench.predict.targets import Target

Key = tuple[str, str, str, str]
TRAINED = "training_tokens_per_second"


@dataclass(frozen=True)
class Calibration:
    """Measured over predicted step time on records, by workload, kernel, dtype and mode."""

    ratios: dict[Key, tuple[float, ...]]
    watts: float | None = None
    """Median power over the blocks whose energy a counter told; None without such."""
    usual: float = 1.0
    """Taken where there is no record."""

    def factor(self, cell: Cell) -> float:
        """Median ratio of records like this cell."""
        found = self.ratios.get(_key(cell))
        return statistics.median(found) if found else self.usual

    def error(self, key: Key) -> float | None:
        """Median factor by which a record is missed when predicted from the others (1.1: by 10 %);
        None for a lone record, which has no others."""
        ratios = self.ratios[key]
        if len(ratios) < 2:
            return None
        misses = (
            abs(math.log(ratio / statistics.median(ratios[:i] + ratios[i + 1 :])))
            for i, ratio in enumerate(ratios)
        )
        return math.exp(statistics.median(misses))

    def lines(self) -> Iterator[str]:
        """One a kind of cell, for people."""
        for key, ratios in self.ratios.items():
            error = self.error(key)
            known = (
                "error not known from one" if error is None else f"typically {error - 1:.0%} off"
            )
            factor = statistics.median(ratios)
            summary = f"measured {factor:.3g} x predicted, {len(ratios)} cells, {known}"
            yield f"{' '.join(key)}: {summary}"


def _key(cell: Cell) -> Key:
    return cell.workload, cell.kernel, cell.dtype, cell.mode


def calibrate(records: pd.DataFrame, target: Target) -> Calibration:
    """The ratio on every cell of `records` that was timed on the target's machine, and on every
    training, which says its tokens per second itself. Decode counts at its last position."""
    ratios: dict[Key, list[float]] = defaultdict(list)
    own = records["machine"].map(lambda name: _same_machine(name, target)).astype(bool)
    records = records[own]
    timed = records[records["metric"].isin([*TIMES.values(), TRAINED]) & records["value"].notna()]
    for text, times in timed.groupby("cell_json"):
        cell = _cell(str(text), times)
        if cell is None:
            continue
        at = times["position"].dropna()
        position = int(at.max()) if len(at) else None
        last = times if position is None else times[(times["position"] == position).fillna(False)]
        measured = statistics.median(v for samples in last["samples"] for v in samples)
        if last["metric"].iloc[0] == TRAINED:
            measured = cell.batch * cell.length / measured
        try:
            found = footprint(step_of(cell, cell.matched().config, target.device, position))
        except UserError:
            continue
        predicted = operator_seconds(found, target.rates_of(cell), cell.mode, cell.parallel)
        if predicted:
            ratios[_key(cell)].append(measured / predicted)
    kept = {key: tuple(values) for key, values in ratios.items()}
    return Calibration(kept, _watts(records))


def _watts(records: pd.DataFrame) -> float | None:
    if "energy_window_s" not in set(records["metric"]):
        return None
    blocks = rows.energies(records)
    return float((blocks["joules"] / blocks["window_s"]).median()) if len(blocks) else None


def _same_machine(name: str, target: Target) -> bool:
    if not target.elsewhere:
        return name == target.rates.name
    known = recognise(name).value
    return known is not None and known.name == target.rates.name


def _cell(text: str, times: pd.DataFrame) -> Cell | None:
    """The cell of records, with the kernel and chunk that it took where they were chosen. None for
    one that an older version wrote and this one can't read, and for a pattern that chose."""
    try:
        cell = Cell.read(json.loads(text))
    except UserError:
        return None
    if not cell.is_open:
        return cell
    kernel = str(times["kernel_dispatched"].iloc[0]).split()[0]
    if cell.layers or kernel not in KERNELS:
        return None
    chunks = times["chunk"].dropna()
    chunk = {"chunk": int(chunks.iloc[0])} if len(chunks) else {}
    return replace(cell, kernel=kernel, open=None, options=replace(cell.options, **chunk))
