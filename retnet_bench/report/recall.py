"""The table of recall: every arm at every learning rate, by number of pairs."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

from retnet_bench.analysis.tables import curves, recall
from retnet_bench.report import layout
from retnet_bench.results.numbers import interval, quantity
from retnet_bench.results.quantities import STATE

CAPTION = (
    "*: the arm's best learning rate, of the greatest share right on validation sequences, all "
    "numbers of pairs alike. The shares by number of pairs are of test sequences."
)


def recall_table(records: pd.DataFrame) -> Table | None:
    """A row per arm and learning rate: the share of queries answered right at each number of pairs,
    the arm's best rate marked; and what its state takes."""
    if not (records["metric"] == recall.METRICS[0]).any():
        return None
    found = recall.by_pairs(records)
    keys = curves.separators(found)
    shown = [key for key in keys if key == recall.RATE or found[key].nunique(dropna=False) > 1]
    found = found.astype({"pairs": int})
    pairs = sorted(found["pairs"].unique())
    columns = "|".join(
        [
            *("arm", *(f">{key.replace('_', ' ')}" for key in shown), "", f">state, {STATE.unit}"),
            *(f">{n} pairs" for n in pairs),
            *(">validation", ">seeds", "remark"),
        ]
    )
    table = layout.table("Recall (MQAR): % of queries answered right", columns, caption=CAPTION)
    for key, lines in found.groupby(["arm", *keys], dropna=False):
        said = dict(zip(["arm", *keys], key, strict=True))
        names = [_plain(said[name]) for name in ("arm", *shown)]
        table.add_row(*names, *_row(lines, pairs))
    return table


def _row(lines: pd.DataFrame, pairs: list[int]) -> list[str]:
    first = lines.iloc[0]
    state = "" if pd.isna(first["state_bytes"]) else quantity(STATE.of(first["state_bytes"]))
    said = {int(line["pairs"]): interval(line, 100) for _, line in lines.iterrows()}
    validated = "" if pd.isna(first["validated"]) else f"{100 * first['validated']:.1f}"
    mark = "*" if first["best"] else ""
    shares = [said.get(n, "") for n in pairs]
    return [mark, state, *shares, validated, str(first["seeds"]), _remark(first)]


def _remark(first: pd.Series) -> str:
    words = [] if first["status"] in ("ok", "impure") else [str(first["status"])]
    words += [first["reason"]] if isinstance(first["reason"], str) else []
    words += ["best at an end of the sweep"] if first["at_end"] else []
    return "; ".join(words)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if pd.isna(value) else str(value)  # type: ignore[call-overload]
