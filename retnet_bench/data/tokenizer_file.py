"""A tokenizer.json of Hugging Face's tokenizers, as models from elsewhere bring it along."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers as hf

from retnet_bench.base import UserError
from retnet_bench.data.tokenizers import Tokenizer

BOS = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")
"""Tokens that start a text where the model's config does not say which does."""


@dataclass(frozen=True)
class FileTokenizer(Tokenizer):
    """A tokenizer whose <bos> may be any of its ids."""

    bos: int = field(default=0, kw_only=True)

    @property
    def bos_id(self) -> int:
        return self.bos


def load_tokenizer_file(path: Path, bos_id: int | None = None) -> FileTokenizer:
    """The tokenizer in a tokenizer.json. UserError: not readable, or no <bos> is known."""
    try:
        text = path.read_text("utf-8")
        model = hf.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{path} is no readable tokenizer.json: {error}") from None
    if bos_id is None:
        ids = (model.token_to_id(token) for token in BOS)
        bos_id = next((found for found in ids if found is not None), None)
    if bos_id is None:
        raise UserError(f"{path} names no beginning of text; say bos_token_id in config.json")

    def encode(text: str) -> np.ndarray:
        return np.array(model.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def decode(ids: Iterable[int]) -> str:
        return model.decode([int(i) for i in ids])

    size, checksum = model.get_vocab_size(), hashlib.sha256(text.encode()).hexdigest()
    return FileTokenizer(path.name, size, checksum, encode, decode, bos=bos_id)
