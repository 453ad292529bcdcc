"""Bigrams of a text: which are frequent, and which stand there for the second time."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.data import bigrams

VOCAB = 5
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=60)


@given(TOKENS, st.integers(1, 4), st.integers(1, 7))
def test_frequent_bigrams_are_those_of_a_plain_count_in_pieces_of_any_length(tokens, most, piece):
    before, bigrams.PIECE = bigrams.PIECE, piece
    try:
        found = bigrams.frequent(np.array(tokens, np.int32), VOCAB, most)
    finally:
        bigrams.PIECE = before
    counted = Counter(pairwise(tokens))
    assert found.tolist() == sorted(a * VOCAB + b for (a, b), n in counted.items() if n > most)


@given(TOKENS.filter(bool))
def test_a_bigram_is_repeated_from_its_second_place_on(tokens):
    seen: set[tuple[int, int]] = set()
    expected = []
    for pair in pairwise(tokens):
        expected.append(pair in seen)
        seen.add(pair)
    assert bigrams.repeated(np.array(tokens), VOCAB).tolist() == expected


def test_large_vocabularies_do_not_overflow():
    tokens = np.array([200_000, 200_001, 200_000, 200_001], np.int32)
    first, second, third = bigrams.keys(tokens, 250_000).tolist()
    assert (first, second, third) == (50_000_200_001, 50_000_450_000, first)
    assert bigrams.repeated(tokens, 250_000).tolist() == [False, False, True]
