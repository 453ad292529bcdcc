"""Minimal pairs are balanced: who knows words and their neighbours alone is right in half."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from retnet_bench.base import UserError
from retnet_bench.data import grammar, load_corpus, name_recall
from retnet_bench.workloads import local_tasks

NAMES = sorted(local_tasks.LOCAL)


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of n words, the text's ends among them; punctuation belongs to its word."""
    words = ["<s>", *text.split(), "</s>"]
    return list(zip(*(words[i:] for i in range(n))))


def test_there_are_at_least_eight_phenomena_of_a_thousand_items():
    assert len(grammar.PHENOMENA) == 12
    assert len(local_tasks.LOCAL) == 16
    for name in NAMES:
        pairs = local_tasks.LOCAL[name]()
        assert len(pairs) == 1000
        assert len(set(pairs)) == 1000
        assert all(pair.good != pair.bad for pair in pairs)
        assert not {pair.good for pair in pairs} & {pair.bad for pair in pairs}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2])
def test_words_and_their_neighbours_are_as_frequent_in_good_as_in_bad(name, n):
    good, bad = (
        Counter(chain(*(grams(t, n) for t in texts))) for texts in zip(*local_tasks.LOCAL[name]())
    )
    assert good == bad


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2])
def test_a_model_of_words_or_of_their_neighbours_is_right_in_half(name, n):
    """Any such model: here one that prefers words, or neighbours, at random. Of equal scores the
    first choice counts, as in lm-eval."""
    prefers: dict[tuple[str, ...], int] = {}
    random = np.random.default_rng(0)

    def score(text: str) -> float:
        # in sixteenths, so that sums in another order are equal
        return sum(
            prefers.setdefault(gram, float(random.integers(-1000, 1000)) / 16)
            for gram in grams(text, n)
        )

    rows = local_tasks.documents(name)
    right = [
        int(np.argmax([score(text) for text in row["choices"]])) == row["label"] for row in rows
    ]
    assert np.mean(right) == 0.5
    assert all(a + b == 1 for a, b in zip(right[::2], right[1::2], strict=True))


def test_what_tells_them_apart_is_the_phenomenon():
    """Rules written down here, not those that made the items."""
    plural = {many for one, many in grammar.PERSONS.items()}
    for pair in grammar.items("number_relative", 200):
        assert (pair.good.split()[1] in plural) == (" are " in pair.good)
        assert (pair.bad.split()[1] in plural) == (" is " in pair.bad)
    for pair in grammar.items("anaphor_gender", 200):
        assert (pair.good.split()[1] in grammar.WOMEN) == pair.good.endswith("herself.")
        assert (pair.bad.split()[1] in grammar.WOMEN) == pair.bad.endswith("himself.")
    for pair in grammar.items("polarity_scope", 200):
        assert pair.good.startswith("It is said that no ")
        assert pair.bad.startswith("It is said that the ")
    for pair in name_recall.items("seen_far", 200):
        *before, last = pair.good.replace(".", "").split()
        assert last in before
        *before, last = pair.bad.replace(".", "").split()
        assert last not in before


def test_a_cloze_asks_for_the_last_word_and_a_minimal_pair_for_all():
    (first, *_), (other, *_) = map(local_tasks.documents, ("names_bound_near", "grammar_verb_form"))
    assert first["context"].endswith("still belonged to")
    assert all(choice[0] == " " and choice[-1] == "." for choice in first["choices"])
    assert other["context"] == ""
    assert all(choice.startswith("The ") for choice in other["choices"])


def test_items_are_the_same_every_time_and_others_with_another_seed():
    name = "filler_gap"
    assert grammar.items(name, 100) == grammar.items(name, 1000)[:100]
    assert grammar.items(name, 100, seed=1) != grammar.items(name, 100)


def test_every_word_is_in_the_train_split_of_the_bundle():
    try:
        corpus = load_corpus("bundle")
    except UserError:
        pytest.skip("the corpus bundle is not on this machine")
    known = set()
    for document in corpus.documents("train"):
        known.update("".join(c if c.isalpha() else " " for c in document.text).split())
    used = {
        word
        for name in NAMES
        for pair in local_tasks.LOCAL[name]()
        for word in "".join(c if c.isalpha() else " " for c in pair.good + " " + pair.bad).split()
    }
    assert used - known == set()
