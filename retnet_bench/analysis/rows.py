"""Choosing rows of the records table, and grouping them into blocks and contracts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import Block
from retnet_bench.results.schema import OK_STATUSES

RUN = ["run_id", "process"]
"""What tells worker processes apart: an index starts anew in every run."""

BLOCK = [*RUN, "block"]
ENERGIES = ("gpu_energy_j", "gpu_integrated_energy_j", "cpu_energy_j")
"""Metrics of a block's energy; of two that a block has, the first is the better."""
COUNTS = ["document_tokens", "document_words", "document_bytes"]

_CONTRACT = [
    *("size", "batch", "length", "dtype", "mode", "threads", "device", "machine"),
    *("block_family", "match", "corpus", "tokenizer", "vocab_size", "seed", "token_budget"),
    *("kernel", "chunk", "decay", "gate", "head_norm"),
]
_WHERE = ["workload", "phase", "position"]  # which a failed cell did not reach


def measured(
    records: pd.DataFrame, metric: str, workload: str | None = None, phase: str | None = None
) -> pd.DataFrame:
    """Rows of `metric` that carry a value (status ok or impure), with `samples` never null."""
    chosen = (records["metric"] == metric) & records["status"].isin(OK_STATUSES)
    rows = records[chosen & _within(records, workload, phase) & records["value"].notna()]
    return with_samples(rows, [_samples(row) for row in rows[["samples", "value"]].to_numpy()])


def failed(
    records: pd.DataFrame, metric: str, workload: str | None = None, phase: str | None = None
) -> pd.DataFrame:
    """Rows that say why `metric` has no value: failed cells and unavailable readings."""
    lost = (records["metric"] == "outcome") & _within(records, workload, None)
    unread = (records["metric"] == metric) & _within(records, workload, phase)
    return records[(lost | unread) & ~records["status"].isin(OK_STATUSES)]


def with_samples(rows: pd.DataFrame, samples: Sequence[np.ndarray]) -> pd.DataFrame:
    return rows.assign(samples=pd.Series(list(samples), index=rows.index, dtype=object))


def blocks(rows: pd.DataFrame) -> list[Block]:
    """The blocks of `rows`, which must be of one point; rows without a block make one a process."""
    process = rows.groupby(RUN, dropna=False).ngroup().to_numpy()
    block = rows.groupby(BLOCK, dropna=False).ngroup().to_numpy()
    samples = rows["samples"].to_numpy()
    parts = [np.flatnonzero(block == index) for index in np.unique(block)]
    return [(int(process[part[0]]), np.concatenate(list(samples[part]))) for part in parts]


def per_block(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A row per cell and block of a timed `metric`, with the block's `median`.

    A decode block counts by its mean over positions.
    """
    values = measured(records, metric)
    if metric == "decode_step_s":
        values = over_positions(values)
    medians = np.array([np.median(samples) for samples in values["samples"]], dtype=float)
    return values.assign(median=medians)


def block_table(rows: pd.DataFrame, columns: str) -> pd.DataFrame:
    """Medians of blocks: a row per block (index `BLOCK`), a column per value of `columns`.

    Blocks that lack any of the columns are left out.
    """
    medians = rows.assign(median=[np.median(samples) for samples in rows["samples"]])
    table = medians.pivot_table(
        index=BLOCK, columns=columns, values="median", aggfunc="median", dropna=False
    )
    return table.dropna(axis="columns", how="all").dropna()


def along(
    rows: pd.DataFrame, x: str, columns: Sequence[str]
) -> tuple[list[pd.DataFrame], np.ndarray]:
    """Per name in `columns` a table (n_blocks, values of x), and the process of each row.

    Values of x may be different cells, so the i-th blocks of each make row i; spare ones are left.
    """
    line = rows.sort_values([x, *BLOCK])
    line = line.assign(row=line.groupby(x).cumcount())
    tables = [line.pivot(index="row", columns=x, values=name).dropna() for name in columns]
    first = line[x] == (tables[0].columns[0] if tables[0].shape[1] else np.nan)
    process = line.groupby(RUN, dropna=False).ngroup()[first]
    return tables, process.to_numpy()[: len(tables[0])]


def separators(
    measured: pd.DataFrame, failed: pd.DataFrame, x: str, per: Sequence[str], along: str = ""
) -> list[str]:
    """`per` and the further columns without which two contracts would share a point.

    Column `along` is what a point is computed along, so it never separates.
    """
    together = pd.concat([measured, failed])
    keys = ["arm", x, *per]
    for column in [*_CONTRACT, *_WHERE]:
        rows = measured if column in _WHERE else together
        if column not in [*keys, along] and _varies(rows, keys, column):
            keys.append(column)
    return keys[2:]


def documents(records: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and scored document, `value` its nll in nat, with its unit counts.

    Adds columns document_tokens, document_words and document_bytes (nan where not recorded). Of a
    document that was scored twice the later score counts.
    """
    chosen = records["metric"].isin(["document_nll_nat", *COUNTS]) & records["value"].notna()
    scored = records[chosen & records["status"].isin(OK_STATUSES)].sort_values("recorded_at")
    last = scored.drop_duplicates(["cell_id", "document", "metric"], keep="last")
    counts = last.pivot(index=["cell_id", "document"], columns="metric", values="value")
    counts = counts.reindex(columns=COUNTS).reset_index()
    return last[last["metric"] == "document_nll_nat"].merge(counts, on=["cell_id", "document"])


def energies(records: pd.DataFrame) -> pd.DataFrame:
    """Joules of each block that has any: columns [cell_id, *BLOCK, joules, source, window_s]."""
    keys = ["cell_id", *BLOCK]
    on_gpu = records["device"].astype(str).str.startswith("cuda")
    frames = [
        measured(records[on_gpu == (metric != "cpu_energy_j")], metric).assign(source=metric)
        for metric in ENERGIES
    ]
    best = pd.concat(frames).drop_duplicates(keys).rename(columns={"value": "joules"})
    window = measured(records, "energy_window_s").rename(columns={"value": "window_s"})
    return best[[*keys, "joules", "source"]].merge(window[[*keys, "window_s"]], on=keys)


def at_last_position(rows: pd.DataFrame) -> pd.DataFrame:
    """One position a cell, no longer kept: rows without a position, else those at the last one."""
    position = rows["position"].astype(float)
    last = position.fillna(np.inf).groupby(rows["cell_id"]).transform("max")
    return rows[position.fillna(np.inf) == last].assign(position=np.nan)


def over_positions(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per block whose only sample is the mean over positions of the block's curve.

    The mean is the trapezoid integral over the range of positions, so that positions need not be
    evenly spaced; position is no longer kept.
    """
    groups = [block for _, block in rows.groupby(["cell_id", *BLOCK], dropna=False)]
    whole = pd.concat([block.iloc[:1] for block in groups]) if groups else rows
    impure = [bool((block["status"] == "impure").any()) for block in groups]
    whole = whole.assign(position=np.nan, status=np.where(impure, "impure", whole["status"]))
    return with_samples(whole, [np.array([_mean_over_positions(block)]) for block in groups])


def _mean_over_positions(block: pd.DataFrame) -> float:
    rows = block.sort_values("position")
    values = np.array([np.median(samples) for samples in rows["samples"]])
    if len(rows) == 1:
        return float(values[0])
    steps = np.diff(rows["position"].to_numpy(dtype=float))
    return float((steps * (values[1:] + values[:-1]) / 2).sum() / steps.sum())


def _within(records: pd.DataFrame, workload: str | None, phase: str | None) -> pd.Series:
    inside = pd.Series(True, index=records.index)
    if workload is not None:
        inside &= records["workload"] == workload
    if phase is not None:
        inside &= records["phase"] == phase
    return inside


def _samples(row: np.ndarray) -> np.ndarray:
    samples, value = row
    kept = isinstance(samples, list | tuple | np.ndarray) and len(samples) > 0
    return np.asarray(samples if kept else [value], dtype=float)


def _varies(rows: pd.DataFrame, keys: list[str], column: str) -> bool:
    counts = rows.groupby(keys, dropna=False)[column].nunique(dropna=False)
    return bool((counts > 1).any())
