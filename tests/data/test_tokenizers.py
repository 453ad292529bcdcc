from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.data import tokenizers
from retnet_bench.data.corpora import Corpus, Document, Split, load_corpus, make_corpus
from retnet_bench.data.tokenizers import (
    TOKENIZERS,
    Tokenizer,
    _train,
    count_words,
    load_tokenizer,
    pieces,
)

Message = Callable[..., str]
PROSE = "It was the best of times, it was the worst of times;\n\nwe'd 1,234 hopes.  Né <bos>\n"


def prose(test: str = "test words") -> Corpus:
    splits: dict[Split, list[Document]] = {
        "train": [Document("a", PROSE), Document("b", "the times of the best hopes\n")],
        "valid": [Document("c", "valid")],
        "test": [Document("d", test)],
    }
    return make_corpus("prose", "", "", splits)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETNET_BENCH_CACHE", str(tmp_path_factory.mktemp("bpe")))
        return load_tokenizer("bpe:280", prose())


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time a BPE is really trained."""
    calls: list[int] = []

    def counted(texts: Iterable[str], vocab_size: int, corpus_name: str) -> str:
        calls.append(vocab_size)
        return _train(texts, vocab_size, corpus_name)

    monkeypatch.setattr(tokenizers, "_train", counted)
    return calls


# --- what they do ------------------------------------------------------------------------------


def test_bytes_are_bytes() -> None:
    byte = load_tokenizer("byte", load_corpus("random"))
    assert (byte.vocab_size, byte.bos_id) == (257, 256)
    assert byte.encode("é!").tolist() == [0xC3, 0xA9, 0x21]
    assert byte.decode([256, 0xC3, 0xA9, 0x21]) == "é!"
    assert byte.decode([0xC3, 0x21]) == "\ufffd!"


def test_bpe_merges_what_train_holds(bpe: Tokenizer) -> None:
    assert (bpe.vocab_size, bpe.bos_id) == (280, 279)
    assert len(bpe.encode(" the")) == 1
    assert len(bpe.encode("valid")) == 5
    assert bpe.encode("times").dtype == np.int32


def test_bpe_does_not_learn_from_held_out_text() -> None:
    plain = load_tokenizer("bpe:280", prose())
    leaky = load_tokenizer("bpe:280", prose("zyzzyva " * 1000))
    assert leaky.checksum == plain.checksum
    assert leaky.encode("zyzzyva").tolist() == plain.encode("zyzzyva").tolist()


def test_text_can_not_spell_bos(bpe: Tokenizer) -> None:
    assert bpe.bos_id not in bpe.encode("<bos> <s> <|endoftext|>")
    assert bpe.decode([bpe.bos_id, *bpe.encode("the <bos>")]) == "the <bos>"


@given(text=st.text(max_size=80))
def test_round_trip(bpe: Tokenizer, text: str) -> None:
    byte = load_tokenizer("byte", load_corpus("random"))
    for tokenizer in (byte, bpe):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= i < tokenizer.bos_id for i in ids)


@given(text=st.text(alphabet="the ti\n\r\t\u3000'1.é", max_size=80), size=st.integers(1, 9))
def test_pieces_encode_as_the_whole(bpe: Tokenizer, text: str, size: int) -> None:
    parts = list(pieces(text, size))
    assert "".join(parts) == text
    assert [i for part in parts for i in bpe.encode(part)] == bpe.encode(text).tolist()


def test_pieces_really_cut() -> None:
    assert list(pieces("ab\n\ncd\nef", 2)) == ["ab", "\n\ncd", "\nef"]


def test_random_ids_read_no_text(user_error: Message) -> None:
    tokenizer = load_tokenizer("random:64000", prose())
    assert (tokenizer.vocab_size, tokenizer.reads_text) == (64000, False)
    assert user_error(tokenizer.encode, "text") == (
        'tokenizer "random:64000" only times; to read text take "byte" or "bpe:4096"'
    )


def test_words_as_lm_eval() -> None:
    assert count_words("Four score\nand  seven") == 4
    assert count_words(" Four score\n") == 4
    for text in ("", "a", " a b ", "a\u3000b"):
        assert count_words(text) == len(re.split(r"\s+", text))


def test_every_tokenizer_is_described() -> None:
    assert list(TOKENIZERS) == ["byte", "bpe", "random"]
    assert all(entry.description for _, entry in TOKENIZERS.items())


# --- the cache ---------------------------------------------------------------------------------


def test_trained_once(cache: Path, trainings: list[int]) -> None:
    first = load_tokenizer("bpe:290", prose())
    assert load_tokenizer("bpe:290", prose()) == first
    assert trainings == [290]
    assert load_tokenizer("bpe:289", prose()).checksum != first.checksum
    assert trainings == [290, 289]
    assert not list(cache.glob("*.tmp"))
    assert len(list(cache.glob("bpe-*"))) == 4


def test_another_text_is_another_tokenizer(trainings: list[int]) -> None:
    load_tokenizer("bpe:280", prose())
    load_tokenizer("bpe:280", prose("other test words"))
    assert trainings == [280, 280]


@pytest.mark.parametrize("harm", ["flip", "truncate", "no sidecar", "bad sidecar"])
def test_corrupted_cache_is_trained_again(cache: Path, trainings: list[int], harm: str) -> None:
    good = load_tokenizer("bpe:280", prose())
    [file], [sidecar] = cache.glob("*.json"), cache.glob("*.sha256")
    data = file.read_bytes()
    if harm == "flip":
        file.write_bytes(data.replace(b'"t', b'"u', 1))
        assert file.read_bytes() != data
    elif harm == "truncate":
        file.write_bytes(data[:100])
    elif harm == "no sidecar":
        sidecar.unlink()
    else:
        sidecar.write_bytes(b"\xff\xfe")
    assert load_tokenizer("bpe:280", prose()) == good
    assert trainings == [280, 280]
    assert file.read_bytes() == data
    load_tokenizer("bpe:280", prose())
    assert trainings == [280, 280], "the cache was not mended"


def test_cache_that_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_error: Message
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path / "file" / "cache"))
    message = user_error(load_tokenizer, "bpe:280", prose())
    assert message.startswith(f"{tmp_path / 'file' / 'cache' / 'bpe-280-'}")
    assert message.endswith(
        "a file, where a folder is needed; set RETNET_BENCH_CACHE to a writable folder with room"
    )


def test_cache_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RETNET_BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tokenizers.cache_folder() == tmp_path / "retnet-bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tokenizers.cache_folder() == tmp_path / ".cache" / "retnet-bench"


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("bytes", 'unknown tokenizer "bytes"; did you mean "byte"?'),
        ("wordpiece:100", 'unknown tokenizer "wordpiece"; choose from bpe, byte, random'),
        ("byte:300", 'tokenizer "byte:300": byte takes no vocabulary; write "byte"'),
        ("random:1", 'tokenizer "random:1": wants a vocabulary from 2 to 2147483647'),
    ],
)
def test_bad_spec(spec: str, expected: str, user_error: Message) -> None:
    assert user_error(load_tokenizer, spec, prose()).startswith(expected)


@pytest.mark.parametrize("size", ["", ":", ":many", ":256", ":65537", ":4e3", ":-300", ":1_000"])
def test_bad_bpe_vocabulary(size: str, user_error: Message) -> None:
    assert user_error(load_tokenizer, f"bpe{size}", prose()) == (
        f'tokenizer "bpe{size}": wants a vocabulary from 257 to 65536 after the colon, '
        f'such as "bpe:4096"'
    )


def test_bpe_wants_text(user_error: Message) -> None:
    message = user_error(load_tokenizer, "bpe:300", load_corpus("random"))
    assert message.startswith('corpus "random" has no text, only random ids for timing')


def test_bpe_wants_enough_text(user_error: Message, cache: Path) -> None:
    message = user_error(load_tokenizer, "bpe:4096", prose())
    assert message.startswith('corpus "prose" has too little text for bpe:4096; it fills at most ')
    most = message.rpartition(" ")[2]
    assert load_tokenizer(most, prose()).name == most
