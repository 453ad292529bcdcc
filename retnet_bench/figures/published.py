"""Every arm against the Transformer: here, and as others published it.

What others measured is of other models, data and machines, each source its own. So it stands in
panels of its own with scales of their own, each number against the Transformer of its own source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench import paper
from retnet_bench.analysis.tables import best_rates, captions, quality, ratios, recall
from retnet_bench.base import UserError
from retnet_bench.figures import axes, laws, panels, relative, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import NAMES_BESIDE_PAPER, Sheet
from retnet_bench.results.schema import OK_STATUSES

TRANSFORMER = "transformer"
_MARKERS = "osDv^<>dPX*ph8"
SOURCE = (
    "published by others, each against the Transformer of its own source (docs/paper.md "
    "says which and how it came here); other models, data and machines; not measured here."
)
_ASIDE = 0.3
"""Rows from the middle of an arm's to its outermost marks."""


@dataclass(frozen=True)
class _Row:
    """One quantity: `ours` draws its left panel and returns sentences for the caption, or None
    where the records have nothing of it; `published` are the points of others."""

    words: str
    even: float | None
    """What an arm equal to the Transformer has: 0 %, or 1 time; None where the Transformer has a
    row of its own."""
    title: str
    ours: Callable[[Sheet, pd.DataFrame, Sequence[str]], list[str] | None]
    published: Callable[[], pd.DataFrame]
    what: str
    """What others measured, where no axis says it."""
    unit: str


@figure("published")
def draw(records: pd.DataFrame) -> Figure:
    """Perplexity, AR hits, training throughput and recall of each arm beside the Transformer's, as
    far as the records have them, and beside what others published of the same mixers."""
    arms = records["arm"].replace(style.NAMED_BY_MIXER)
    records = records.assign(arm=arms, baseline=TRANSFORMER)
    names = _names(records)
    drawn = [row for row in _ROWS if names and _measured(row, records, names)]
    if not drawn:
        raise UserError(
            'figure "published" needs metric document_nll_nat of workload perplexity, '
            f'train_step_s of train or recall_correct of recall, of an arm "{TRANSFORMER}" and of '
            "others; run the study contenders"
        )
    title = f"Every arm against the {TRANSFORMER}"
    sheet = Sheet(title, records["arm"], NAMES_BESIDE_PAPER, len(drawn))
    notes: list[str] = []
    sources = _Sources(sheet)
    for i, row in enumerate(drawn):
        sheet.turn(i)
        notes += _draw_row(sheet, row, records, names, sources)
    return sheet.finish(captions.conditions(records), *dict.fromkeys(notes))


def _names(records: pd.DataFrame) -> list[str]:
    """The arms that are held against the Transformer, from the bottom row to the top one; one of
    which nothing could be measured has a row, too, that says why."""
    if TRANSFORMER not in set(records.loc[records["status"].isin(OK_STATUSES), "arm"]):
        return []
    return [arm for arm in sorted(set(records["arm"]), reverse=True) if arm != TRANSFORMER]


def _measured(row: _Row, records: pd.DataFrame, names: Sequence[str]) -> bool:
    """Whether the records have anything of a row: it is tried on a sheet that nobody sees."""
    return row.ours(Sheet("", records["arm"]), records, [*names, TRANSFORMER]) is not None


def _draw_row(
    sheet: Sheet, row: _Row, records: pd.DataFrame, names: list[str], sources: _Sources
) -> list[str]:
    """Both panels of a row; returns sentences for the caption."""
    names = [*names, TRANSFORMER] if row.even is None else names
    notes = row.ours(sheet, records, names)
    relative.rows(sheet.ours, names, row.words, row.even)
    _beside(sheet, row, names, sources)
    if row.even:
        axes.log_ratios(sheet.ours)
        axes.log_ratios(sheet.paper)
    return notes or []


# --- ours ---------------------------------------------------------------------------------------


def _perplexity(sheet: Sheet, records: pd.DataFrame, names: Sequence[str]) -> list[str] | None:
    table = quality.ablations(records)
    if table["relative"].isna().all():
        return None
    table, budget = laws.one_budget(laws.largest(table, records))
    relative.points(sheet, table, names)
    return [budget, best_rates.said(records)]


def _ar_hits(sheet: Sheet, records: pd.DataFrame, names: Sequence[str]) -> list[str] | None:
    if not (records["metric"] == "ar_hit_nll_nat").any():
        return None
    table = quality.ar_hits(best_rates.at_best(records))
    table = table[
        (table["part"] == quality.HIT_PARTS["ar_hit"]) & (table["over_arm"] == TRANSFORMER)
    ]
    table = laws.one_budget(laws.largest(table, records))[0]
    ends = {f"over{end}": f"relative{end}" for end in ("", "_low", "_high")}
    relative.points(sheet, table.rename(columns=ends), names)
    return ["AR hits are tokens that end a bigram seen before in their context, rare in training."]


def _training(sheet: Sheet, records: pd.DataFrame, names: Sequence[str]) -> list[str] | None:
    trained = records[records["metric"] == "train_step_s"]
    if trained.empty:
        return None
    table = ratios.pair_ratios(laws.largest(trained, records))
    table = table[(table["b"] == TRANSFORMER) & table["estimate"].notna()]
    lengths = sorted(table["length"].unique())
    for _, row in table.iterrows():
        look = sheet.styles[row["a"]]
        place = names.index(row["a"]) + _lane(lengths.index(row["length"]), len(lengths))
        faster = [1 / float(row[name]) for name in ("estimate", "high", "low")]  # of seconds
        relative.point(sheet.ours, place, faster, look)
    if table.empty:
        return None
    words = ", ".join(f"{length:,}" for length in lengths)
    return [f"Training at lengths {words}, from the bottom of a row to its top."]


def _recall(sheet: Sheet, records: pd.DataFrame, names: Sequence[str]) -> list[str] | None:
    if not (records["metric"] == recall.METRICS[0]).any():
        return None
    table = recall.by_pairs(records).dropna(subset="estimate")
    table = table[table["best"] & (table["pairs"] == table["pairs"].max())]
    for _, row in table.iterrows():
        share = [100 * float(row[name]) for name in ("estimate", "low", "high")]
        relative.point(sheet.ours, names.index(row["arm"]), share, sheet.styles[row["arm"]])
    pairs = f"{table['pairs'].max():g} pairs" if len(table) else ""
    return [f"Recall here is of {pairs}, of models trained on nothing else."] if pairs else None


def _lane(index: int, count: int) -> float:
    return _ASIDE * (2 * index / (count - 1) - 1) if count > 1 else 0.0


# --- published ----------------------------------------------------------------------------------

_WHOLE = ("all", "valid", "pile", "wikitext", "openwebtext", "lambada")


def _published(*metrics: str) -> pd.DataFrame:
    """Perplexity against the same source's Transformer in %: columns [source, arm, relative]."""
    later = paper.load("later_table1").frame.assign(source="later", tokens="10B")
    frame = pd.concat([paper.load("published_perplexity").frame, later])
    frame = frame[frame["metric"].isin(metrics)]
    nats = frame["unit"] == "nat per token"
    frame = frame.assign(value=frame["value"].where(nats, np.log(frame["value"])))
    against = _against(frame, ["source", "tokens", "metric"])
    return against.assign(relative=100 * np.expm1(against["value"] - against["over_value"]))


def _throughput() -> pd.DataFrame:
    """Training throughput, or that of the kernel alone, in times of the Transformer's."""
    frame = paper.load("published_throughput").frame
    timed = frame["metric"] == "kernel_forward_backward"
    frame = frame[timed | (frame["metric"] == "train_throughput")]
    frame = frame.assign(value=frame["value"].where(~timed, 1 / frame["value"]))
    stated = frame[frame["over"] == TRANSFORMER].assign(relative=lambda rows: rows["value"])
    setting = ["source", "metric", "batch", "length", "heads", "head_dim"]
    against = _against(frame[frame["over"].isna()], setting)
    ratio = against.assign(relative=against["value"] / against["over_value"])
    return pd.concat([ratio, stated])


def _recalled() -> pd.DataFrame:
    """Accuracy in % on questions about a given text."""
    frame = paper.load("published_recall").frame
    frame = frame[frame["metric"].isin(("swde", "squad", "fda"))]
    return frame.assign(relative=frame["value"])


def _against(frame: pd.DataFrame, setting: list[str]) -> pd.DataFrame:
    """The rows of the other arms, with `over_value` of the Transformer in the same setting."""
    over = frame[frame["arm"] == TRANSFORMER].rename(columns={"value": "over_value"})
    others = frame[frame["arm"] != TRANSFORMER]
    return others.merge(over[[*setting, "over_value"]], on=setting)


def others(arms: Sequence[str]) -> pd.DataFrame:
    """The numbers of others as a table: columns [arm, what, relative, unit, source], of `arms`."""
    names = _citations()
    shown = pd.Series(list(arms)).replace(style.NAMED_BY_MIXER)
    found = [
        row.published()[["arm", "source", "relative"]].assign(what=row.what, unit=row.unit)
        for row in _ROWS
    ]
    frame = pd.concat(found, ignore_index=True)
    frame = frame[frame["arm"].isin(set(shown))]
    return frame.assign(source=frame["source"].map(names)).drop_duplicates()


def _citations() -> dict[str, str]:
    table = paper.load("published_sources").frame
    named = dict(zip(table["source"], table["citation"], strict=True))
    return named | {"later": "Retentive Network, NeurIPS 2024 submission"}


class _Sources:
    """A grey mark for each source, the same in all panels of a sheet, named in the legend."""

    def __init__(self, sheet: Sheet) -> None:
        self.names = _citations()
        self.sheet = sheet
        self.marks: dict[str, str] = {}

    def look(self, source: str) -> dict[str, Any]:
        """How the points of a source are drawn."""
        name = _short(self.names[source])
        mark = self.marks.setdefault(name, _MARKERS[len(self.marks) % len(_MARKERS)])
        shape: dict[str, Any] = {"marker": mark, "linestyle": "none", "color": style.GREY}
        shape |= {"markersize": 4, "alpha": style.PAPER_ALPHA, "markeredgewidth": 0}
        self.sheet.explain(name, Line2D([], [], **shape))
        return shape


def _short(citation: str) -> str:
    """`Yang et al., Gated Delta Networks, arXiv:2412.06464` -> `Gated Delta Networks`."""
    parts = citation.split(", ")
    return parts[1] if parts[0].endswith(" et al.") else ", ".join(parts[:2])


def _beside(sheet: Sheet, row: _Row, names: Sequence[str], sources: _Sources) -> None:
    frame = row.published()
    frame = frame[frame["arm"].isin(names)]
    ax = sheet.paper
    panels.style_paper_axes(sheet, paper.load("published_sources"), row.title)
    sheet.source = SOURCE
    for source, points in frame.groupby("source", sort=False):
        places = [names.index(arm) for arm in points["arm"]]
        ax.plot(points["relative"], places, label=f"paper {source}", **sources.look(str(source)))
    relative.rows(ax, names, row.words, row.even)
    ax.set_yticklabels([])
    for arm in sorted(set(names) - set(frame["arm"])):
        relative.say(ax, names.index(arm), "no number")
    axes.by_points(ax, "x")


_ROWS = (
    _Row(
        relative.PERPLEXITY.format(TRANSFORMER),
        0,
        "Others: 40M to 1.3B,\none seed each",
        _perplexity,
        lambda: _published(*_WHOLE),
        "perplexity per token, difference",
        "%",
    ),
    _Row(
        f"perplexity of AR hits, from {TRANSFORMER} (%)",
        0,
        "Others: 125M to 400M,\none seed each",
        _ar_hits,
        lambda: _published("ar_hit"),
        "perplexity of AR hits, difference",
        "%",
    ),
    _Row(
        f"training tokens/s, times {TRANSFORMER}'s",
        1,
        "Others: GPUs, lengths 1k to 32k;\nsome of the kernel alone",
        _training,
        _throughput,
        "training throughput, of the kernel alone in some",
        "times the Transformer's",
    ),
    _Row(
        "answers right (%)",
        None,
        "Others: 340M and 1.3B on SWDE,\nSQuAD and FDA; other tasks than ours",
        _recall,
        _recalled,
        "answers right about a given text",
        "%",
    ),
)
