"""Tokenizers that come as tokenizer.json."""

from __future__ import annotations

import pytest
import tokenizers as hf

from retnet_bench.base import UserError
from retnet_bench.data.tokenizer_file import load_tokenizer_file


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
