"""The first sentence of a page: what was found, with its interval, and how many claims hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retnet_bench.analysis.tables import best_rates, ratios, recall
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.report.claims import ours
from retnet_bench.report.page.sides import Side
from retnet_bench.results.numbers import interval, quantity
from retnet_bench.results.schema import TIMES
from retnet_bench.results.store import of_latest_runs

_ORDER = (*TIMES.values(), "perplexity_per_byte", "peak_tensor_bytes")
"""Metrics by how much a reader asks for them."""
_OF = {
    "train_step_s": "training step",
    "prefill_s": "prefill",
    "decode_step_s": "decode step, mean over positions",
    "request_s": "request from prompt to last token",
    "perplexity_per_byte": "perplexity",
    "peak_tensor_bytes": "peak memory of tensors",
}


@dataclass(frozen=True)
class Verdict:
    """`sentence: number, at`, and what kind of answer it is."""

    sentence: str
    number: str = ""
    at: str = ""
    tone: str = "plain"
    """`holds`, `fails`, `open` or `plain`."""


_TONES = {"holds": "holds", "does not hold": "fails"}


def headline(side: Side) -> Verdict:
    """The study's first claim that was measured; without claims, the ratio inside the pair at the
    longest length and largest batch; without pairs, the best of recall; else what there is."""
    measured = [f for f in side.findings if f.verdict != "not measured"]
    if measured:
        return of_claim(measured[0])
    records = best_rates.at_best(side.records)
    return _of_ratio(records, side) or _of_recall(records) or _of_cells(records)


def of_claim(finding: Finding) -> Verdict:
    """A claim as one line of the first screen."""
    tone = _TONES.get(finding.verdict, "open")
    measure = finding.claim.measure
    words = {"ratio": "{} / {}", "crossover": "where {} overtakes {}"}
    of = words.get(measure.kind, "").format(measure.of, measure.over)
    at = ", ".join(filter(None, (of, finding.at or finding.reason)))
    return Verdict(_capital(finding.claim.says), ours(finding), at, tone)


def tally(findings: list[Finding]) -> str:
    """`4 claims: 3 hold here, 1 does not.`"""
    if not findings:
        return ""
    count: Counter[str] = Counter(finding.verdict for finding in findings)
    words = {
        "holds": ("holds here", "hold here"),
        "does not hold": ("does not", "do not"),
        "inconclusive": ("is undecided", "are undecided"),
        "not measured": ("was not measured", "were not measured"),
    }
    parts = [
        f"{count[name]} {one if count[name] == 1 else more}"
        for name, (one, more) in words.items()
        if count[name]
    ]
    noun = "claim" if len(findings) == 1 else "claims"
    return f"{len(findings)} {noun}: {', '.join(parts)}."


def _of_ratio(records: pd.DataFrame, side: Side) -> Verdict | None:
    found = ratios.pair_ratios(records, side.floors)
    found = found[found["metric"].isin(_ORDER) & found["estimate"].notna()]
    if found.empty:
        return None
    order = found["metric"].map(_ORDER.index)
    keys = ["n_order", "length", "batch", "token_budget"]
    ranked = found.assign(n_order=-order).sort_values(keys, kind="stable")
    row = ranked.iloc[-1]
    at = ", ".join(f"{k} {row[k]}" for k in ("size", "length", "batch") if pd.notna(row[k]))
    what = _OF[str(row["metric"])]
    more = len(found) - 1
    others = f"; {more} other comparisons below" if more else ""
    return Verdict(_capital(f"{row['verdict']}, {what}"), _ratio(row), at + others)


def _ratio(row: pd.Series) -> str:
    """In the direction of its verdict: 1.87 x [1.78, 1.92], whichever arm is ahead."""
    if np.isnan(row["low"]):
        return f"ratio {quantity(row['estimate'])}"
    ends = [float(row[name]) for name in ("estimate", "low", "high")]
    if ends[0] < 1 and row["metric"] in TIMES.values():
        ends = [1 / ends[0], 1 / ends[2], 1 / ends[1]]
    said = pd.Series(dict(zip(("estimate", "low", "high"), ends, strict=True)))
    return interval(said).replace(" [", " x [")


def _of_recall(records: pd.DataFrame) -> Verdict | None:
    if not (records["metric"] == recall.METRICS[0]).any():
        return None
    found = recall.by_pairs(records)
    found = found[found["best"] & found["estimate"].notna()]
    if found.empty:
        return None
    most = found[found["pairs"] == found["pairs"].max()].sort_values("estimate")
    best, pairs = most.iloc[-1], int(most["pairs"].iloc[-1])
    arms = most["arm"].nunique()
    sentence = f"{best['arm']} answers the most queries right at {pairs} pairs, of {arms} arms"
    return Verdict(
        _capital(sentence), f"{interval(best, 100)} %", "each arm at its best learning rate"
    )


def _of_cells(records: pd.DataFrame) -> Verdict:
    latest = of_latest_runs(records)
    cells, failed = latest["cell_id"].nunique(), (latest["metric"] == "outcome").sum()
    lost = f", {failed} without a result" if failed else ""
    return Verdict(f"{cells} cells measured{lost}; nothing here compares two arms")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
