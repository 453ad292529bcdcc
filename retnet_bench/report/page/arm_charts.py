"""Charts of rows, and of models as points: arms beside a baseline, exponents, quality and speed."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from retnet_bench.analysis.tables import accuracy, curves, quality
from retnet_bench.figures import table1, table3
from retnet_bench.report.page.chart import Drawn, Read, no_points
from retnet_bench.report.page.sides import Side

_ENDS = ("estimate", "low", "high")


def of_records(read: Callable[[pd.DataFrame], pd.DataFrame]) -> Read:
    """A table of the records as points, and nothing else."""
    return lambda side: Drawn(read(side.records))


def _among_many(records: pd.DataFrame) -> pd.DataFrame:
    """No rows of two arms, which are a pair and have its table."""
    return records if records["arm"].nunique() > 2 else records.iloc[:0]


def _rows(frame: pd.DataFrame, row: str, per: list[str]) -> pd.DataFrame:
    """Columns in the order of a chart's points; `row` holds what names a row."""
    per = [name for name in per if name in frame]
    others = [name for name in ("variant", "hollow", "workload") if name in frame]
    return frame.assign(place=frame[row])[["arm", "place", *per, *curves.SUMMARY, *others]]


def perplexity(records: pd.DataFrame) -> pd.DataFrame:
    """Each arm's perplexity per token against the baseline's, on the same documents."""
    found = quality.ablations(_among_many(records))
    return _beside_baseline(found, "relative")


def ar_hits(records: pd.DataFrame) -> pd.DataFrame:
    """Each arm's perplexity of AR hits against that of the arm it is compared with."""
    records = _among_many(records)
    if not (records["metric"] == "ar_hit_nll_nat").any():
        return no_points("place")
    found = quality.ar_hits(records)
    found = found[(found["part"] == quality.HIT_PARTS["ar_hit"]) & found["over"].notna()]
    return _beside_baseline(found, "over")


def _beside_baseline(found: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row for each arm, its estimate that of column `name`."""
    ends = dict(zip((name, f"{name}_low", f"{name}_high"), _ENDS, strict=True))
    found = found.drop(columns=list(_ENDS)).rename(columns=ends)
    return _rows(found.assign(n=found["seeds"]), "arm", ["size", "token_budget"])


def training(side: Side) -> Drawn:
    """Each arm's tokens a second of training in times of the baseline's, in the same pair."""
    many = side.records["arm"].nunique() > 2
    found = side.ratios if many else side.ratios.iloc[:0]
    found = found[(found["metric"] == "train_step_s") & found["estimate"].notna()]
    faster = {"estimate": 1 / found["estimate"], "low": 1 / found["high"], "high": 1 / found["low"]}
    over = "over " + found["b"]
    found = found.assign(**faster, arm=found["a"], reason=over)
    if found["b"].nunique() > 1:
        found = found.assign(variant=over)
    return Drawn(_rows(found, "arm", ["size", "length", "batch", "dtype", "mode"]))


def exponents(side: Side) -> Drawn:
    """How each cost grows with length: a row for each cost, a mark for each arm."""
    found = table1.needed(side.records)
    costs = zip(found["workload"], found["what"], strict=True)
    rows = _rows(found.assign(cost=[table1.ROWS[cost] for cost in costs]), "cost", ["size"])
    return Drawn(rows, notes=[table1.remark(found)])


def tasks(records: pd.DataFrame) -> pd.DataFrame:
    """Right answers on the paper's seven tasks; open marks had solved examples."""
    found = table3.needed(records)
    shots = found["shots"].fillna(0).astype(int)
    words = [f"{n} examples" if n else "no examples" for n in shots]
    found = found.assign(variant=words, hollow=shots > 0, status="ok")
    return _rows(found, "task", [])


def accuracies(group: str) -> Read:
    """Right answers on one group of the package's own tasks against the compute of the training."""

    def read(records: pd.DataFrame) -> pd.DataFrame:
        found = accuracy.by_compute(records)
        found = found[found["group"] == group]
        found = found.assign(status="ok", reason=None, n=found["seeds"])
        return found[["arm", "compute", *curves.SUMMARY, "size"]]

    return of_records(read)


def beside_speed(name: str) -> Read:
    """Bits per byte against one of `quality.SPEEDS`: a point for each model, of each arm joined
    from the smallest to the largest."""

    def read(side: Side) -> Drawn:
        joins = side.has_losses and side.workloads & {"train", "decode"}
        if not joins or name not in side.quality_and_speed.frame:
            return Drawn(no_points(name))
        found = side.quality_and_speed
        frame = found.frame.dropna(subset=name)
        bits = dict(zip(("bits_per_byte", "bits_low", "bits_high"), _ENDS, strict=True))
        ends = {f"{name}_low": "x_low", f"{name}_high": "x_high"}
        frame = frame.rename(columns=bits | ends)
        label = frame["size"] if frame["size"].nunique() > 1 else ""
        frame = frame.assign(n=frame["seeds"], status="ok", reason=None, label=label)
        frame = frame.assign(order=frame["n_params"].astype(float))
        beside = ["x_low", "x_high", "label", "order", "size", "block_family"]
        words = [found.notes[key] for key in ("bits_per_byte", name) if found.notes.get(key)]
        notes = [f"Taken at: {'; '.join(words)}."] if words else []
        return Drawn(frame[["arm", name, *curves.SUMMARY, *beside]], notes=notes)

    return read


def by_model_size(read: Callable[[pd.DataFrame], pd.DataFrame]) -> Read:
    """A cost of training against model size; nothing of one size."""

    def by_size(records: pd.DataFrame) -> pd.DataFrame:
        trained = records["workload"] == "train"
        several = records.loc[trained, "size"].nunique() > 1
        found = read(records if several else records.iloc[:0])
        per = [name for name in curves.separators(found) if name != "n_params"]
        return found[["arm", "n_params", "length", *per, *curves.SUMMARY]]

    return of_records(by_size)
