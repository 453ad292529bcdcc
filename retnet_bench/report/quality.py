"""Tables of quality: ablations, context, and quality beside speed."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table

from retnet_bench import paper
from retnet_bench.analysis.tables import best_rates, curves, quality
from retnet_bench.analysis.tables.precision import REFERENCE, precisions
from retnet_bench.report import layout
from retnet_bench.results.numbers import interval, quantity
from retnet_bench.results.quantities import DECODE_STEP, MEMORY, RATE, Quantity


def _ends(estimate: float, low: float, high: float, scale: float = 1.0) -> str:
    row = {"estimate": estimate, "low": low, "high": high}
    return interval(pd.Series(row), scale)


def ablations(records: pd.DataFrame) -> Table | None:
    """Each arm's difference to the baseline, with the paper's for in-domain text."""
    found = quality.ablations(records)
    if found["arm"].nunique() < 2:
        return None  # one arm beside the full model is a pair, and has its own table
    reference = quality.reference(records)
    published = _paper_arms() if reference == paper.FULL_MODEL else {}
    columns = "arm|size|>bits per byte|>perplexity per token, %|>paper, in domain, %|>seeds|remark"
    title = f"Every arm against {reference}; above 0 is worse"
    table = layout.table(title, columns, caption=best_rates.said(records))
    for _, row in found.sort_values(["size", "relative"]).iterrows():
        bits = interval(row)
        relative = _ends(row["relative"], row["relative_low"], row["relative_high"], 100)
        stated = quantity(100 * published[row["arm"]]) if row["arm"] in published else ""
        failed = "" if row["status"] == "ok" else f"{row['status']}: "
        remark = f"{failed}{row['reason'] if isinstance(row['reason'], str) else ''}"
        table.add_row(row["arm"], row["size"], bits, relative, stated, str(row["seeds"]), remark)
    return table


def _paper_arms() -> dict[str, float]:
    """The relative differences to RetNet of Tables 5 and 6, which have one RetNet."""
    frame = pd.concat([paper.load(name).frame for name in ("table5", "table6")])
    frame = frame.drop_duplicates(["arm", "metric"])
    values = frame[frame["metric"] == "in_domain"].set_index("arm")["value"]
    relative = values / values[paper.FULL_MODEL] - 1
    return {str(arm): float(value) for arm, value in relative.items()}


def context(records: pd.DataFrame) -> Table | None:
    """Perplexity per token against the length of context (Table 8), the paper's beside it."""
    found = quality.contexts(records)
    published = paper.load("table8").frame.set_index(["arm", "length"])["value"]
    keys = [name for name in curves.separators(found) if found[name].nunique() > 1]
    words = [name.replace("_", " ") for name in keys]
    others = found.loc[found["over"].notna(), "over_arm"].unique()
    over = [f">to {other}, %" for other in others]
    numbers = [">context (tokens)", ">perplexity per token", ">to the context above, %", *over]
    columns = "|".join(["arm", *words, *numbers, ">paper|>seeds"])
    table = layout.table("Perplexity against the length of context", columns)
    for _, row in found.iterrows():
        stated = published.get((row["arm"], row["context_length"]), math.nan)
        names = [str(row[key]) for key in keys]
        against = [_percent(row, "over") if row["over_arm"] == other else "" for other in others]
        where = f"{row['context_length']:,.0f}"
        cells = [row["arm"], *names, where, interval(row), _percent(row, "gain"), *against]
        table.add_row(*cells, quantity(stated) if stated == stated else "", str(row["seeds"]))
    return table


def ar_hits(records: pd.DataFrame) -> Table | None:
    """Perplexity of the tokens that recall can tell, and of the rest of the same documents."""
    if not (records["metric"] == "ar_hit_nll_nat").any():
        return None
    found = quality.ar_hits(records)
    keys = [name for name in curves.separators(found) if found[name].nunique() > 1]
    others = found.loc[found["over"].notna(), "over_arm"].unique()
    over = [f">to {other}, %" for other in others]
    words = [f">{name.replace('_', ' ')}" for name in keys]
    numbers = [">share, %", ">perplexity per token [95 % interval]", *over, ">documents", ">seeds"]
    table = layout.table(
        "AR hits: tokens that end a bigram seen before in their context, rare in training",
        "|".join(["arm", *words, ">n params", "tokens", *numbers]),
    )
    for _, row in found.iterrows():
        names = [row["arm"], *(str(row[key]) for key in keys), f"{row['n_params']:,.0f}"]
        against = [_percent(row, "over") if row["over_arm"] == other else "" for other in others]
        numbers = [f"{100 * row['share']:.1f}", interval(row), *against]
        table.add_row(*names, row["part"], *numbers, str(row["n"]), str(row["seeds"]))
    return table


def _percent(row: pd.Series, name: str) -> str:
    if row[name] != row[name]:
        return ""
    return _ends(row[name], row[f"{name}_low"], row[f"{name}_high"], 100)


def precision(records: pd.DataFrame) -> Table | None:
    """Each dtype's loss and speed beside those of fp32."""
    found = precisions(records)
    if found.empty:
        return None
    columns = (
        f"arm|size|>tokens|dtype|>perplexity per byte to {REFERENCE}, % [95 % interval]"
        f"|>between seeds, %|>seeds|loss|>training, {RATE.unit}|>x {REFERENCE}"
    )
    caption = "Speeds are one reading of each training, alone: not timed by the protocol."
    table = layout.table("Precision", columns, caption=caption)
    for _, row in found.iterrows():
        loss = "the same within seeds" if row["within"] else "not the same"
        speeds = (quantity(RATE.of(row["tokens_per_s"])), quantity(row["speed"]))
        known = speeds if row["tokens_per_s"] == row["tokens_per_s"] else ("", "")
        budget = "" if pd.isna(row["token_budget"]) else f"{row['token_budget']:,}"
        cells = [row["arm"], row["size"], budget, row["dtype"], interval(row, 100)]
        between = quantity(100 * row["between_seeds"])
        table.add_row(*cells, between, str(row["seeds"]), loss, *known)
    return table


def joined(records: pd.DataFrame, found: quality.Joined | None = None) -> Table | None:
    """One row per arm and size: training, decoding, memory, and bits per byte; `found`: what is
    known of it already."""
    found = quality.joined(records) if found is None else found
    if found.frame.empty:
        return None
    speed = f">training, {RATE.unit}|>decode step, {DECODE_STEP.unit}|>memory, {MEMORY.unit}"
    columns = f"arm|size|{speed}|>bits per byte|>seeds"
    names = {"tokens_per_s": RATE.unit, "decode_s": "decode step", "memory_bytes": "memory"}
    notes = [f"{names.get(name, 'bits per byte')}: {note}" for name, note in found.notes.items()]
    table = layout.table("Quality joined to speed", columns, caption="; ".join(notes))
    families = found.frame["block_family"].nunique() > 1
    for _, row in found.frame.iterrows():
        arm = f"{row['arm']} ({row['block_family']})" if families else row["arm"]
        speeds = [_speed(row, "tokens_per_s", RATE), _speed(row, "decode_s", DECODE_STEP)]
        speeds.append(quantity(MEMORY.of(row.get("memory_bytes", math.nan))))
        bits = _ends(row["bits_per_byte"], row["bits_low"], row["bits_high"])
        table.add_row(arm, row["size"], *speeds, bits, str(row["seeds"]))
    return table


def _speed(row: pd.Series, name: str, shown: Quantity) -> str:
    if name not in row:
        return "not measured"
    return _ends(row[name], row[f"{name}_low"], row[f"{name}_high"], shown.factor)


TABLES = (context, ar_hits, ablations, precision)
