"""The study's figures as data for the page's charts: the same numbers, from the same tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from retnet_bench.analysis.tables import accuracy, best_rates, curves, recall, serving
from retnet_bench.report.page import arm_charts, law_charts
from retnet_bench.report.page.arm_charts import of_records
from retnet_bench.report.page.chart import Chart, Drawn, Place, Read, plain
from retnet_bench.report.page.keys import Cells, word
from retnet_bench.report.page.sides import Side, across
from retnet_bench.results import quantities
from retnet_bench.results.numbers import quantity
from retnet_bench.results.quantities import (
    COMPUTATION,
    DECODE_STEP,
    FIRST_TOKEN,
    MEMORY,
    OUTPUT_TOKEN,
    RATE,
    TOKENS_SEEN,
    Quantity,
)

Table = Callable[[pd.DataFrame], pd.DataFrame]
LENGTH = "sequence length (tokens)"
_PROMPT = "prompt (tokens)"
_COMPUTE = COMPUTATION.label("training compute")
PERPLEXITY = Quantity("perplexity", "", "per byte")
_PER_TOKEN = replace(PERPLEXITY, unit="per token")
_LOSS = Quantity("loss", "nat", "nat per token")
_BITS = Quantity("loss", "bits per byte", "bits per byte")
_SHARE = Quantity("queries answered right", "fraction", "%", 100.0)
_RIGHT = replace(_SHARE, name="right answers")
_PERCENT = Quantity("right answers", "%", "%")
_CHANGE = Quantity("perplexity per token, difference", "relative", "%", 100.0)
_TIMES = Quantity("tokens/s of training", "ratio", "times the baseline's")
_EXPONENT = Quantity("exponent p", "", "of cost ~ length^p")
_SIZE = Quantity("best size", "parameters", "body parameters")
_TOKENS = Quantity("best budget", "tokens", "tokens")


def _memory(workload: str, per: Sequence[str] = ()) -> Table:
    def read(records: pd.DataFrame) -> pd.DataFrame:
        metric = curves.memory_metric(records, workload)
        return curves.memory_by_length(records, workload, metric, per)

    return read


def _prefill(records: pd.DataFrame) -> pd.DataFrame:
    return curves.curve(records, "prefill_s", "length")


def _served(what: str) -> Read:
    """What a server is judged by, as `serving` has it: the median over blocks."""
    return of_records(lambda records: serving.medians(records, what))


def _one_rate(read: Table) -> Read:
    """`read` of each arm at its own best learning rate, where several were tried."""
    return of_records(lambda records: read(best_rates.at_best(records)))


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


def _with_crossovers(read: Table, workload: str) -> Read:
    """`read`, and where the arms' times change order along its x axis."""
    return lambda side: Drawn(read(side.records), places=_crossovers(side, workload))


def _crossovers(side: Side, workload: str) -> list[Place]:
    found = side.crossovers
    found = found[found["workload"] == workload]
    names = list(found.columns)
    per = names[names.index("x") + 1 : names.index("estimate")]
    found = found[found["estimate"].notna()]
    return [_crossover(row, per) for row in found.to_dict("records")]


def _crossover(row: dict[Any, Any], per: Sequence[str]) -> Place:
    keys = {name: word(row[name]) for name in per}
    place = f"{quantity(row['estimate'])} tokens"
    if row["low"] == row["low"]:
        place += f" [{quantity(row['low'])}, {quantity(row['high'])}]"
    text = f"{row['a']} and {row['b']} cross at {place}"
    return Place(row["estimate"], row["low"], row["high"], text, (row["a"], row["b"]), keys)


_BY_LENGTH: dict[str, Any] = {"x": "length", "x_label": LENGTH, "log_x": True}
_BY_SIZE: dict[str, Any] = {"x": "n_params", "x_label": "model size", "log_x": True}
_BY_COMPUTE: dict[str, Any] = {
    "x": "compute",
    "x_label": _COMPUTE,
    "x_factor": COMPUTATION.factor,
    "log_x": True,
}
_GENERATED: dict[str, Any] = {"workload": "generate", **_BY_LENGTH, "x_label": _PROMPT}
_SCORED: dict[str, Any] = {"workload": "perplexity", "counted": "documents", "at_best": True}
_ROWS: dict[str, Any] = {"x": "place", "x_label": "", "kind": "rows"}
_BUDGET = ("size", "token_budget")

CHARTS = (
    Chart(
        "throughput",
        "Training throughput",
        "train",
        **_BY_LENGTH,
        read=_with_crossovers(curves.throughput, "train"),
        shown=RATE,
        log_y=True,
    ),
    Chart(
        "published",
        "Training speed of every arm beside the baseline's",
        "train",
        **_ROWS,
        read=arm_charts.training,
        shown=_TIMES,
        log_x=True,
        guides=(1.0,),
    ),
    Chart(
        "train_memory",
        "Training memory",
        "train",
        **_BY_LENGTH,
        read=of_records(_memory("train")),
        shown=MEMORY,
        counted="readings",
        from_zero=True,
    ),
    Chart(
        "table4",
        "Training throughput by model size",
        "train",
        **_BY_SIZE,
        read=arm_charts.by_model_size(partial(curves.throughput, per=("n_params", "size"))),
        shown=RATE,
        log_y=True,
        narrowed=("length",),
    ),
    Chart(
        "table4",
        "Training memory by model size",
        "train",
        **_BY_SIZE,
        read=arm_charts.by_model_size(_memory("train", ("n_params", "size"))),
        shown=MEMORY,
        counted="readings",
        from_zero=True,
        narrowed=("length",),
    ),
    Chart(
        "prefill",
        "Prefill",
        "prefill",
        **_BY_LENGTH,
        read=_with_crossovers(_prefill, "prefill"),
        shown=replace(quantities.TIME, name="time of the prompt"),
        log_y=True,
    ),
    Chart(
        "decode_position",
        "Decode latency by position",
        "decode",
        "position",
        "position (tokens)",
        _with_crossovers(curves.latency_by_position, "decode"),
        DECODE_STEP,
        from_zero=True,
        narrowed=("length",),
    ),
    Chart(
        "fig6a",
        "Inference memory",
        "decode",
        **_BY_LENGTH,
        read=of_records(_memory("decode")),
        shown=MEMORY,
        counted="readings",
        from_zero=True,
    ),
    Chart(
        "fig6b",
        "Decode throughput",
        "decode",
        **_BY_LENGTH,
        read=of_records(curves.decode_throughput),
        shown=replace(RATE, name="rate, mean over positions"),
        log_y=True,
    ),
    Chart(
        "fig6c",
        "Decode latency at the last position",
        "decode",
        "batch",
        "batch (sequences)",
        of_records(curves.final_latency),
        DECODE_STEP,
        from_zero=True,
        narrowed=("length",),
    ),
    Chart(
        "generate",
        "Generation: time to first token",
        **_GENERATED,
        read=_served("first_token_s"),
        shown=FIRST_TOKEN,
        log_y=True,
    ),
    Chart(
        "generate",
        "Generation: time per output token",
        **_GENERATED,
        read=_served("output_token_s"),
        shown=OUTPUT_TOKEN,
        from_zero=True,
    ),
    Chart(
        "generate",
        "Generation: rate, prompts included",
        **_GENERATED,
        read=_served(serving.RATE),
        shown=RATE,
        from_zero=True,
    ),
    Chart(
        "table1",
        "How time and memory grow with length",
        "",
        **_ROWS,
        read=arm_charts.exponents,
        shown=_EXPONENT,
        guides=(0.0, 1.0, 2.0),
    ),
    Chart(
        "fig5",
        "Perplexity of held-out documents",
        **_SCORED,
        **_BY_SIZE,
        read=law_charts.by_size,
        shown=PERPLEXITY,
        line="token_budget",
    ),
    Chart(
        "scaling_law",
        "Scaling law: what training compute buys",
        **_SCORED,
        **_BY_COMPUTE,
        read=law_charts.frontier("loss"),
        shown=_BITS,
        kind="points",
    ),
    Chart(
        "scaling_law",
        "Scaling law: the best size for each compute",
        **_SCORED,
        **_BY_COMPUTE,
        read=law_charts.frontier("size"),
        shown=_SIZE,
        kind="points",
        log_y=True,
    ),
    Chart(
        "scaling_law",
        "Scaling law: the best tokens for each compute",
        **_SCORED,
        **_BY_COMPUTE,
        read=law_charts.frontier("tokens"),
        shown=_TOKENS,
        kind="points",
        log_y=True,
    ),
    Chart(
        "isoflop",
        "Loss at equal training compute",
        **_SCORED,
        x="n_body",
        x_label="body parameters",
        read=law_charts.equal_compute,
        shown=_BITS,
        kind="points",
        log_x=True,
    ),
    Chart(
        "isoflop",
        "The best size by isoFLOP curves",
        **_SCORED,
        **_BY_COMPUTE,
        read=law_charts.best_size,
        shown=_SIZE,
        log_y=True,
    ),
    Chart(
        "table5",
        "Perplexity of every arm beside the baseline's",
        "perplexity",
        **_ROWS,
        read=of_records(arm_charts.perplexity),
        shown=_CHANGE,
        at_best=True,
        counted="seeds",
        guides=(0.0,),
        narrowed=_BUDGET,
    ),
    Chart(
        "published",
        "Perplexity of AR hits beside the baseline's",
        "perplexity",
        **_ROWS,
        read=of_records(arm_charts.ar_hits),
        shown=_CHANGE,
        at_best=True,
        counted="seeds",
        guides=(0.0,),
        narrowed=_BUDGET,
    ),
    Chart(
        "table8",
        "Perplexity by length of context",
        **_SCORED,
        x="context_length",
        x_label="context (tokens)",
        read=_one_rate(curves.by_context),
        shown=_PER_TOKEN,
        log_x=True,
        narrowed=_BUDGET,
    ),
    Chart(
        "position",
        "Loss by position in the document",
        **_SCORED,
        x="position",
        x_label="position (tokens, end of bucket)",
        read=_one_rate(curves.by_position),
        shown=_LOSS,
        log_x=True,
        narrowed=_BUDGET,
    ),
    Chart(
        "learning_rate",
        "Perplexity by learning rate",
        "perplexity",
        "learning_rate",
        "peak learning rate",
        of_records(_by_rate),
        PERPLEXITY,
        counted="documents",
        log_x=True,
    ),
    Chart(
        "loss_curve",
        "Training loss",
        "perplexity",
        "tokens_seen",
        TOKENS_SEEN.label(),
        _one_rate(curves.loss_curve),
        replace(_LOSS, name="training loss"),
        at_best=True,
        kind="band",
        counted="seeds",
        x_factor=TOKENS_SEEN.factor,
        log_y=True,
        narrowed=("token_budget",),
    ),
    Chart(
        "recall",
        "Recall by number of pairs",
        "recall",
        "pairs",
        "key-value pairs in a sequence",
        of_records(_recall),
        _SHARE,
        counted="seeds",
        log_x=True,
    ),
    Chart(
        "table3",
        "Accuracy on the paper's seven tasks",
        "downstream",
        **_ROWS,
        read=of_records(arm_charts.tasks),
        shown=_PERCENT,
        counted="questions",
    ),
    *(
        Chart(
            "accuracy",
            f"Accuracy: {accuracy.TITLES[group].lower()}",
            "downstream",
            **_BY_COMPUTE,
            read=arm_charts.accuracies(group),
            shown=_RIGHT,
            counted="seeds",
            guides=(100 * accuracy.CHANCE,),
        )
        for group in accuracy.GROUPS
    ),
    Chart(
        "pareto",
        "Quality against training speed (better: down and right)",
        "",
        "tokens_per_s",
        RATE.label("training"),
        arm_charts.beside_speed("tokens_per_s"),
        _BITS,
        across=True,
        counted="seeds",
    ),
    Chart(
        "pareto",
        "Quality against a decode step (better: down and left)",
        "",
        "decode_s",
        DECODE_STEP.label("decode step"),
        arm_charts.beside_speed("decode_s"),
        _BITS,
        across=True,
        counted="seeds",
        x_factor=DECODE_STEP.factor,
    ),
    Chart(
        "pareto",
        "Quality against memory (better: down and left)",
        "",
        "memory_bytes",
        MEMORY.label(),
        arm_charts.beside_speed("memory_bytes"),
        _BITS,
        across=True,
        counted="seeds",
        x_factor=MEMORY.factor,
    ),
)
DRAWN_AS = {"table6": ("table5",), "published": ("table5", "published")}
"""Figures whose numbers other figures' charts draw, too."""


def named_first(sides: Sequence[Side]) -> list[Chart]:
    """Every chart; those of the figures that the studies name first, in that order."""
    figures = [name for side in sides for name in side.figures]
    named = [part for name in figures for part in DRAWN_AS.get(name, (name,))]
    place = {name: i for i, name in reversed(list(enumerate(named)))}
    return sorted(CHARTS, key=lambda chart: place.get(chart.figure, len(named)))


def drawn(sides: Sequence[Side], one: Side | None = None) -> list[dict[str, Any]]:
    """Each chart that any side has points or curves for, as plain data. `one`: all sides as one
    (`sides.across`), where that is known already."""
    cells = [Cells(side.records) for side in sides]
    swept = " ".join(dict.fromkeys(best_rates.said(side.records) for side in sides)).strip()
    one = one or across(sides)
    whole = ([one], [Cells(one.records)]) if one else (sides, cells)
    made = [
        plain(chart, *(whole if chart.across else (sides, cells)), swept)
        for chart in named_first(sides)
    ]
    return [c for c in made if c["curves"] or any(p["y"] is not None for p in c["points"])]
