"""Text without tokens does not count as scored."""

from __future__ import annotations

import math

import pytest

from retnet_bench.base import UserError
from retnet_bench.workloads.unspelled import Unspelled

LN2 = math.log(2)
BITS, WORDS = "bits_per_byte", "word_perplexity"


def test_bytes_that_no_token_spells_are_taken_out_of_values_and_documents():
    unspelled = Unspelled("tokenizer.json")
    unspelled.document(0, "ab", "ab")
    unspelled.document(1, "a \U0001f642", "a ")
    unspelled.document(1, "\U0001f642", "")
    rows = [
        {"doc_id": 0, "filter": "none", "bits_per_byte": (-4 * LN2, 2), "word_perplexity": (-1, 1)},
        {
            "doc_id": 1,
            "filter": "none",
            "bits_per_byte": (-4 * LN2, 10),
            "word_perplexity": (-1, 3),
        },
    ]
    values = {"bits_per_byte,none": 8 / 12, "word_perplexity,none": 1.0, "acc,none": 0.5}
    unspelled.correct(rows, values)
    assert [row["bits_per_byte"][1] for row in rows] == [2, 2]
    assert values["bits_per_byte,none"] == pytest.approx(2.0)
    # "a <emoji>" and "a " both count as two words: white space at an end counts one more.
    assert values["word_perplexity,none"] == pytest.approx(math.exp(2 / 4))
    assert values["acc,none"] == 0.5
    assert unspelled.reason is not None
    assert unspelled.reason.startswith("tokenizer.json can't spell all of 2 texts (first at")
    assert unspelled.reason.endswith("): 8 bytes are not counted")


def test_nothing_left_out_changes_nothing():
    unspelled, values = Unspelled("tokenizer.json"), {"bits_per_byte,none": 0.7}
    unspelled.document(0, "ab", "ab")
    unspelled.correct([{"doc_id": 0, "filter": "none", "bits_per_byte": (-1.0, 2)}], values)
    assert values == {"bits_per_byte,none": 0.7}
    assert unspelled.reason is None


def test_a_document_of_nothing_else_is_not_scored():
    unspelled, values = Unspelled("tokenizer.json"), {"bits_per_byte,none": 9.0}
    unspelled.document(3, "\U0001f642", "")
    unspelled.document(4, "ab", "ab")
    rows = [
        {"doc_id": 3, "filter": "none", "bits_per_byte": (-7.0, 4)},
        {"doc_id": 4, "filter": "none", "bits_per_byte": (-math.log(8), 2)},
    ]
    unspelled.correct(rows, values)
    assert rows[0]["bits_per_byte"] == (0.0, 0)
    assert values["bits_per_byte,none"] == pytest.approx(1.5)


def test_a_text_of_nothing_else_is_refused():
    unspelled, values = Unspelled("tokenizer.json"), {"bits_per_byte,none": 0.0}
    unspelled.document(3, "\U0001f642", "")
    rows = [{"doc_id": 3, "filter": "none", "bits_per_byte": (-7.0, 4)}]
    with pytest.raises(UserError, match=r"tokenizer\.json can spell none of the bytes scored"):
        unspelled.correct(rows, values)
