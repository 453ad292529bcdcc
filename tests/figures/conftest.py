"""Synthetic records, true to the schema: two arms, several lengths, batches, blocks, failures.

Times are simple functions of length with a little deterministic noise, so that the crossover and
the slopes are known: training costs 2 us a token for retnet and (1 us + length * 1 ns) a token for
transformer (crossover at 1000 tokens); a decode step takes 5 ms for retnet and 2 ms + 2 us a
position for transformer (crossover at 1500 tokens).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from retnet_bench.results.schema import NAMES, SCHEMA_VERSION, arrow_schema

ARMS = ("retnet", "transformer")
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
SIZES = {"1m": (1_000_000, 4.0), "4m": (4_000_000, 3.5), "16m": (16_000_000, 3.2)}
BLOCKS = 6
MACHINE = "Imaginary CPU, 8 threads"
Row = dict[str, object]


def record(arm: str, workload: str, metric: str, unit: str, **fields: object) -> Row:
    """One row with every column of the schema; `samples` gives `value` when it is not given."""
    mixer, kernel = ("retention", "chunkwise") if arm == "retnet" else ("attention", "sdpa")
    row: Row = dict.fromkeys(NAMES)
    row |= {"study": "synthetic", "run_id": "run", "arm": arm, "workload": workload}
    row |= {"recorded_at": datetime(2026, 1, 1, tzinfo=timezone.utc), "status": "ok"}
    row |= {"metric": metric, "unit": unit, "phase": workload, "process": 0}
    row |= {"size": "4m", "block_family": "paper", "match": "params", "mismatch": 0.002}
    row |= {"batch": 8, "length": 1024, "dtype": "fp32", "mode": "eager", "device": "cpu"}
    row |= {"threads": 8, "vocab_size": 256, "seed": 0, "mixer": mixer, "kernel": kernel}
    row |= {"kernel_dispatched": kernel, "n_params": 4_000_000, "machine": MACHINE}
    row |= {"fingerprint": "f", "torch_version": "2.13", "schema_version": SCHEMA_VERSION}
    row |= {"corpus": "sotu", "tokenizer": "byte", "n_body_params": 3_900_000}
    row |= fields
    contract = [str(row[name]) for name in ("workload", "size", "batch", "length", "dtype")]
    row["pair_id"] = row["pair_id"] or "-".join(contract)
    row["cell_id"] = row["cell_id"] or f"{arm}-{row['pair_id']}"
    row["cell_json"] = json.dumps({"id": row["cell_id"]})
    if row["samples"] is not None and row["value"] is None:
        row["value"] = float(np.median(row["samples"]))
    return row


def failure(arm: str, workload: str, status: str, **fields: object) -> Row:
    reason = {"oom": "allocation of 70 GB failed", "timeout": "longer than 600 s"}.get(status, "")
    return record(arm, workload, "outcome", "", status=status, reason=reason, **fields)


def blocks(seconds: float, seed: str) -> Iterator[Row]:
    """Fields of `BLOCKS` blocks of five samples around `seconds`, 2 % apart between blocks."""
    noise = np.random.default_rng(list(seed.encode()))
    for block in range(BLOCKS):
        level = seconds * (1 + 0.02 * noise.standard_normal())
        samples = [level * (1 + 0.005 * noise.standard_normal()) for _ in range(5)]
        yield {"block": block, "order": 2 * block, "process": block % 2, "samples": samples}


def train_step_s(arm: str, length: int, batch: int = 8) -> float:
    per_token_s = 2e-6 if arm == "retnet" else 1e-6 + length * 1e-9
    return per_token_s * length * batch


def decode_step_s(arm: str, position: int, batch: int = 8) -> float:
    if arm == "retnet":
        return 5e-3 + 1e-5 * batch
    return 2e-3 + 2e-6 * position * batch / 8


def train_rows() -> Iterator[Row]:
    for length in LENGTHS:
        for arm in ARMS:
            if (arm, length) == ("transformer", 8192):
                yield failure(arm, "train", "oom", length=length)
                continue
            for fields in blocks(train_step_s(arm, length), f"{arm} {length}"):
                yield record(arm, "train", "train_step_s", "s", length=length, **fields)
            peak = 1e9 + (2e5 if arm == "retnet" else 9e5) * length
            yield record(arm, "train", "peak_tensor_bytes", "bytes", length=length, value=peak)
    yield failure("retnet", "train", "timeout", length=16384)
    yield failure("transformer", "train", "oom", length=16384)


def decode_rows() -> Iterator[Row]:
    for length in LENGTHS[1:]:
        for batch in (1, 4, 8):
            for arm in ARMS:
                if (arm, length, batch) == ("transformer", 8192, 8):
                    yield failure(arm, "decode", "oom", length=length, batch=batch)
                else:
                    yield from _decode_cell(arm, length, batch)


def _decode_cell(arm: str, length: int, batch: int) -> Iterator[Row]:
    cell = {"length": length, "batch": batch}
    for position in np.linspace(1, length, 5).astype(int):
        for fields in blocks(decode_step_s(arm, position, batch), f"{arm} {cell} {position}"):
            at = {"position": int(position), **fields, **cell}
            yield record(arm, "decode", "decode_step_s", "s", **at)
    state = 4_000_000 * batch if arm == "retnet" else 16_000 * length * batch
    sizes = {"weight_bytes": 16e6, "state_bytes": state, "peak_tensor_bytes": 17e6 + 1.1 * state}
    for metric, value in sizes.items():
        yield record(arm, "decode", metric, "bytes", value=value, phase="decode", **cell)


def perplexity_rows() -> Iterator[Row]:
    noise = np.random.default_rng(0)
    for size, (n_params, nats) in SIZES.items():
        for document in range(12):
            level = nats + 0.2 * noise.standard_normal()
            for arm in ARMS:
                gain = 0.02 * (n_params / 4e6 - 1) if arm == "retnet" else 0.0
                yield from _document(arm, size, n_params, f"year-{document}", level - gain)


def _document(arm: str, size: str, n_params: int, name: str, nats: float) -> Iterator[Row]:
    counts = {"tokens": 1000.0, "bytes": 4000.0, "words": 800.0}
    about = {"size": size, "n_params": n_params, "document": name, "token_budget": 10_000_000}
    about |= {"block": 0, "tokenizer": "bpe:4096", "vocab_size": 4096}
    nll = nats * counts["tokens"]
    yield record(arm, "perplexity", "document_nll_nat", "nat", value=nll, samples=[nll], **about)
    for unit, count in counts.items():
        metric = f"document_{unit}"
        yield record(arm, "perplexity", metric, unit, value=count, samples=[count], **about)


@pytest.fixture(scope="session")
def records() -> pd.DataFrame:
    rows = [*train_rows(), *decode_rows(), *perplexity_rows()]
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}  # as the store reads
    return pa.Table.from_pylist(rows, schema=arrow_schema()).to_pandas(types_mapper=nullable.get)
