"""docs/predicted.md: `python docs/build/predicted_page.py [RESULTS ...] > docs/predicted.md`.

Memory and time come from the records of the results folders, default every folder in results/.
FLOPs are counted now, on small models: no record holds a count. Run it with the threads the records
were taken with: the rates of this machine are kept by thread count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from flop_counts import CHUNK, LENGTH, SIZE, flops_table

from retnet_bench.analysis.tables import predicted
from retnet_bench.analysis.tables.captions import contract_text
from retnet_bench.base import UserError
from retnet_bench.measure import environment
from retnet_bench.measure.protocol import Protocol
from retnet_bench.predict import record_columns, targets
from retnet_bench.results.markdown import markdown_table
from retnet_bench.results.numbers import quantity
from retnet_bench.results.store import read_records
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Cell, Sample

RESULTS = Path("results")
NOTHING = "No record has both.\n"
_MODEL = ["size", "block_family", "arm", "kernel"]

_HEAD = """\
<!-- Written by `python docs/build/predicted_page.py > docs/predicted.md`; do not edit. -->
# Predicted and measured

What the cost model ([cost.md](cost.md)) predicts, beside what was found. Memory and time were
predicted when the cells ran, without calibration, and stand in the records beside what was
measured; FLOPs were counted when this page was written.
"""

_PEAKS = """\
## Memory at the peak of a step

Predicted by running one and two layers without data; measured by the allocator, in tensors.
"""

_HELD = """\
## Weights and states

Closed forms beside the bytes of the tensors. The closed form of the weights leaves out what a
model holds besides parameters: angles of rotation, decays.
"""

_TIMES = """\
## Time of a step

The floor is the sum over operators of the longest of compute, bandwidth and call, by the machine's
own rates; a ratio below 1 means that those rates were too low. The roofline is of the whole step,
and its share is what of the measured time it explains. Decode stands at its last position. A floor
is not a forecast: `plan` calibrates it on your records.
Where a record holds no floor because its machine's rates were not kept yet, the floor is of the
rates that were kept on that machine later.
"""

_FLOPS = f"""\
## FLOPs

One sequence of {LENGTH} tokens (decode: the step after them) at size {SIZE}, vocabulary 257, chunks
of {CHUNK}: the closed form of what is executed, beside `FlopCounterMode` with
`kernels.flops.ADDED`. "For utilisation" is what `flops_per_token` in the records says for the same
tokens, as a share of the count: it leaves out scores that causality discards, and recomputation.
In prefill the parallel form also multiplies the queries with the state it starts from, which is
empty; its closed form leaves that out.
"""


# --- floors of times ------------------------------------------------------------------------------


def with_floors(records: pd.DataFrame) -> pd.DataFrame:
    """The records; times that were recorded before this machine's rates were kept get their floor,
    roofline and bound now, by those rates. Only times of this very machine: its fingerprint."""
    lacking = records["metric"].isin(predicted.STEPS) & records["predicted"].isna()
    timed = records[lacking & records["value"].notna()]
    filled = [
        _floors(rows, targets.target_of_records(str(device)))
        for (device, fingerprint), own in timed.groupby(["device", "fingerprint"])
        if fingerprint == environment.fingerprint(environment.capture(str(device)))
        for _, rows in own.groupby(["cell_json", "metric", "position"], dropna=False)
    ]
    if not filled:
        return records
    new = pd.concat(filled)
    return pd.concat([records.drop(index=new.index), new])


def _floors(rows: pd.DataFrame, target: targets.Target) -> pd.DataFrame:
    """Rows of one cell and position with what is known of the time."""
    first = rows.iloc[0]
    at = None if pd.isna(first["position"]) else int(first["position"])
    try:
        cell = Cell.read(json.loads(first["cell_json"]))
        where = {} if at is None else {"position": at}
        sample = Sample(first["metric"], "s", (float(first["value"]),), cell.workload, where)
        found = record_columns.columns(Planned(cell, Protocol(), None), target, sample)
    except UserError:  # of a version whose cells this one can't read
        return rows
    known = {name: found.get(name) for name in ("predicted", "roofline_s", "bound")}
    return rows.assign(**known)


# --- the page -------------------------------------------------------------------------------------


def page(folders: Sequence[Path]) -> str:
    """The whole text of docs/predicted.md. UserError for folders without readable records."""
    records = {folder: read_records(folder) for folder in folders}
    everything = pd.concat(map(with_floors, records.values()), ignore_index=True)
    parts = (
        _HEAD,
        _sources(records),
        _PEAKS,
        _peaks(predicted.peaks(everything)),
        *_left_out(everything, predicted.PEAKS),
        _HELD,
        *_weights_and_states(predicted.weights_and_states(everything)),
        _TIMES,
        *_time(predicted.times(everything)),
        *_left_out(everything, predicted.STEPS),
        _FLOPS,
        *_flops(flops_table()),
    )
    return "\n".join(parts)


def _sources(records: dict[Path, pd.DataFrame]) -> str:
    lines = [f"- `{folder}`: {contract_text(found)}.\n" for folder, found in records.items()]
    return f"## From which records\n\n{''.join(lines)}"


def _left_out(records: pd.DataFrame, metrics: tuple[str, ...]) -> Iterator[str]:
    studies = records.groupby("study")
    counts = {str(study): predicted.without(rows, metrics) for study, rows in studies}
    listed = ", ".join(f"{study}: {cells}" for study, cells in counts.items() if cells)
    if listed:
        yield (
            "Cells left out, because their records hold no prediction (of an earlier version, in"
            f" another mode than eager, or on a machine whose rates were not kept): {listed}.\n"
        )


def _peaks(frame: pd.DataFrame) -> str:
    if frame.empty:
        return NOTHING
    columns = {**_where(frame), "what": frame["metric"], **_both(frame)}
    return f"{_far_off(frame)}\n{_table(columns)}"


def _weights_and_states(frame: pd.DataFrame) -> Iterator[str]:
    """Weights depend on no batch or length, and neither on the study: each is shown once."""
    if frame.empty:
        yield NOTHING
        return
    yield _far_off(frame)
    numbers = ["predicted", "measured"]
    for metric, names in (("weight_bytes", _MODEL), ("state_bytes", predicted.WHERE[1:])):
        found = frame[frame["metric"] == metric].drop_duplicates([*names, *numbers])
        yield _table({**_where(found, names), "what": found["metric"], **_both(found)})


def _far_off(frame: pd.DataFrame) -> str:
    off = frame["difference"].abs()
    worst = frame.iloc[int(off.argmax())]
    return (
        f"Of {len(frame)} numbers {int((off == 0).sum())} are equal to the byte; without sign they"
        f" are {_percent(off.median())} off in the median and at most {_percent(off.max())}"
        f" ({worst['workload']} {worst['size']} {worst['arm']} length {worst['length']}).\n"
    )


def _both(frame: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "predicted, bytes": frame["predicted"].map(_whole),
        "measured, bytes": frame["measured"].map(_whole),
        "difference": frame["difference"].map(_signed),
    }


def _time(frame: pd.DataFrame) -> Iterator[str]:
    if frame.empty:
        yield NOTHING
        return
    yield _ratios(frame)
    yield from _refuted(frame)
    yield _table(
        {
            **_where(frame),
            "floor, ms": _quantities(1e3 * frame["predicted"]),
            "measured, ms": _quantities(1e3 * frame["measured"]),
            "measured / floor": _quantities(frame["ratio"]),
            "roofline, ms": _quantities(1e3 * frame["roofline_s"]),
            "bound": frame["bound"].fillna("unknown"),
            "roofline's share": frame["roofline_share"].map(_percent),
        }
    )


def _ratios(frame: pd.DataFrame) -> str:
    """Measured over floor by workload and kernel: how many times, and how evenly."""
    groups = frame.groupby(["workload", "kernel"])["ratio"]
    listed = groups.agg(["count", "median", "min", "max"]).reset_index()
    numbers = {
        f"measured / floor, {name}": _quantities(listed[name]) for name in listed.columns[3:]
    }
    columns = {"workload": listed["workload"], "kernel": listed["kernel"], "cells": listed["count"]}
    return _table({**columns, **numbers})


def _refuted(frame: pd.DataFrame) -> Iterator[str]:
    """No step can be faster than its floor: where one is, the rates under the floor are wrong."""
    below = int((frame["ratio"] < 1).sum())
    if below:
        yield (
            f"{below} of {len(frame)} steps took less than their floor, so the rates behind it are"
            " too low (taken on a busy machine?): `retnet-bench env --measure` when it is quiet.\n"
        )


def _flops(frame: pd.DataFrame) -> Iterator[str]:
    equal = int((frame["predicted"] == frame["counted"]).sum())
    yield f"{equal} of {len(frame)} are equal to the FLOP.\n"
    yield _table(
        {
            **{name: frame[name] for name in ("family", "arm", "kernel", "pass")},
            "predicted": frame["predicted"].map(_whole),
            "counted": frame["counted"].map(_whole),
            "difference": frame["difference"].map(_signed),
            "for utilisation": frame["utilisation"].map(_percent),
        }
    )


def _where(frame: pd.DataFrame, names: Sequence[str] = predicted.WHERE) -> dict[str, pd.Series]:
    shown = {"block_family": "family"}
    return {shown.get(name, name): frame[name] for name in names}


def _table(columns: dict[str, pd.Series]) -> str:
    rows = zip(*(map(str, column) for column in columns.values()), strict=True)
    return markdown_table(tuple(columns), rows)


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _quantities(values: pd.Series) -> pd.Series:
    return values.map(lambda value: "unknown" if pd.isna(value) else quantity(value))


def _percent(value: float) -> str:
    """`0.0123 %`; empty where there is none."""
    if np.isnan(value):
        return ""
    return f"{100 * value:.3g} %" if value == 0 or abs(value) >= 1e-6 else "under 0.0001 %"


def _signed(value: float) -> str:
    return _percent(value) if not abs(value) >= 1e-6 else f"{100 * value:+.3g} %"


def _all_results() -> list[Path]:
    found = sorted(path.parent for path in RESULTS.glob("*/records") if path.is_dir())
    if not found:
        raise UserError(f"no results in {RESULTS}/: name the results folders")
    return found


def main(names: Iterable[str]) -> int:
    """Write the page to standard output; a mistake is one line and exit code 2."""
    try:
        sys.stdout.write(page([Path(name) for name in names] or _all_results()))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
