"""Choosing rows of the records table, and grouping them into blocks and contracts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics.replication import Scores
from retnet_bench.analysis.statistics.resampling import TimedBlock
from retnet_bench.base import UserError
from retnet_bench.results.coordinates import COORDINATES
from retnet_bench.results.schema import OK_STATUSES

PROCESS_KEYS = ["run_id", "process"]
"""What tells worker processes apart: an index starts anew in every run."""

BLOCK_KEYS = [*PROCESS_KEYS, "block"]
ENERGIES = ("gpu_energy_j", "gpu_integrated_energy_j", "cpu_energy_j")
"""Metrics of a block's energy; of two that a block has, the first is the better."""
UNITS = ("tokens", "words", "bytes")

PAIR_KEYS = [
    *("size", "batch", "length", "new_tokens", "dtype", "mode", "threads", "device", "parallel"),
    *("machine", "match", "corpus", "tokenizer", "vocab_size", "seed", "token_budget"),
    *("score_split", "learning_rate", "tuned"),
]
"""The contract of a pair: columns that are equal in all of its arms."""

_CONTRACT = [*PAIR_KEYS, "key_dim", "block_family", "kernel", "chunk", "decay", "gate", "head_norm"]
_BLANK: dict[str, Any] = {"context": "", "document": "", "position": -1, "context_length": -1}
_SCORED = ["cell_id", *_BLANK]
_WHERE = ["workload", *(name for name in COORDINATES if name not in ("task", "document"))]
"""Where a value was taken, which a failed cell did not reach."""


def replica(metric: str) -> str:
    """What the intervals of `metric` are made of: documents of a score, blocks of anything else."""
    return (
        "document"
        if metric.startswith(("document_", "context_", "position_", "ar_", "perplexity"))
        else "block"
    )


def measured(
    records: pd.DataFrame, metric: str, workload: str | None = None, phase: str | None = None
) -> pd.DataFrame:
    """Rows of `metric` that carry a value (status ok or impure), with `samples` never null."""
    chosen = (records["metric"] == metric) & records["status"].isin(OK_STATUSES)
    rows = records[chosen & _within(records, workload, phase) & records["value"].notna()]
    return with_samples(rows, samples(rows))


def failed(
    records: pd.DataFrame, metric: str, workload: str | None = None, phase: str | None = None
) -> pd.DataFrame:
    """Rows that say why `metric` has no value: failed cells and unavailable readings; none of a
    length that is not recorded, which would have no place in a curve."""
    lost = (records["metric"] == "outcome") & _within(records, workload, None)
    unread = (records["metric"] == metric) & _within(records, workload, phase)
    placed = records["length"].notna()
    return records[(lost | unread) & placed & ~records["status"].isin(OK_STATUSES)]


def with_samples(rows: pd.DataFrame, samples: Iterable[np.ndarray]) -> pd.DataFrame:
    return rows.assign(samples=pd.Series(list(samples), index=rows.index, dtype=object))


def samples(rows: pd.DataFrame) -> np.ndarray:
    """Those of each row, an array of arrays: its value alone where it has none."""
    found = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows[["samples", "value"]].to_numpy()):
        found[i] = _samples(row)
    return found


def places(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """A number for the process of each row, and one for its block; rows without a block make one a
    process."""
    process = processes(rows)
    return process, _numbers([process, rows["block"]])


def processes(rows: pd.DataFrame) -> np.ndarray:
    """A number for the process of each row."""
    return _numbers([rows[key] for key in PROCESS_KEYS])


def timed(process: np.ndarray, block: np.ndarray, samples: np.ndarray) -> list[TimedBlock]:
    """The blocks of one point, from the places and samples of its rows."""
    parts = [np.flatnonzero(block == index) for index in np.unique(block)]
    return [
        TimedBlock(int(process[part[0]]), np.concatenate(list(samples[part]))) for part in parts
    ]


def blocks(rows: pd.DataFrame) -> list[TimedBlock]:
    """The blocks of `rows`, which must be of one point."""
    return timed(*places(rows), rows["samples"].to_numpy())


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
    """Medians of blocks: a row per block (index `BLOCK_KEYS`), a column per value of `columns`.

    Blocks that lack any of the columns are left out.
    """
    medians = rows.assign(median=[np.median(samples) for samples in rows["samples"]])
    table = medians.pivot_table(
        index=BLOCK_KEYS, columns=columns, values="median", aggfunc="median", dropna=False
    )
    return table.dropna(axis="columns", how="all").dropna()


def aligned_blocks(
    rows: pd.DataFrame, x: str, columns: Sequence[str]
) -> tuple[list[pd.DataFrame], np.ndarray]:
    """Per name in `columns` a table (n_blocks, values of x), and the process of each row.

    Values of x may be different cells, so the i-th blocks of each make row i; spare ones are left,
    and rows without an x.
    """
    line = rows.dropna(subset=x).sort_values([x, *BLOCK_KEYS])
    line = line.assign(row=line.groupby(x).cumcount())
    tables = [line.pivot(index="row", columns=x, values=name).dropna() for name in columns]
    first = line[x] == (tables[0].columns[0] if tables[0].shape[1] else np.nan)
    return tables, processes(line)[first][: len(tables[0])]


def separators(
    measured: pd.DataFrame, failed: pd.DataFrame, x: str, per: Sequence[str], over: str = ""
) -> list[str]:
    """`per` and the further columns without which two contracts would share a point.

    Column `over` is what a point is computed along, so it never separates.
    """
    together = pd.concat([measured, failed])
    keys = _with_varying(together, ["arm", x, *per], [c for c in _CONTRACT if c != over])
    return _with_varying(measured, keys, [c for c in _WHERE if c != over])[2:]


def documents(records: pd.DataFrame, kind: str = "document") -> pd.DataFrame:
    """One row per cell, context, scored document and place, `value` its nll in nat.

    `kind` says what was scored: the whole `document`, its part up to a `context`, its part in a
    bucket of a `position`, or its tokens that are an `ar_hit` or `ar_other`. Adds columns
    document_tokens, document_words and document_bytes of that part (nan where not recorded). Of
    what was scored twice the later score counts. Where no document is named, one stands for all.
    """
    counts = {f"{kind}_{unit}": f"document_{unit}" for unit in UNITS}
    chosen = records["metric"].isin([f"{kind}_nll_nat", *counts]) & records["value"].notna()
    scored = records[chosen & records["status"].isin(OK_STATUSES)].sort_values("recorded_at")
    filled = {  # past pandas' fillna and where, of which version 2 warns that they guess a dtype
        name: np.where(scored[name].isna(), blank, scored[name].astype(object))
        for name, blank in _BLANK.items()
    }
    scored = scored.assign(**filled)
    last = scored.drop_duplicates([*_SCORED, "metric"], keep="last")
    table = last.pivot(index=_SCORED, columns="metric", values="value")
    table = table.reindex(columns=list(counts)).rename(columns=counts).reset_index()
    return last[last["metric"] == f"{kind}_nll_nat"].merge(table, on=_SCORED)


def in_common(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows whose columns hold what all arms of a pair have equal: null where each arm has a setting
    from its own sweep (column `tuned`)."""
    own = [words.split(", ") for words in frame["tuned"].astype(object).fillna("")]
    names = {name for words in own for name in words} & {*PAIR_KEYS}
    masked = {name: frame[name].mask(np.array([name in words for words in own])) for name in names}
    return frame.assign(**masked)


def scores(groups: Sequence[pd.DataFrame], unit: str) -> list[Scores]:
    """Rows of `documents`, a group for each point, as nat per seed over the documents that every
    seed of every group scored. `unit` is tokens, words or bytes; documents without it are left out.

    UserError when two cells of a group have one seed: they are not replicas of one contract.
    """
    known = [group[group[f"document_{unit}"] > 0] for group in groups]
    for group in known:
        one_cell_per_seed(group)
    tables = [group.pivot(index="cell_id", columns="document", values="value") for group in known]
    named = [set(map(str, table.dropna(axis="columns").columns)) for table in tables]
    shared = sorted(set.intersection(*named))
    counts = [group.groupby("document")[f"document_{unit}"].first() for group in known]
    return [
        Scores(table[shared].to_numpy(dtype=float), count[shared].to_numpy(dtype=float))
        for table, count in zip(tables, counts, strict=True)
    ]


def one_cell_per_seed(group: pd.DataFrame) -> None:
    """UserError when two cells have one seed: they are not replicas of one contract."""
    cells = group.groupby("seed", dropna=False)["cell_id"].nunique()
    if (cells > 1).any():
        raise UserError(
            f'arm "{group["arm"].iloc[0]}" has {cells.max()} cells of one size and seed: give arms '
            "that differ in settings names of their own, read studies apart that do, or choose "
            "some of them with --where"
        )


def energies(records: pd.DataFrame) -> pd.DataFrame:
    """Joules of each block that has any: columns [cell_id, *BLOCK, joules, source, window_s]."""
    keys = ["cell_id", *BLOCK_KEYS]
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
    block = _numbers([rows[key] for key in ("cell_id", *BLOCK_KEYS)])
    position = rows["position"].to_numpy(dtype=float)
    is_impure = (rows["status"] == "impure").to_numpy(dtype=bool)
    medians = np.array([np.median(samples) for samples in rows["samples"]], dtype=float)
    order = np.lexsort((position, block))
    parts = np.split(order, np.flatnonzero(np.diff(block[order])) + 1) if len(rows) else []
    means = [_mean_over_positions(position[part], medians[part]) for part in parts]
    impure = [is_impure[part].any() for part in parts]
    whole = rows.iloc[[part.min() for part in parts]]
    whole = whole.assign(position=np.nan, status=np.where(impure, "impure", whole["status"]))
    return with_samples(whole, [np.array([mean]) for mean in means])


def _mean_over_positions(position: np.ndarray, values: np.ndarray) -> float:
    """The mean of `values` (n,) along `position` (n,), which rises."""
    steps = np.diff(position)
    if not steps.sum() > 0:  # one position, or none that is known
        return float(values.mean())
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


def pair_keys(frame: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """`keys` and the columns of a pair's contract without which two pairs would share a row."""
    return _with_varying(frame, keys, PAIR_KEYS)


def _with_varying(frame: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> list[str]:
    """`keys` and, one by one, those of `columns` that still vary where all before are equal."""
    found = list(keys)
    if frame.empty:
        return found
    groups = _numbers([frame[column] for column in found])
    for column in columns:
        if column in found:
            continue
        finer = _numbers([groups, frame[column]])
        if finer.max() > groups.max():
            found.append(column)
            groups = finer
    return found


def _numbers(columns: Sequence[pd.Series | np.ndarray]) -> np.ndarray:
    """A number for each row, equal where all `columns` are, from 0 without a gap in the order of
    their values; nulls are equal, and come last. (As `groupby(...).ngroup()`, many times faster.)
    """
    found = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, different = pd.factorize(column, sort=True, use_na_sentinel=False)
        found = np.unique(found * len(different) + values, return_inverse=True)[1]
    return found
