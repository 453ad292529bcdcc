"""Sections of docs/paper.md on Table 5 and on what others published of the same mixers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from retnet_bench import paper
from retnet_bench.results.markdown import markdown_table

_CORPORA = ("in_domain", "pg22", "qmsum", "govreport", "summscreen")
_CHOICES = (  # of, what the paper says, what it leaves unsaid, what the study table5 takes
    (
        "all",
        "200M, 16 layers, d = 1024; most hyperparameters as for the larger models",
        "the learning rate, and whether each model had its own; positions; how the feed-forward "
        "made parameters equal; seeds",
        "0.8M; parameters equal by the width of the feed-forward; three rates, each arm at its own "
        "best; three seeds",
    ),
    (
        "RWKV",
        "TimeMix only, in the place of attention; the feed-forward of the others",
        "its version (it cites the fourth), whether the token shift and the start at 0 were kept",
        "RWKV-4's TimeMix with its token shift and start; the common feed-forward, learning rate "
        "and no LayerNorm behind the embedding",
    ),
    (
        "H3",
        "head dimension 8",
        "N of the state, whether there is attention in two layers as in H3's own language models, "
        "whether the shift filter is trained",
        "head dimension 8, N = 64, no attention, the filter trained as in the authors' code",
    ),
    (
        "Hyena",
        "nothing",
        "order, filter (width, frequency, decay) and the length that it is made for",
        "order 2, the authors' filter for language models, made for the length trained on",
    ),
    (
        "Linear Transformer",
        "nothing",
        "feature map, denominator, heads, positions",
        "elu + 1, with the denominator, heads of the Transformer's size; rotated in the numerator "
        "(`turned`), where the cited paper adds positions to the embedding",
    ),
    (
        "Transformer",
        "no row",
        "everything",
        "the baseline of every other study here, with rotary positions",
    ),
)


_WHAT = ("perplexity", "recall", "throughput")


def table5() -> str:
    """Table 5 as printed, what it left unsaid, and what stands here instead."""
    table = paper.load("table5")
    wide = table.frame.pivot(index="arm", columns="metric", values="value")
    order = wide.sort_values("in_domain").index
    whole = wide.loc[paper.FULL_MODEL, "in_domain"]
    lines = [
        [
            arm,
            *(f"{wide.loc[arm, corpus]:.2f}" for corpus in _CORPORA),
            f"{100 * (wide.loc[arm, 'in_domain'] / whole - 1):+.1f} %",
        ]
        for arm in order
    ]
    names = [corpus.replace("_", " ") for corpus in _CORPORA]
    head = ["arm", *names, "in domain, from RetNet"]
    caveats = [note.replace("stated: ", "") for note in table.caveats if "unsaid" not in note]
    choices = markdown_table(
        ("of", "the paper says", "unsaid", "the study `table5` takes"), _CHOICES
    )
    return f"""\
## Table 5: other mixers of linear cost

{table.source}, {table.method}; perplexity per token after 5B tokens. Not measured here:
`retnet-bench run table5` and `retnet-bench reproduce table5` measure ours, on open text, and
draw them beside these ([reproduce.md](reproduce.md)).

{markdown_table(head, lines, _rule(len(head)))}
Caveats: {"; ".join(caveats)}.

{choices}
The state is not matched, here or there: `match: state` would do it ([mixers.md](mixers.md)). An arm
that is behind at equal parameters may be ahead at equal bytes of state, and the other way round.
"""


def published() -> str:
    """What others published of these mixers, every number with where it stands."""
    frames = {name: paper.load(f"published_{name}").frame for name in _WHAT}
    asked = frames["recall"].assign(needle=frames["recall"]["length"].notna())
    perplexity = _table(frames["perplexity"], ["source", "tokens"], ["metric"])
    recall = _table(asked, ["source", "size", "needle"], ["metric", "length"])
    setting = ["source", "metric", "over", "batch", "length", "heads", "head_dim"]
    throughput = _table(frames["throughput"], setting, ["metric"])
    sources = paper.load("published_sources")
    words = sources.frame.fillna("")
    lines = words[["source", "citation", "place", "setting", "provenance", "caveat"]].to_numpy()
    head = ("key", "where", "place", "setting", "how it came here", "caveat")
    return f"""\
## What others published of these mixers

Not measured here, and not RetNet's paper: other models, data and machines, each source its own.
Numbers compare inside one row only; the figure `published` draws each against the Transformer of
its own source, in panels apart from ours. One seed everywhere. What was transcribed by others must
be checked against the PDF before it is cited.

Perplexity at matched size, lower is better (nat: per token, its logarithm):

{perplexity}
Recall, accuracy in %, at 340M and 1.3B:

{recall}
Speed (ms: lower is better; x: over the arm that is named):

{throughput}
The sources:

{markdown_table(head, lines)}"""


def _table(frame: pd.DataFrame, setting: list[str], within: list[str]) -> str:
    """A row for each setting of each source: what its numbers are, and every arm's."""
    rows = []
    for _, group in frame.groupby(setting, sort=False, dropna=False):
        every = group[within].itertuples(index=False, name=None)
        kinds = list({_key(kind): kind for kind in every}.values())
        rows.append([group["source"].iloc[0], _what(group, kinds), _numbers(group, within, kinds)])
    return markdown_table(("source", "what", "numbers"), rows)


def _what(group: pd.DataFrame, kinds: Sequence[tuple]) -> str:
    first, unit = group.iloc[0], group["unit"].iloc[0]
    short = {"perplexity per token": "", "nat per token": ", nat"}.get(unit, f", {unit}")
    names = " / ".join(" ".join(_words(kind)) for kind in kinds) + short
    said = [
        f"{key.replace('_', ' ')} {_word(first[key])}"
        for key in ("tokens", "size", "over", "batch", "length", "heads", "head_dim")
        if key in group and pd.notna(first[key]) and group[key].nunique(dropna=False) == 1
    ]
    return ", ".join([names.replace("_", " "), *said])


def _numbers(group: pd.DataFrame, within: list[str], kinds: Sequence[tuple]) -> str:
    words = []
    for arm, points in group.groupby("arm", sort=False):
        keys = points[within].itertuples(index=False, name=None)
        values = {_key(key): value for key, value in zip(keys, points["value"], strict=True)}
        known = [values.get(_key(kind)) for kind in kinds]
        numbers = " / ".join("-" if value is None else f"{value:,.6g}" for value in known)
        words.append(f"{str(arm).replace('_', ' ')} {numbers}")
    return "; ".join(words)


def _key(kind: tuple) -> tuple[str, ...]:
    return tuple(map(str, kind))  # nan is not equal to itself


def _words(kind: tuple) -> Iterator[str]:
    return (_word(part) for part in kind if pd.notna(part))


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rule(columns: int) -> list[str]:
    return ["---", *["---:"] * (columns - 1)]
