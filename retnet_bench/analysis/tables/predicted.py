"""What the cost model predicted beside what was measured, from records alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retnet_bench.analysis.tables.rows import at_last_position
from retnet_bench.results.schema import OK_STATUSES, TIMES

STEPS = tuple(TIMES.values())
PEAKS = ("peak_tensor_bytes", "cuda_peak_allocated_bytes")
WHERE = ["study", "workload", "size", "block_family", "arm", "kernel", "length", "batch"]
"""What names a cell in a table; the rest of its contract is the study's."""
_CELL = [*WHERE, "cell_id", "machine", "n_params", "metric"]
_ELEMENT_BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
_TRAINED = ("train", "perplexity")
"""Workloads whose weights stay fp32 in half precision."""


def peaks(records: pd.DataFrame) -> pd.DataFrame:
    """Bytes at the peak of a step: [*WHERE, metric, predicted, measured, difference].

    `difference` is relative to what was measured. Cells without a prediction are left out.
    """
    return _compared(_predicted(records, PEAKS))


def weights_and_states(records: pd.DataFrame) -> pd.DataFrame:
    """Bytes of weights and states, closed form beside tensors: the columns of `peaks`.

    The closed form of the weights has no buffers (angles of rotation, decays); states are those at
    the cell's whole length.
    """
    chosen = _measured(records, ("weight_bytes", "state_bytes"))
    whole = chosen["position"].isna() | (chosen["position"] == chosen["length"]).fillna(False)
    rows = chosen[whole]
    element = rows["dtype"].map(_ELEMENT_BYTES).astype(float)
    trained = rows["workload"].isin(_TRAINED)
    weights = rows["n_params"].astype(float) * element.where(~trained, element.clip(lower=4))
    states = rows["state_bytes"].astype(float)
    closed = weights.where(rows["metric"] == "weight_bytes", states)
    return _compared(rows.assign(predicted=closed))


def times(records: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a step, the median of its blocks, beside its floor operator by operator.

    Columns [*WHERE, metric, predicted, measured, ratio, roofline_s, bound, roofline_share,
    flops_utilisation, bandwidth_utilisation]; `ratio` is measured over predicted, `roofline_share`
    the roofline over measured. Decode: at the last position. Cells without a prediction are left
    out.
    """
    rows = at_last_position(_predicted(records, STEPS))
    frame = _medians(
        rows, ["predicted", "value", "roofline_s", "flops_utilisation", "bandwidth_utilisation"]
    )
    bounds = rows.drop_duplicates("cell_id").set_index("cell_id")["bound"]
    ratio = frame["value"] / frame["predicted"]
    share = frame["roofline_s"] / frame["value"]
    frame = frame.assign(ratio=ratio, roofline_share=share, bound=frame["cell_id"].map(bounds))
    frame = frame.rename(columns={"value": "measured"})
    columns = ["predicted", "measured", "ratio", "roofline_s", "bound", "roofline_share"]
    utilisations = ["flops_utilisation", "bandwidth_utilisation"]
    return frame[[*WHERE, "metric", *columns, *utilisations]]


def without(records: pd.DataFrame, metrics: tuple[str, ...]) -> int:
    """How many cells have one of the metrics and no prediction of it."""
    known = set(_predicted(records, metrics)["cell_id"])
    return len(set(_measured(records, metrics)["cell_id"]) - known)


def _measured(records: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    chosen = records["metric"].isin(metrics) & records["status"].isin(OK_STATUSES)
    return records[chosen & records["value"].notna()]


def _predicted(records: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    rows = _measured(records, metrics)
    return rows[rows["predicted"].notna()]


def _medians(rows: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """A row per cell and metric, in the order of the tables."""
    numbers = rows.assign(**{name: rows[name].astype(float) for name in values})
    frame = numbers.groupby(_CELL, dropna=False)[values].median().reset_index()
    return frame.sort_values(
        ["study", "workload", "n_params", "block_family", "length", "batch", "metric", "arm"]
    ).reset_index(drop=True)


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    frame = _medians(rows, ["predicted", "value"]).rename(columns={"value": "measured"})
    difference = np.where(
        frame["measured"] != 0, frame["predicted"] / frame["measured"] - 1, np.nan
    )
    frame = frame.assign(difference=difference)
    return frame[[*WHERE, "metric", "predicted", "measured", "difference"]]
