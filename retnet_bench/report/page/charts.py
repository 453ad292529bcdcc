"""The study's figures as data for the page's charts: the same numbers, from the same tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from retnet_bench.analysis.tables import best_rates, curves, quality, recall, serving
from retnet_bench.base import UserError
from retnet_bench.figures import laws, panels
from retnet_bench.report.page.keys import Cells, word
from retnet_bench.report.page.sides import Side
from retnet_bench.results import quantities
from retnet_bench.results.numbers import quantity
from retnet_bench.results.quantities import (
    DECODE_STEP,
    FIRST_TOKEN,
    MEMORY,
    OUTPUT_TOKEN,
    RATE,
    TOKENS_SEEN,
    Quantity,
)

Read = Callable[[pd.DataFrame], pd.DataFrame]
LENGTH = "sequence length (tokens)"
_PROMPT = "prompt (tokens)"
PERPLEXITY = Quantity("perplexity", "", "per byte")
_PER_TOKEN = replace(PERPLEXITY, unit="per token")
_LOSS = Quantity("loss", "nat", "nat per token")
_SHARE = Quantity("queries answered right", "fraction", "%", 100.0)
_CHANGE = Quantity("perplexity per token, difference", "relative", "%", 100.0)


@dataclass(frozen=True)
class Chart:
    """One chart: which table it draws, and how."""

    figure: str
    """The figure that shows the same on paper."""
    title: str
    workload: str
    x: str
    """Column of the table."""
    x_label: str
    read: Read
    """Records to a table of `curves`' columns; an empty one where they hold nothing for it."""
    shown: Quantity
    kind: str = "line"
    """`line`, `band` (curves of many points) or `rows` (an arm each)."""
    counted: str = "blocks"
    """What `n` of a point counts."""
    x_factor: float = 1.0
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False
    at_best: bool = False
    """Whether each arm stands at its own best learning rate, where several were tried."""
    narrowed: tuple[str, ...] = ()
    """Keys of which the chart shows one value (`_narrowed`) until the reader chooses."""


def _decode_memory(records: pd.DataFrame) -> pd.DataFrame:
    return curves.memory_by_length(records, "decode", curves.memory_metric(records, "decode"))


def _train_memory(records: pd.DataFrame) -> pd.DataFrame:
    return curves.memory_by_length(records, "train", curves.memory_metric(records, "train"))


def _prefill(records: pd.DataFrame) -> pd.DataFrame:
    return curves.curve(records, "prefill_s", "length")


def _served(what: str) -> Read:
    """What a server is judged by, as `serving` has it: the median over blocks."""
    return lambda records: serving.medians(records, what)


def _one_rate(read: Read) -> Read:
    """`read` of each arm at its own best learning rate, where several were tried."""
    return lambda records: read(best_rates.at_best(records))


def _by_size(records: pd.DataFrame) -> pd.DataFrame:
    """Perplexity against size; nothing of many arms at one size, which have another chart."""
    frame = curves.perplexities(best_rates.at_best(records))
    alone = frame["size"].nunique() == 1 and frame["arm"].nunique() > 2
    return frame.iloc[:0] if alone else frame


def _by_rate(records: pd.DataFrame) -> pd.DataFrame:
    """Perplexity per byte against the learning rate; nothing where there was but one."""
    frame = curves.perplexities(records)
    if "learning_rate" not in curves.separators(frame):
        return frame.iloc[:0]
    others = [name for name in curves.separators(frame) if name not in ("learning_rate",)]
    return frame[["arm", "learning_rate", *others, *curves.SUMMARY]]


def _recall(records: pd.DataFrame) -> pd.DataFrame:
    found = recall.by_pairs(records).astype({"pairs": int})
    return found[found["best"]]


def _relative(records: pd.DataFrame) -> pd.DataFrame:
    """Each arm's perplexity per token against the baseline's, on the same documents; nothing of two
    arms, which are a pair and have its table."""
    found = quality.ablations(records if records["arm"].nunique() > 2 else records.iloc[:0])
    ends = {"relative": "estimate", "relative_low": "low", "relative_high": "high"}
    lines = found.drop(columns=["estimate", "low", "high"]).rename(columns=ends)
    lines = lines.assign(place=lines["arm"], n=lines["seeds"])
    first = ["arm", "place", *(name for name in ("size", "token_budget") if name in lines)]
    return lines[[*first, *curves.SUMMARY]]


CHARTS = (
    Chart(
        *("throughput", "Training throughput", "train", "length", LENGTH, curves.throughput, RATE),
        log_x=True,
        log_y=True,
    ),
    Chart(
        *("train_memory", "Training memory", "train", "length", LENGTH, _train_memory, MEMORY),
        counted="readings",
        log_x=True,
        from_zero=True,
    ),
    Chart(
        *("prefill", "Prefill", "prefill", "length", LENGTH, _prefill),
        replace(quantities.TIME, name="time of the prompt"),
        log_x=True,
        log_y=True,
    ),
    Chart(
        *("decode_position", "Decode latency by position", "decode", "position"),
        *("position (tokens)", curves.latency_by_position, DECODE_STEP),
        from_zero=True,
        narrowed=("length",),
    ),
    Chart(
        *("fig6a", "Inference memory", "decode", "length", LENGTH, _decode_memory, MEMORY),
        counted="readings",
        log_x=True,
        from_zero=True,
    ),
    Chart(
        *("fig6b", "Decode throughput", "decode", "length", LENGTH, curves.decode_throughput),
        replace(RATE, name="rate, mean over positions"),
        log_x=True,
        log_y=True,
    ),
    Chart(
        *("fig6c", "Decode latency at the last position", "decode", "batch", "batch (sequences)"),
        *(curves.final_latency, DECODE_STEP),
        from_zero=True,
    ),
    Chart(
        *("generate", "Generation: time to first token", "generate", "length", _PROMPT),
        *(_served("first_token_s"), FIRST_TOKEN),
        log_x=True,
        log_y=True,
    ),
    Chart(
        *("generate", "Generation: time per output token", "generate", "length", _PROMPT),
        *(_served("output_token_s"), OUTPUT_TOKEN),
        log_x=True,
        from_zero=True,
    ),
    Chart(
        *("generate", "Generation: rate, prompts included", "generate", "length", _PROMPT),
        *(_served(serving.RATE), RATE),
        log_x=True,
        from_zero=True,
    ),
    Chart(
        *("fig5", "Perplexity of held-out documents", "perplexity", "n_params", "model size"),
        *(_by_size, PERPLEXITY),
        at_best=True,
        counted="documents",
        log_x=True,
        narrowed=("token_budget",),
    ),
    Chart(
        *("table5", "Every arm against the baseline", "perplexity", "place", "", _relative),
        _CHANGE,
        at_best=True,
        kind="rows",
        counted="seeds",
        narrowed=("size", "token_budget"),
    ),
    Chart(
        *("table8", "Perplexity by length of context", "perplexity", "context_length"),
        *("context (tokens)", _one_rate(curves.by_context), _PER_TOKEN),
        at_best=True,
        counted="documents",
        log_x=True,
        narrowed=("size", "token_budget"),
    ),
    Chart(
        *("position", "Loss by position in the document", "perplexity", "position"),
        *("position (tokens, end of bucket)", _one_rate(curves.by_position), _LOSS),
        at_best=True,
        counted="documents",
        log_x=True,
        narrowed=("size", "token_budget"),
    ),
    Chart(
        *("learning_rate", "Perplexity by learning rate", "perplexity", "learning_rate"),
        *("peak learning rate", _by_rate, PERPLEXITY),
        counted="documents",
        log_x=True,
    ),
    Chart(
        *("loss_curve", "Training loss", "perplexity", "tokens_seen"),
        *(TOKENS_SEEN.label(), _one_rate(curves.loss_curve)),
        replace(_LOSS, name="training loss"),
        at_best=True,
        kind="band",
        counted="seeds",
        x_factor=TOKENS_SEEN.factor,
        log_y=True,
        narrowed=("token_budget",),
    ),
    Chart(
        *("recall", "Recall by number of pairs", "recall", "pairs"),
        *("key-value pairs in a sequence", _recall, _SHARE),
        counted="seeds",
        log_x=True,
    ),
)
_SAME = {"table6": "table5", "published": "table5"}
"""Figures that draw the numbers of another one's chart."""


def named_first(sides: Sequence[Side]) -> list[Chart]:
    """Every chart; those of the figures that the studies name first, in that order."""
    named = [_SAME.get(name, name) for side in sides for name in side.figures]
    place = {name: i for i, name in reversed(list(enumerate(named)))}
    return sorted(CHARTS, key=lambda chart: place.get(chart.figure, len(named)))


def drawn(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Each chart that any side has points for, as plain data."""
    cells = [Cells(side.records) for side in sides]
    swept = " ".join(dict.fromkeys(best_rates.said(side.records) for side in sides)).strip()
    made = [_chart(chart, sides, cells, swept) for chart in named_first(sides)]
    return [chart for chart in made if any(p["y"] is not None for p in chart["points"])]


def _chart(
    chart: Chart, sides: Sequence[Side], cells: Sequence[Cells], swept: str
) -> dict[str, Any]:
    """`swept` says which learning rates were tried, and which of them each arm is shown at."""
    points: list[dict[str, Any]] = []
    narrowed: dict[str, str] = {}
    for side, known in zip(sides, cells, strict=True):
        frame = _table(chart, side.records)
        points += _points(chart, frame, side.label, known)
        for key, value in _narrowed(chart, frame, side.records).items():
            narrowed.setdefault(key, value)
    shown = chart.shown
    return {
        "name": chart.figure,
        "title": chart.title,
        "kind": chart.kind,
        "xLabel": chart.x_label,
        "yLabel": f"{shown.name} {shown.unit}" if shown.unit[:4] == "per " else shown.label(),
        "logX": chart.log_x,
        "logY": chart.log_y,
        "fromZero": chart.from_zero,
        "counted": chart.counted,
        "narrowed": narrowed,
        "note": swept if chart.at_best else "",
        "points": points,
    }


def _table(chart: Chart, records: pd.DataFrame) -> pd.DataFrame:
    """The chart's table; an empty one where the records can't be read as one."""
    try:
        return chart.read(records)
    except UserError:  # `show` says what is wrong with them
        return pd.DataFrame(columns=["arm", chart.x, *curves.SUMMARY])


def _narrowed(chart: Chart, frame: pd.DataFrame, records: pd.DataFrame) -> dict[str, str]:
    """Where a chart would show several sizes, budgets or lengths at once, the one that the figure
    draws: the largest size, the budget of most sizes, the longest length."""
    ways: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
        "size": lambda rows: laws.largest(rows, records),
        "token_budget": lambda rows: laws.one_budget(rows)[0],
        "length": lambda rows: rows[rows["length"] == panels.longest(rows)],
    }
    chosen = {}
    for key in chart.narrowed:
        if key in frame and frame[key].nunique() > 1:
            frame = ways[key](frame)
            chosen[key] = word(frame[key].iloc[0])
    return chosen


def _points(
    chart: Chart, frame: pd.DataFrame, label: str, cells: Cells
) -> Iterator[dict[str, Any]]:
    if frame.empty:
        return
    per = [name for name in panels.varying(frame, chart.x) if name != "arm"]
    frame = frame.assign(variant=panels.variants(frame, per, named=True))
    for _, line in frame.iterrows():
        row = {str(name): value for name, value in line.items()}
        said = {name: word(value) for name, value in row.items()}
        said["workload"] = chart.workload
        if chart.x == "position":  # a failed cell has none of the positions
            said.pop("position", None)
        yield _point(chart, row) | {
            "results": label,
            "variant": row["variant"],
            "keys": cells.keys(said),
        }


def _point(chart: Chart, row: dict[str, Any]) -> dict[str, Any]:
    x, shown = row[chart.x], chart.shown
    values = {name: _number(row[name], shown.factor) for name in ("estimate", "low", "high")}
    size = word(row.get("size")) if chart.x == "n_params" else ""
    return {
        "arm": row["arm"],
        "x": x if isinstance(x, str) else _number(x, chart.x_factor),
        "name": size,
        "y": values["estimate"],
        "low": values["low"],
        "high": values["high"],
        "text": f"{shown.interval(pd.Series(row))} {shown.unit}".strip(),
        "at": x if isinstance(x, str) else quantity(float(x) * chart.x_factor),
        "n": int(row["n"]),
        "status": row["status"],
        "reason": row["reason"] if isinstance(row["reason"], str) else "",
    }


def _number(value: Any, factor: float) -> float | None:
    """For JSON: None for what is not finite."""
    number = math.nan if value is None or value is pd.NA else float(value)
    return number * factor if math.isfinite(number) else None
