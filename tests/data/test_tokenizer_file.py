"""Tokenizers that come as tokenizer.json."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
import tokenizers as hf

from retnet_bench.base import UserError
from retnet_bench.data.tokenizer_file import load_tokenizer_file, token_ids


def written(path, special: list[str]):
    model = hf.Tokenizer(hf.models.BPE())
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = hf.decoders.ByteLevel()
    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    trainer = hf.trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    model.train_from_iterator(["the dog sees the dogs " * 20], trainer)
    model.save(str(path))
    return path


def test_text_comes_back_and_bos_is_found_by_name_or_told(tmp_path):
    path = written(tmp_path / "tokenizer.json", ["<pad>", "<s>"])
    tokenizer = load_tokenizer_file(path)
    ids = tokenizer.encode("the dogs see ü")
    assert tokenizer.decode(ids) == "the dogs see ü"
    assert len(ids) < len("the dogs see ü")
    assert tokenizer.bos_id == 1
    assert tokenizer.bos_id not in ids
    assert load_tokenizer_file(path, bos_id=0).bos_id == 0


def test_no_bos_and_no_tokenizer_are_one_line(tmp_path):
    with pytest.raises(UserError, match="names no beginning of text; say bos_token_id"):
        load_tokenizer_file(written(tmp_path / "tokenizer.json", []))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken\.json is no readable tokenizer\.json"):
        load_tokenizer_file(tmp_path / "broken.json")


def changed(path, change):
    """The file with its JSON changed in place."""
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    return path


def characters(path, unknown: str | None = None, decoder: object = None):
    """A tokenizer of the characters of "hello world"."""
    letters = sorted({*"hello world"} | ({unknown} if unknown else set()))
    vocab = {"<s>": 0} | {letter: i for i, letter in enumerate(letters, 1)}
    model = hf.Tokenizer(hf.models.BPE(vocab, [], unk_token=unknown))
    if decoder is not None:
        model.decoder = decoder
    model.add_special_tokens(["<s>"])
    model.save(str(path))
    return path


@pytest.mark.parametrize("setting", ["truncation", "padding", "dropout"])
def test_whole_texts_always_give_the_same_ids(tmp_path, setting):
    path = written(tmp_path / "tokenizer.json", ["<pad>", "<s>"])
    expected = load_tokenizer_file(path).encode("the dogs see the dogs").tolist()
    model = hf.Tokenizer.from_file(str(path))
    if setting == "truncation":
        model.enable_truncation(2)
    elif setting == "padding":
        model.enable_padding(length=64)
    else:
        model.model.dropout = 0.9
    model.save(str(path))
    tokenizer = load_tokenizer_file(path)
    assert len(expected) < 12
    assert [tokenizer.encode("the dogs see the dogs").tolist() for _ in range(5)] == [expected] * 5


def test_the_vocabulary_ends_with_the_largest_id(tmp_path):
    path = written(tmp_path / "tokenizer.json", ["<pad>", "<s>"])
    full = load_tokenizer_file(path).vocab_size

    def hole(said):
        last = max(said["model"]["vocab"], key=said["model"]["vocab"].get)
        said["model"]["vocab"][last] += 100

    tokenizer = load_tokenizer_file(changed(path, hole))
    assert tokenizer.vocab_size == full + 100
    assert tokenizer.decode([full + 50]) == ""
    assert tokenizer.decode(tokenizer.encode("the dogs")) == "the dogs"


@pytest.mark.parametrize(
    ("said", "bos"), [(None, 1), (-1, 1), ([0], 0), (0, 0), ([], 1), ([-1, None], 1), (4000, 4000)]
)
def test_bos_as_configs_say_it(tmp_path, said, bos):
    path = written(tmp_path / "tokenizer.json", ["<pad>", "<s>"])
    assert load_tokenizer_file(path, said).bos_id == bos


@pytest.mark.parametrize("said", ["1", 1.0, True, -2, [1, "2"], {"id": 1}])
def test_ids_that_are_none(said):
    with pytest.raises(UserError, match=r"config\.json: eos_token_id is .*; it wants an id, or a"):
        token_ids(said, "eos_token_id")


def test_ids_as_configs_say_them(tmp_path):
    assert [token_ids(said, "x") for said in (None, 7, [7, 8], -1)] == [(), (7,), (7, 8), ()]
    path = written(tmp_path / "tokenizer.json", ["<s>"])
    with pytest.raises(UserError, match=r"bos_token_id is \[1, 2\]; one id begins a text"):
        load_tokenizer_file(path, [1, 2])


# --- what ids give back --------------------------------------------------------------------------


def test_bytes_give_back_any_text(tmp_path):
    tokenizer = load_tokenizer_file(written(tmp_path / "tokenizer.json", ["<s>"]))
    for text in ("the dog \U0001f642\n\n e\u0301 ", " the", "<s>the", ""):
        assert tokenizer.spelled(text) is text


@pytest.mark.parametrize("unknown", [None, "?"])
@pytest.mark.parametrize("decoder", [None, hf.decoders.Fuse()])
def test_characters_without_an_id_are_left_out(tmp_path, unknown, decoder):
    tokenizer = load_tokenizer_file(characters(tmp_path / "tokenizer.json", unknown, decoder))
    assert tokenizer.spelled("hello \U0001f642world\n") == "hello world"
    assert tokenizer.spelled("hello world") == "hello world"
    assert tokenizer.spelled("\U0001f642") == ""


def test_another_text_is_refused_and_the_same_in_unicode_is_not(tmp_path):
    path = written(tmp_path / "tokenizer.json", ["<s>"])
    model = hf.Tokenizer.from_file(str(path))
    model.normalizer = hf.normalizers.NFC()
    model.save(str(path))
    apart = unicodedata.normalize("NFD", "caf\u00e9")
    assert load_tokenizer_file(path).spelled(apart) == "caf\u00e9"  # one byte less
    model.normalizer = hf.normalizers.Lowercase()
    model.save(str(path))
    with pytest.raises(
        UserError,
        match='does not give back the text it reads: "a Dog" comes back as "a dog"',
    ):
        load_tokenizer_file(path).spelled("a Dog")


def test_a_blank_in_front_is_the_tokenizer_s_own(tmp_path):
    path = written(tmp_path / "tokenizer.json", ["<s>"])
    model = hf.Tokenizer.from_file(str(path))
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.save(str(path))
    tokenizer = load_tokenizer_file(path)
    assert [tokenizer.spelled(text) for text in ("dog", " dog")] == ["dog", " dog"]


# --- files that are none -------------------------------------------------------------------------


def test_not_a_tokenizer_s_file(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="is a Git LFS pointer, not the file itself; get it: git l"):
        load_tokenizer_file(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a pipe, not a regular file"):
        load_tokenizer_file(path)
    path.unlink()
    path.write_bytes(b"")
    os.truncate(path, 2**40)
    with pytest.raises(UserError, match="1,099,511,627,776 bytes; at most 67,108,864 are read"):
        load_tokenizer_file(path)
    path.unlink()
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"tokenizer\.json is no readable tokenizer\.json"):
        load_tokenizer_file(path)


def test_a_text_without_a_token_for_what_is_unknown_is_one_line(tmp_path):
    """A WordLevel model that has no unk_token raises for each word outside of its vocabulary."""
    model = hf.Tokenizer(hf.models.WordLevel({"<s>": 0, "hello": 1}, unk_token="[UNK]"))
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer_file(tmp_path / "tokenizer.json")
    assert tokenizer.encode("hello").tolist() == [1]
    with pytest.raises(UserError, match=r"tokenizer\.json can't encode a text: .*\[UNK\]"):
        tokenizer.encode("world")
    with pytest.raises(UserError, match=r"tokenizer\.json can't encode a text: .*\[UNK\]"):
        tokenizer.spelled("world")
