"""Hand-made records with known answers, and the golden part made of them.

`python tests/golden/records.py` writes the parts of today's version, from the records of the one
before. A part stays as it is once written, because what it guards is that records of its version
remain readable.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zlib import crc32

import pandas as pd

from retnet_bench.results.schema import METRICS, NAMES, SCHEMA_VERSION
from retnet_bench.results.store import Store, read_records

FOLDER = Path(__file__).parent
RUN_1 = crc32(b"run-1")
Row = dict[str, Any]


def record(metric: str, arm: str = "retnet", **fields: Any) -> Row:
    """One record that fits the schema; `fields` replace or add columns."""
    workload = fields.get("workload") or METRICS[metric].workload or "train"
    kernel = "chunkwise" if arm.startswith("retnet") else "sdpa"
    row: Row = {
        "study": "golden",
        "run_id": "run-1",
        "arm": arm,
        "workload": workload,
        "recorded_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        "metric": metric,
        "unit": METRICS[metric].unit,
        "phase": workload,
        "process": 0,
        "status": "ok",
        "size": "1m",
        "block_family": "paper",
        "match": "params",
        "mismatch": 0.002,
        "batch": 2,
        "length": 512,
        "dtype": "fp32",
        "mode": "eager",
        "device": "cpu",
        "threads": 2,
        "mixer": "retention" if arm.startswith("retnet") else "attention",
        "kernel": kernel,
        "kernel_dispatched": kernel,
        "n_params": 1_000_000,
        "machine": "Test CPU",
        "fingerprint": "f00d",
        "torch_version": "2.0",
        "cell_json": "{}",
    }
    row |= fields
    if "recorded_at" not in fields:  # no two runs take a row in the same microsecond
        row["recorded_at"] += timedelta(microseconds=crc32(row["run_id"].encode()) - RUN_1)
    named = ("workload", "size", "batch", "length", "dtype", *(["seed"] if "seed" in row else []))
    contract = "-".join(str(row[name]) for name in named)
    return {"pair_id": contract, "cell_id": f"{arm}-{contract}"} | row


def blocks(metric: str, arm: str, levels: Iterable[float], **fields: Any) -> list[Row]:
    """A record per block; three samples around each level, whose median is the level."""
    return [
        record(metric, arm, block=i, samples=[level, 0.5 * level, 2 * level], **fields)
        for i, level in enumerate(levels)
    ]


def decode(arm: str, seconds_at: dict[int, float], n_blocks: int = 4, **fields: Any) -> list[Row]:
    """Blocks that all take the same time: seconds per position."""
    at = {"length": max(seconds_at)} | fields
    return [
        row
        for position, seconds in seconds_at.items()
        for row in blocks("decode_step_s", arm, [seconds] * n_blocks, position=position, **at)
    ]


def document(arm: str, name: str, nll: float, n_bytes: int = 100, **fields: Any) -> list[Row]:
    values = {"nll_nat": nll, "tokens": n_bytes / 4, "words": n_bytes / 5, "bytes": n_bytes}
    return [
        record(
            f"document_{key}",
            arm,
            **{"phase": "score", "context": "chunked", "document": name} | fields,
            samples=[float(value)],
        )
        for key, value in values.items()
    ]


def failure(arm: str, workload: str, status: str, **fields: Any) -> Row:
    why = {"reason": f"it ended in {status}", "stderr_tail": "the last line"}
    blank = {"phase": None, "process": None}
    return record("outcome", arm, workload=workload, status=status, **why, **blank, **fields)


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The table a reader would get, with `value` the median of the samples."""
    table = pd.DataFrame(list(rows), columns=NAMES)
    medians = [pd.Series(s).median() if isinstance(s, list) else None for s in table["samples"]]
    return table.assign(value=table["value"].astype(float).fillna(pd.Series(medians, dtype=float)))


def small_study() -> list[Row]:
    """Training at two lengths, a decode curve, memory, four documents and a failed cell."""
    rows: list[Row] = []
    for arm, factor in (("retnet", 1.0), ("transformer", 2.0)):
        for length in (512, 1024):
            levels = [factor * 0.1 * length / 512 * (1 + 0.01 * i) for i in (-1, 0, 0, 1)]
            rows += blocks("train_step_s", arm, levels, length=length)
        rise = 0.0 if arm == "retnet" else 1e-6
        rows += decode(arm, {p: 0.005 + rise * p for p in (1, 512, 1024)})
        rows += [
            row
            for year, nll in (("2001", 50.0), ("2002", 70.0), ("2003", 50.0), ("2004", 70.0))
            for row in document(arm, year, nll * factor)
        ]
        rows.append(record("peak_tensor_bytes", arm, samples=[factor * 2.0**40]))
    rows.append(failure("transformer", "train", "oom", length=2048))
    unread = {"status": "unavailable", "reason": "no CUDA device"}
    rows.append(record("cuda_peak_allocated_bytes", "retnet", **unread))
    return rows


def coordinates() -> list[Row]:
    """A value of each metric that has coordinates of its own, in two environments."""
    texts = ('{"cpu": {"model": "A"}}', '{"cpu": {"model": "B"}}')
    scored = {"phase": "score", "document": "d"}
    task = {"phase": "score", "task": "sva", "shots": 4}
    rows = [
        record("forms_relative_error", phase="check", check="fp64"),
        record("forms_relative_error", phase="check", check="compile"),
        record("decode_step_s", position=512),
        record("state_bytes", workload="decode", position=512),
        record("loss_after_steps_nat", step=5),
        record("train_loss_nat", phase="train", tokens_seen=2048),
        record("document_nll_nat", **scored, context="chunked"),
        record("context_nll_nat", **scored, context="window", context_length=256),
        record("position_nll_nat", **scored, context="carried", position=128),
        record("acc", **task),
        record("exact_match", **task, filter="strict match"),
        record("other_score", **task, score="bleu"),
        record("other_score", **task, filter="first line", score="bleu"),
        record("warmup_s", phase="warmup"),
        record("timed_s", phase="stop"),
        record("peak_rss_bytes", phase="train"),
        record("recall_correct", phase="score", pairs=8),
        record("candidate_step_s", phase="choice", candidate="chunkwise, chunk 64", reason="taken"),
    ]
    return [
        row | {"samples": [float(i + 1)], "environment_json": texts[i % 2], "process": i}
        for i, row in enumerate(rows)
    ]


def _rows_of(part: Path) -> list[Row]:
    """A part's records as they would be written today."""
    frame = read_records(part).astype(object)
    rows = frame.where(frame.notna(), None).drop(columns="schema_version").to_dict("records")
    return [row | {"recorded_at": row["recorded_at"].to_pydatetime()} for row in rows]


if __name__ == "__main__":
    new = Store(FOLDER / "new")
    older = FOLDER / f"v{SCHEMA_VERSION - 1}_small.parquet"
    parts = [
        new.append(_rows_of(older), f"v{SCHEMA_VERSION}_small"),
        new.append(coordinates(), f"v{SCHEMA_VERSION}_coordinates"),
    ]
    for part in parts:
        part.rename(FOLDER / part.name)
    new.records.rmdir()
    new.folder.rmdir()
