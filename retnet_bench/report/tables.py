"""Tables of a study's records for the terminal: estimates with intervals, ratios, failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from rich.table import Table

from retnet_bench.analysis.tables import curves, ratios, serving
from retnet_bench.analysis.tables import rows as contracts
from retnet_bench.analysis.tables.floor import Floor, Floors, read_floors
from retnet_bench.analysis.tables.quality import Joined
from retnet_bench.analysis.tables.scaling import Scaling
from retnet_bench.report import layout, quality, scaling
from retnet_bench.report.downstream import accuracy_table, scores_table, tasks_table
from retnet_bench.report.recall import recall_table
from retnet_bench.report.tuning import choices_table, sweep_table
from retnet_bench.results.numbers import interval, quantity
from retnet_bench.results.quantities import (
    DECODE_STEP,
    ENERGY,
    FIRST_TOKEN,
    MEMORY,
    OUTPUT_TOKEN,
    RATE,
    SLOPE,
    TIME,
    Quantity,
)
from retnet_bench.results.schema import CANDIDATE, EXACT
from retnet_bench.results.store import of_latest_runs

Cells = list[str]


@dataclass(frozen=True)
class Known:
    """What a caller has worked out of the same records already; None: not yet."""

    laws: Scaling | None = None
    ratios: pd.DataFrame | None = None
    crossovers: pd.DataFrame | None = None
    quality_and_speed: Joined | None = None
    unfinished: Mapping[tuple[str, str], str] | None = None
    """Arms and sizes whose sweep has not ended: see `tuning.unfinished`."""


def tables(
    records: pd.DataFrame, floors: Floors | None = None, known: Known = Known()
) -> Iterator[Table]:
    """Every table the records have rows for; `floors` are the machine's noise floors."""
    return (table for _, table in by_workload(records, floors, known))


def by_workload(
    records: pd.DataFrame, floors: Floors | None = None, known: Known = Known()
) -> Iterator[tuple[str, Table]]:
    """The same, each with the workload that it is of; empty where its rows say it."""
    makers: tuple[tuple[str, Callable[[pd.DataFrame], Table | Iterable[Table] | None]], ...] = (
        ("train", _throughput),
        ("train", _energy),
        ("prefill", _prefill),
        ("decode", _decode),
        ("generate", _generation),
        ("", _memory),
        ("perplexity", _perplexity),
        ("tune", partial(sweep_table, unfinished=known.unfinished)),
        ("perplexity", choices_table),
        ("perplexity", partial(scaling.tables, found=known.laws)),
        *(("perplexity", make) for make in quality.TABLES),
        ("perplexity", partial(quality.joined, found=known.quality_and_speed)),
        ("recall", recall_table),
        ("downstream", accuracy_table),
        ("downstream", tasks_table),
        ("downstream", scores_table),
        ("", partial(_ratios, floors=floors, found=known.ratios)),
        ("", partial(_crossovers, found=known.crossovers)),
        ("", _candidates),
        ("", _failures),
    )
    for workload, make in makers:
        found = make(records)
        several = [found] if isinstance(found, Table) else found or ()
        yield from ((workload, table) for table in several if table.row_count)


def floors_table(results: Path) -> Table:
    """Noise floors of the self-test in a results folder."""

    def row(metric: str, found: Floor) -> Cells:
        value = "unknown" if found.value is None else f"{100 * found.value:.2g} %"
        return [metric, value, str(found.n), found.reason or ""]

    columns = "metric|>floor|>A/A ratios|remark"
    return layout.table(
        "Noise floor (A/A)", columns, (row(*floor) for floor in read_floors(results).items())
    )


def _table(
    title: str, frame: pd.DataFrame, keys: list[str], value: str, text: Callable[[pd.Series], Cells]
) -> Table | None:
    """One row for each row of a curve that has an estimate: its keys, then `text`'s cells."""
    return (
        None
        if frame.empty
        else _whole_table(title, frame.dropna(subset="estimate"), keys, value, text)
    )


def _whole_table(
    title: str, frame: pd.DataFrame, keys: list[str], value: str, text: Callable[[pd.Series], Cells]
) -> Table:
    """The same with the rows that have none."""
    named = [key.replace("_", " ") for key in keys]
    columns = [name if name == "arm" else f">{name}" for name in (*named, *value.split("|"))]
    rows = ([*(_plain(row[key]) for key in keys), *text(row)] for _, row in frame.iterrows())
    return layout.table(title, "|".join(columns), rows)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if value == value else ""
    return "" if value is None or value is pd.NA else str(value)


def _curve_table(
    title: str,
    frame: pd.DataFrame,
    x: str,
    shown: Quantity,
) -> Table | None:
    keys = ["arm", *curves.separators(frame), x]
    return _table(
        title,
        frame,
        keys,
        f"{shown.unit} [95 % interval]|blocks",
        lambda row: [shown.interval(row), f"{row['n']:.0f}"],
    )


def _throughput(records: pd.DataFrame) -> Table | None:
    return _curve_table("Training throughput", curves.throughput(records), "length", RATE)


def _energy(records: pd.DataFrame) -> Table | None:
    frame = curves.energy_per_token(records)
    return _curve_table("Training energy", frame, "length", ENERGY)


def _prefill(records: pd.DataFrame) -> Table | None:
    frame = curves.curve(records, "prefill_s", "length")
    return _curve_table("Prefill", frame, "length", TIME)


def _decode(records: pd.DataFrame) -> Table | None:
    frame = curves.slopes(records)
    keys = ["arm", *curves.separators(frame), "length"]
    last = curves.final_latency(records)
    shared = [key for key in keys if key in last]  # what varies before the last position is not
    last = last.drop_duplicates(shared, keep=False)
    steps = last[curves.SUMMARY].add_suffix(" last")
    frame = frame.merge(last[shared].join(steps), on=shared, how="left")

    def text(row: pd.Series) -> Cells:
        last = row[steps.columns].rename(lambda name: name.removesuffix(" last"))
        zero = "" if pd.isna(row["includes_zero"]) else "yes" if row["includes_zero"] else "no"
        return [DECODE_STEP.interval(last), SLOPE.interval(row), zero]

    step = f"{DECODE_STEP.unit} a step at the last position"
    columns = f"{step}|{SLOPE.name}, {SLOPE.unit}|includes 0"
    return _table("Decode latency", frame, keys, columns, text)


def _generation(records: pd.DataFrame) -> Table | None:
    """What 50, 90 and 99 % of requests reach, a row for each time and the rate of each cell."""
    found = [
        (shown, [serving.reached(records, what, share) for share in serving.REACHED])
        for what, shown in _SERVED.items()
    ]
    per = dict.fromkeys(key for _, parts in found for key in curves.separators(parts[0]))
    keys = ["arm", *per, "length"]

    def lines() -> Iterator[Cells]:
        for shown, parts in found:
            for rows in zip(*(part.iterrows() for part in parts), strict=True):
                _, first = rows[0]
                if first["n"]:  # cells that failed have a table of their own
                    texts = (_reached(row, shown) for _, row in rows)
                    named = (_plain(first.get(key)) for key in keys)
                    yield [*named, shown.label(), *texts, str(first["n"])]

    named = [f">{key.replace('_', ' ')}" for key in keys[1:]]
    shares = [f">p{100 * share:g} [95 %]" for share in serving.REACHED]
    columns = "|".join(["arm", *named, "what", *shares, ">requests"])
    title = "Generation: what 50, 90 and 99 % of requests reach"
    return layout.table(title, columns, lines(), _REQUESTS)


def _reached(row: pd.Series, shown: Quantity) -> str:
    return str(row["reason"] or "") if pd.isna(row["estimate"]) else shown.interval(row)


_REQUESTS = (
    "length: of the prompt. Percentiles are over all requests of a cell; a request, of its whole "
    "batch, is one repetition. Intervals: bootstrap of processes and blocks. Ratios of arms, block "
    "by block inside pairs, stand in the table of ratios."
)
_SERVED = {"first_token_s": FIRST_TOKEN, "output_token_s": OUTPUT_TOKEN, serving.RATE: RATE}


def _memory(records: pd.DataFrame) -> Table | None:
    frames = []
    for phase in ("train", "prefill", "decode", "generate"):
        for metric in ("peak_tensor_bytes", "cuda_peak_allocated_bytes", "peak_rss_bytes"):
            frame = curves.memory_by_length(records, phase, metric)
            frames.append(frame.assign(phase=phase, counter=metric.removesuffix("_bytes")))
    kept = [f for f in frames if f["estimate"].notna().any()]
    if not kept:
        return None
    frame = pd.concat(kept, ignore_index=True)
    extra = [k for k in dict.fromkeys(k for f in kept for k in curves.separators(f)) if k in frame]
    extra = [k for k in extra if k not in ("phase", "counter")]
    keys = ["phase", "counter", "arm", *extra, "length"]
    return _table(
        "Peak memory",
        frame,
        keys,
        MEMORY.unit,
        lambda row: [quantity(MEMORY.of(row["estimate"]))],
    )


def _perplexity(records: pd.DataFrame) -> Table | None:
    frame = curves.perplexities(records, per="byte")
    keys = ["arm", *curves.separators(frame), "n_params"]
    return _table(
        "Perplexity on held-out documents",
        frame,
        keys,
        "per byte [95 % interval]|bits per byte|documents|seeds",
        lambda row: [
            interval(row),
            quantity(row["bits_per_byte"]),
            f"{row['n']:.0f}",
            f"{row['seeds']}",
        ],
    )


def _ratios(
    records: pd.DataFrame, floors: Floors | None, found: pd.DataFrame | None
) -> Table | None:
    frame = ratios.pair_ratios(records, floors) if found is None else found
    shown = frame[~frame["metric"].isin(["weight_bytes", "outcome", "peak_rss_bytes"])]
    budgets = ["token_budget"] if shown["token_budget"].notna().any() else []
    usual = ["metric", "phase", "size", "batch", "length", *budgets]
    shown = shown.assign(arms=shown["a"] + " / " + shown["b"])
    arms = ["arms"] if shown["arms"].nunique() > 1 else []
    keys = [*arms, *contracts.pair_keys(shown, ["arms", *usual])[1:]]
    by_metric = {metric: i for i, metric in enumerate(shown["metric"].unique())}
    shown = shown.sort_values(
        ["metric", "phase", "batch", "length"],
        key=lambda column: column.map(by_metric) if column.name == "metric" else column,
        kind="stable",
    )
    if shown.empty:
        return None
    return _whole_table(
        "Inside each pair: first arm / second arm",
        shown,
        keys,
        "ratio [95 % interval]|verdict",
        lambda row: [_ratio(row), row["verdict"]],
    )


def _ratio(row: pd.Series) -> str:
    if pd.isna(row["estimate"]):
        return ""
    return f"{quantity(row['estimate'])} (exact)" if row["metric"] in EXACT else interval(row)


def _crossovers(records: pd.DataFrame, found: pd.DataFrame | None) -> Table | None:
    frame = ratios.crossovers(records) if found is None else found
    if frame.empty:
        return None
    columns = list(frame.columns)
    per = columns[columns.index("x") + 1 : columns.index("estimate")]

    def text(row: pd.Series) -> Cells:
        where = interval(row) if row["estimate"] == row["estimate"] else "none in range"
        remark = _plain(row["reason"]).removeprefix("none in range: ")
        keys = (_plain(row[name]) for name in per)
        return [row["workload"], f"{row['a']} / {row['b']}", row["x"], *keys, where, remark]

    named = [f">{name.replace('_', ' ')}" for name in per]
    ordered = frame.sort_values(["workload", *per], kind="stable")
    return layout.table(
        "Crossovers",
        "|".join(["workload|arms|along", *named, "crossover [95 % interval]|remark"]),
        (text(row) for _, row in ordered.iterrows()),
    )


def _candidates(records: pd.DataFrame) -> Table | None:
    """What was tried where an arm leaves its kernel or chunk open: one row for all seeds."""
    tried = of_latest_runs(records[records["metric"] == CANDIDATE])
    if tried.empty:
        return None
    more = [name for name in ("dtype", "mode") if tried[name].nunique() > 1]
    keys = ["workload", "arm", "size", "length", "batch", *more]
    tried = tried.drop_duplicates([*keys, "candidate"])
    named = "|".join(f">{key}" if key in ("length", "batch") else key for key in keys)
    return layout.table(
        "Candidates for an open kernel or chunk",
        f"{named}|candidate|>step|remark",
        ([*(_plain(row[key]) for key in keys), *_candidate(row)] for _, row in tried.iterrows()),
        caption="Taken is the preferred one of those within 2 % of the fastest; a step's time here "
        "is of the trial, not of the blocks that are reported.",
    )


def _candidate(row: pd.Series) -> Cells:
    step = "" if pd.isna(row["value"]) else TIME.rounded(float(row["value"]), 3)
    return [str(row["candidate"]), step, _plain(row["reason"])]


def _failures(records: pd.DataFrame) -> Table | None:
    latest = of_latest_runs(records)
    lost = latest[latest["metric"] == "outcome"]
    keys = ["workload", "arm", "size", "length", "batch"]
    cells = lost.groupby(keys, dropna=False)
    keys += [name for name in _TELL_APART if (cells[name].nunique() > 1).any()]
    columns = [*keys, "status", "reason"]
    rows = lost[columns].itertuples(index=False)
    named = "|".join(columns).replace("_", " ")
    return layout.table("Not measured", named, (map(_plain, row) for row in rows))


_TELL_APART = ("token_budget", "learning_rate", "seed", "dtype", "mode")
"""What a row of a cell that failed says, too, where rows would be alike without it."""
