"""The same text in two splits, found whatever its dress; a naive count is the judge."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.base import UserError
from retnet_bench.data import load_corpus, refuse_overlap
from retnet_bench.data.corpus import Document, build
from retnet_bench.data.duplicates import RUN_WORDS, SHARE, Index, plain, runs
from retnet_bench.data.sources import checked
from retnet_bench.data.sources.checked import make_corpus

Message = Callable[..., str]


def prose(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(words))


def naive_runs(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)}


def naive_share(a: str, b: str) -> float:
    ours, theirs = naive_runs(a), naive_runs(b)
    return len(ours & theirs) / max(1, min(len(ours), len(theirs)))


@given(st.integers(0, 200), st.integers(1, 3))
def test_as_many_runs_as_there_are_different_ones(words: int, vocabulary: int) -> None:
    text = " ".join(f"w{i % vocabulary}" for i in range(words))
    assert len(runs(text)) == len(naive_runs(text))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90)), min_size=2, max_size=6),
    st.integers(0, 90),
)
def test_overlap_is_the_most_alike_by_a_naive_count(parts: list, extra: int) -> None:
    """Documents made of the beginnings of four texts, so that they share runs, also three-way."""
    sources = [prose(seed, 100) for seed in range(4)]
    texts = [
        " ".join(sources[seed].split()[: 10 + n]) + f" end{i}" for i, (seed, n) in enumerate(parts)
    ]
    asked = Document("asked", f"{texts[0]} {prose(9, extra)}")
    indexed = [Document(str(i), text) for i, text in enumerate(texts[1:])]
    shares = [naive_share(document.text, asked.text) for document in indexed]
    found = Index(indexed).overlap(asked)
    if max(shares) < SHARE:
        assert found is None
    else:
        assert found is not None
        assert found.share == pytest.approx(max(shares))
        assert shares[int(found.first.name)] == max(shares)


def test_equal_but_for_case_and_white_space_is_refused(user_error: Message) -> None:
    splits = {
        "train": [Document("a", "One two\nthree"), Document("b", "else")],
        "valid": [Document("c", "other")],
        "test": [Document("d", "  one TWO three\n\n")],
    }
    assert user_error(make_corpus, "mine", "", "", splits) == (
        'corpus "mine" leaks: "a" (train) and "d" (test) hold the same text; remove one'
    )


@pytest.mark.parametrize(
    ("held", "other"), [("test", "train"), ("valid", "train"), ("test", "valid")]
)
def test_near_duplicate_is_refused_with_both_names(
    held: str, other: str, user_error: Message
) -> None:
    text = prose(1, 400)
    splits = {
        split: [Document(f"{split}0", prose(ord(split[1]), 300))]
        for split in ("train", "valid", "test")
    }
    splits[other].append(Document("long", f"{prose(2, 50)} {text} {prose(3, 900)}"))
    splits[held].append(Document("short", f"{text} {prose(4, 400)}"))
    share = naive_share(splits[other][1].text, splits[held][1].text)
    assert user_error(make_corpus, "mine", "", "", splits) == (
        f'corpus "mine" leaks: "long" ({other}) and "short" ({held}) share {share:.0%} of the '
        f"shorter one's runs of 32 words; remove one"
    )


def test_a_quotation_is_no_duplicate() -> None:
    quotation = prose(1, 200)
    splits = {
        "train": [Document("a", f"{quotation} {prose(2, 800)}")],
        "valid": [Document("b", prose(3, 100))],
        "test": [Document("c", f"{quotation} {prose(4, 800)}")],
    }
    assert 0.1 < naive_share(splits["train"][0].text, splits["test"][0].text) < SHARE
    assert make_corpus("mine", "", "", splits).is_text


def test_copies_in_another_dress_share_a_split(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(f"{prose(i, 60)}\n")
        (tmp_path / f"copy of {i}.txt").write_text(f"  {prose(i, 60).upper()}")
    corpus = load_corpus(str(tmp_path))
    held = [{plain(d.text) for d in corpus.splits[s]} for s in ("train", "valid", "test")]
    assert [len(texts) for texts in held] == [8, 1, 1]


def test_a_passed_check_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(checked, "refuse_leaks", lambda name, splits: calls.append(name))
    splits = {"train": [Document("a", "one")], "test": [Document("b", "two")]}
    for name in ("first", "again"):
        make_corpus(name, "", "", splits)
    make_corpus("other", "", "", {**splits, "valid": [Document("c", "three")]})
    assert calls == ["first", "other"]


def test_a_failed_check_is_repeated(user_error: Message) -> None:
    splits = {"train": [Document("a", "one")], "test": [Document("b", "one")]}
    assert user_error(make_corpus, "x", "", "", splits) == user_error(
        make_corpus, "x", "", "", splits
    )


# --- two corpora -------------------------------------------------------------------------------


def trained(*texts: str):
    return build("trained", "", "", {"train": [Document(f"t{i}", t) for i, t in enumerate(texts)]})


def scored(*texts: str):
    return build("scored", "", "", {"test": [Document(f"s{i}", t) for i, t in enumerate(texts)]})


def test_scoring_on_what_was_trained_on_is_refused(user_error: Message) -> None:
    text = prose(1, 100)
    assert user_error(refuse_overlap, trained(prose(2, 50), text), scored("few words", text)) == (
        '"s1" of corpus "scored" can\'t score a model trained on "trained": it and "t1" there '
        "hold the same text, or one holds the other"
    )
    assert '"s0"' in user_error(refuse_overlap, trained("A few words"), scored("a  few words"))
    assert "share" in user_error(
        refuse_overlap, trained(f"{text} {prose(3, 100)}"), scored(f"{text} {prose(4, 100)}")
    )


def test_scoring_on_other_text_is_allowed() -> None:
    refuse_overlap(trained(prose(1, 100)), scored(prose(2, 100)))
    refuse_overlap(load_corpus("sotu"), load_corpus("sotu"))


def test_a_corpus_without_the_split_says_so(user_error: Message) -> None:
    assert user_error(scored("words").documents, "train") == (
        'corpus "scored" has no train split, only test: it is there to score models trained on '
        'another corpus, such as "sotu"'
    )
    with pytest.raises(UserError, match="has no test split, only train"):
        refuse_overlap(scored("words"), trained("words"))
