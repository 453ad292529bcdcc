"""Corpora of one name that hold other texts: what records say of them, and what is told apart."""

from __future__ import annotations

import json

from fakes.scored import model, scored
from golden.records import Row, frame

from retnet_bench.analysis.tables import curves, ratios
from retnet_bench.results.texts import recorded, told_apart

OLD, NEW = "a" * 64, "b" * 64


def pair(checksum: str | None, loss: float = 2.0, **fields: object) -> list[Row]:
    own = {"corpus": "mine", "corpus_checksum": checksum, **fields}
    arms = {"retnet": loss, "transformer": 1.1 * loss}
    return [row for arm in arms for row in scored(arms[arm], model(arm, "a", 0, **own))]


def test_like_texts_and_unknown_ones_stay_as_they_are():
    records = frame([*pair(OLD), *pair(None, run_id="before")])
    assert told_apart(records) is records


def test_unlike_texts_of_one_name_share_no_point_and_no_ratio():
    records = told_apart(frame([*pair(OLD), *pair(NEW, 3.0, run_id="later")]))
    shown = curves.perplexities(records)
    assert sorted(set(shown["corpus"])) == ["mine (aaaaaaaa)", "mine (bbbbbbbb)"]
    assert len(shown) == 4
    found = ratios.pair_ratios(records)
    assert len(found[found["metric"] == "perplexity_per_byte"]) == 2


def test_each_text_has_the_checksums_that_were_recorded():
    scored_too = json.dumps({"score_corpus": "other"})
    rows = [
        *pair(OLD, tokenizer_checksum=NEW),
        *pair(NEW, score_corpus_checksum=OLD, cell_json=scored_too),
        *pair(None),
    ]
    assert recorded(frame(rows)) == {
        "corpus mine": {OLD, NEW},
        "corpus other": {OLD},
        "tokenizer bpe:2048 of mine": {NEW},
    }
