"""Records as they would be, had cells of them failed: a row each, with no measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from retnet_bench.results.coordinates import COORDINATES
from retnet_bench.results.schema import SCHEMA_VERSION
from retnet_bench.results.store import Store

_MEASURED = (
    *("process", "block", "order", "value", "samples", "kernel_dispatched", "predicted"),
    *("roofline_s", "bound", "flops_utilisation", "bandwidth_utilisation", "stderr_tail"),
)
_OF_THE_MODEL = (
    *("mismatch", "chunk", "d_model", "n_layers", "n_heads", "d_key", "d_value"),
    *("d_ffn", "decay", "gate", "head_norm", "n_params", "n_body_params", "flops_per_token"),
    "state_bytes",
)
"""What no row of a cell has that was found not to be possible before there was a model of it."""


def failed(
    records: pd.DataFrame, which: pd.Series | None = None, status: str = "diverged"
) -> pd.DataFrame:
    """The records, those cells whose rows are `which` (default: all) having failed."""
    lost = pd.Series(True, records.index) if which is None else which
    rows = records[lost].drop_duplicates("cell_id").copy()
    unknown = (*_MEASURED, *COORDINATES, *(_OF_THE_MODEL if status == "unsupported" else ()))
    for name in {*unknown} - {"shots", "task"}:
        rows[name] = pd.Series(None, rows.index, dtype=records[name].dtype)
    rows = rows.assign(metric="outcome", unit="", status=status, reason="made to fail")
    kept = records[~records["cell_id"].isin(rows["cell_id"])]
    return pd.concat([kept, rows], ignore_index=True).astype(records.dtypes.to_dict())


def write(records: pd.DataFrame, folder: Path) -> Path:
    """A results folder of these records."""
    rows = records.assign(schema_version=SCHEMA_VERSION).to_dict("records")
    with Store.alone(folder) as store:
        store.append([{k: v for k, v in row.items() if _is_there(v)} for row in rows], "part")
    return folder


def _is_there(value: Any) -> bool:
    return hasattr(value, "__len__") or not pd.isna(value)
