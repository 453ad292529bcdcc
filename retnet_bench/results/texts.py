"""What the cells of records read, by checksum: corpora and tokenizers are known by names that say
nothing of what a folder or a file holds."""

from __future__ import annotations

import json

import pandas as pd

from retnet_bench.results.schema import OK_STATUSES

CHECKSUMS = ("corpus_checksum", "score_corpus_checksum", "tokenizer_checksum")
COLUMNS = ["corpus", "tokenizer", "cell_json", *CHECKSUMS]
SHOWN = 8
"""Digits of a checksum that stand in names and messages."""


def named(corpus: str, score_corpus: str | None, tokenizer: str) -> dict[str, str]:
    """By column of CHECKSUMS: of what it is, in words that are equal for equal texts."""
    return {
        "corpus_checksum": f"corpus {corpus}",
        **({"score_corpus_checksum": f"corpus {score_corpus}"} if score_corpus else {}),
        "tokenizer_checksum": f"tokenizer {tokenizer} of {corpus}",
    }


def recorded(rows: pd.DataFrame) -> dict[str, set[str]]:
    """The checksums of each text that rows with COLUMNS know of, by its words. More than one: it
    was changed in between."""
    found: dict[str, set[str]] = {}
    known = rows[COLUMNS].dropna(subset=["corpus", "tokenizer"]).drop_duplicates()
    for row in known.to_dict("records"):
        scored = json.loads(row["cell_json"]).get("score_corpus")
        for column, words in named(row["corpus"], scored, row["tokenizer"]).items():
            if isinstance(checksum := row[column], str):
                found.setdefault(words, set()).add(checksum)
    return found


def told_apart(records: pd.DataFrame) -> pd.DataFrame:
    """`records` with the checksum behind the name of each corpus that held different texts, and
    behind the ids of its cells and pairs, which know it by its name alone: so no ratio, curve or
    fit puts them together. Records that know no checksum, of versions before 9, stay as they are.
    """
    measured = records[records["status"].isin(OK_STATUSES)]
    counts = measured.groupby("corpus")["corpus_checksum"].nunique()
    several = counts[counts > 1].index
    if not len(several):
        return records
    unlike = records["corpus"].isin(several) & records["corpus_checksum"].notna()
    short = records["corpus_checksum"].astype(str).str[:SHOWN]
    named = {"corpus": " (" + short + ")", "cell_id": "-" + short, "pair_id": "-" + short}
    return records.assign(
        **{
            name: records[name].mask(unlike, records[name].astype(str) + more)
            for name, more in named.items()
        }
    )
