"""Records of a study's sweep, as if its trainings had come to the losses that a test says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from retnet_bench.results.schema import NAMES
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Cell

NATS = math.log(2)


def rows(planned: Planned, loss: float | None, at: int = 0) -> list[dict[str, Any]]:
    """Rows of a training with `loss` bits per byte on two documents; None: it diverged."""
    cell = planned.cell
    base: dict[str, Any] = dict.fromkeys(NAMES)
    names = {*vars(cell)} & {*NAMES}
    base |= {name: getattr(cell, name) for name in names}
    base |= {"cell_id": cell.cell_id, "pair_id": cell.pair_id, "cell_json": cell.canonical()}
    base |= {"d_model": planned.matched.config.d_model, "block_family": cell.block_family}
    base |= {"recorded_at": pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(at, "h")}
    base |= {
        "machine": "m",
        "run_id": "r",
        "process": 0,
        "learning_rate": cell.peak_learning_rate(),
    }
    if loss is None:
        failed = {"metric": "outcome", "status": "diverged", "reason": "loss above twice its best"}
        return [base | failed]
    scored = []
    for document, size in (("a", 100.0), ("b", 300.0)):
        for metric, value in (
            ("validation_nll_nat", loss * size * NATS),
            ("validation_bytes", size),
        ):
            found = {"metric": metric, "document": document, "value": value, "samples": [value]}
            scored.append(base | found | {"status": "ok", "phase": "validate"})
    return scored


def records(trained: Iterable[Planned], loss: Callable[[Cell], float | None]) -> pd.DataFrame:
    """The records of trainings whose loss is a function of their cell."""
    return pd.DataFrame([row for p in trained for row in rows(p, loss(p.cell))], columns=NAMES)
