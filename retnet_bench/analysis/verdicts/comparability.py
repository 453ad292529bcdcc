"""Whether two cells may be compared, and words for why not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from retnet_bench.results.coordinates import COORDINATES
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.soundness import LEFT_OUT

_NAMED = ("workload", "arm", "size", "length", "batch", "dtype", "mode")


def about_cell(cell: pd.DataFrame) -> dict[str, Any]:
    first = cell.iloc[0]
    named = {key: None if pd.isna(first[key]) else first[key] for key in _NAMED}
    for key in ("length", "batch"):
        named[key] = None if named[key] is None else int(str(named[key]))
    return {"cell_id": first["cell_id"], **named}


def is_measured(cell: pd.DataFrame) -> bool:
    return bool((cell["status"].isin(OK_STATUSES) & (cell["metric"] != "outcome")).any())


def is_left_out(cell: pd.DataFrame) -> bool:
    """Whether the cell's records hold values that cannot be, which say nothing of the code."""
    return not is_measured(cell) and bool((cell["status"] == LEFT_OUT).any())


def failure_text(cell: pd.DataFrame) -> str:
    """Status and reason of a cell that has no measurement."""
    last = cell.sort_values("recorded_at").iloc[-1]
    return f"{last['status']}: {last['reason']}" if last["reason"] else str(last["status"])


COPIED = "the very same records stand on both sides: measure the candidate anew"


def same_records(candidate: pd.DataFrame, baseline: pd.DataFrame) -> bool:
    """Whether the candidate's rows are copies, as in a results folder that was carried over."""
    keys = ["recorded_at", "metric", *COORDINATES, "process", "block", "value"]
    a, b = (
        set(cell[keys].astype(str).itertuples(index=False, name=None))
        for cell in (candidate, baseline)
    )
    return a == b


def nearest_text(cell: pd.DataFrame, others: Iterable[pd.DataFrame]) -> str:
    """Words for the fields that keep a cell from being one of the other side's."""
    candidate = json.loads(cell["cell_json"].iloc[0])
    best: list[str] | None = None
    for other in others:
        baseline = json.loads(other["cell_json"].iloc[0])
        if any(candidate.get(key) != baseline.get(key) for key in ("workload", "arm")):
            continue
        keys = sorted({*candidate, *baseline})
        differ = [key for key in keys if candidate.get(key) != baseline.get(key)]
        if best is None or len(differ) < len(best):
            best = differ
            words = [
                f"{key} ({candidate.get(key)} here, {baseline.get(key)} there)" for key in differ
            ]
    return f"; the nearest cell there differs in {', '.join(words)}" if best else ""


def why_incomparable(candidate: pd.DataFrame, baseline: pd.DataFrame) -> str:
    """The field that forbids comparing what depends on the machine; empty when none does."""
    for name in ("machine", "torch_version", "fingerprint"):
        a, b = (set(cell[name].dropna()) for cell in (candidate, baseline))
        if a != b:
            more = _environment(candidate, baseline) if name == "fingerprint" else ""
            return f"{name} differs: {_list(a)} against {_list(b)}{more}"
    here, there = (
        _leaves(cell["environment_json"].dropna()).get(INSTRUCTIONS)
        for cell in (candidate, baseline)
    )
    if here and there and here != there:
        return f"{INSTRUCTIONS} differs: {here} against {there}"
    return ""


def _list(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values))) or "not recorded"


def _environment(candidate: pd.DataFrame, baseline: pd.DataFrame) -> str:
    """The fields of the environment that differ, the first few of them."""
    a, b = (_leaves(cell["environment_json"].dropna()) for cell in (candidate, baseline))
    differ = [f"{key} {a[key]} against {b[key]}" for key in sorted(a.keys() & b.keys())
              if a[key] != b[key]]  # fmt: skip
    return f" ({'; '.join(differ[:3])})" if differ else ""


def _leaves(texts: pd.Series) -> dict[str, Any]:
    whole = json.loads(texts.iloc[0]) if len(texts) else {}
    sections = {key: part for key, part in whole.items() if key in _STABLE_SECTIONS}
    return {
        f"{name}.{key}": value
        for name, part in sections.items()
        if isinstance(part, dict)
        for key, value in part.items()
        if key not in _RESTLESS
    }


INSTRUCTIONS = "torch.cpu_capability"
"""Beside the fingerprint, which lacks it: two processors of one name ("AMD EPYC") may differ in
it, and so in the last bit of a sum and in every time."""


_STABLE_SECTIONS = ("cpu", "memory", "device", "torch", "threads")


_RESTLESS = ("frequency_mhz", "available_bytes", "free_bytes", "load_1min")
