"""The columns of a record that hold its prediction beside what was measured."""

from __future__ import annotations

import statistics
from typing import Any

from retnet_bench.base import UserError
from retnet_bench.predict.footprint import Footprint, footprint
from retnet_bench.predict.rooflines import MODELLED, operator_seconds, roofline, step_of
from retnet_bench.predict.targets import Target
from retnet_bench.results.schema import TIMES
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Sample

PEAKS = {"cpu": "peak_tensor_bytes", "cuda": "cuda_peak_allocated_bytes"}


def columns(planned: Planned, target: Target, sample: Sample) -> dict[str, Any]:
    """The columns of group "cost" for the row of `sample`; {} where nothing can be said.

    `predicted` is in the sample's own unit: a time's floor operator by operator, a peak's or a
    state's bytes; null in modes that allocate or launch otherwise than eager. Utilisations are
    against the target's rates, for the median of the samples.
    """
    cell = planned.cell
    if planned.unsupported is not None or not sample.values or cell.workload not in MODELLED:
        return {}
    if sample.metric == TIMES.get(cell.workload):
        return _time_columns(planned, target, sample)
    if cell.mode == "eager" and sample.metric == PEAKS[target.device]:
        found = _footprint(planned, target, None)
        return {} if found is None else {"predicted": float(found.peak_bytes)}
    return {}


def _footprint(planned: Planned, target: Target, position: int | None) -> Footprint | None:
    try:
        config = planned.matched.config
        return footprint(step_of(planned.cell, config, target.device, position))
    except UserError:
        return None


def _time_columns(planned: Planned, target: Target, sample: Sample) -> dict[str, Any]:
    cell, config = planned.cell, planned.matched.config
    of = target.rates_of(cell)
    value, at = statistics.median(sample.values), sample.coordinates.get("position")
    assert at is None or isinstance(at, int)
    found = _footprint(planned, target, at)
    line = roofline(cell, config, of, found.launches if found else None, at, found)
    eager = found if cell.mode == "eager" else None
    floor = operator_seconds(eager, of, cell.mode, cell.parallel) if eager else None
    return {
        "predicted": floor,
        "roofline_s": line.seconds,
        "bound": line.bound,
        "flops_utilisation": None if line.compute_s is None else line.compute_s / value,
        "bandwidth_utilisation": None if line.bandwidth_s is None else line.bandwidth_s / value,
    }
