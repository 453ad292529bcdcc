"""A tokenizer.json of Hugging Face's tokenizers, as models from elsewhere bring it along."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as hf

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.data.sources.files import read_bytes
from retnet_bench.data.tokenizers import Tokenizer

BOS = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")
"""Tokens that start a text where the model's config does not say which does."""
LARGEST = 2**26
"""Bytes of the file. One of 256,000 tokens has half as many."""


@dataclass(frozen=True)
class FileTokenizer(Tokenizer):
    """A tokenizer whose <bos> may be any of its ids.

    vocab_size: its largest id and one; ids in between may be missing. spellings: the texts that ids
    may stand for, special tokens included and <unk> left out.
    """

    bos: int = field(default=0, kw_only=True)
    spellings: Callable[[str], Iterable[str]] = field(compare=False, repr=False, kw_only=True)

    @property
    def bos_id(self) -> int:
        return self.bos

    def spelled(self, text: str) -> str:
        # Many tokenizers put a blank in front of every text.
        extra = "" if text.startswith(" ") else " "
        found = [spelling.removeprefix(extra) for spelling in self.spellings(text)]
        if text in found:
            return text
        wanted, *normal = (unicodedata.normalize("NFC", t) for t in (text, *found))
        parts = [part for part in normal if _is_part(part, wanted)]
        if parts:
            return max(parts, key=len)
        raise UserError(
            f"{self.name} does not give back the text it reads: {_difference(wanted, normal[0])}; "
            f"take the tokenizer that the model was trained with, or a text it can spell"
        )


def load_tokenizer_file(path: Path, bos_id: object = None) -> FileTokenizer:
    """The tokenizer in a tokenizer.json, which encodes whole texts and always the same: what the
    file says of truncation, padding and dropout is for training. UserError: not readable, or no
    <bos> is known; `bos_id` is what the model's config says of it (null or -1: nothing)."""
    data = read_bytes(path, LARGEST)
    try:
        text = data.decode("utf-8")
        model = hf.Tokenizer.from_str(text)
        unknown = _unknown(model, json.loads(text)["model"])
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{path} is no readable tokenizer.json: {quoted(error)}") from None
    model.no_truncation()
    model.no_padding()
    if hasattr(model.model, "dropout"):
        model.model.dropout = None

    def ids_of(text: str) -> list[int]:
        try:
            return model.encode(text, add_special_tokens=False).ids
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{path} can't encode a text: {quoted(error)}") from None

    def encode(text: str) -> np.ndarray:
        return np.array(ids_of(text), dtype=np.int32)

    def decode(ids: Iterable[int]) -> str:
        return model.decode([int(i) for i in ids])

    def spellings(text: str) -> Iterable[str]:
        ids = [i for i in ids_of(text) if i != unknown]
        yield model.decode(ids, skip_special_tokens=False)
        # Without a decoder, blanks join tokens.
        yield "".join(model.id_to_token(i) or "" for i in ids)

    return FileTokenizer(
        path.name,
        max(model.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        hashlib.sha256(data).hexdigest(),
        encode,
        decode,
        bos=_bos(path, model, bos_id),
        spellings=spellings,
    )


def token_ids(given: object, field: str) -> tuple[int, ...]:
    """Ids as a config says them: one, a list, or none (null or -1). UserError for anything else."""
    listed = given if isinstance(given, list) else [given]
    wanted = [i for i in listed if i is not None and i != -1]
    ids = tuple(i for i in wanted if isinstance(i, int) and not isinstance(i, bool) and i >= 0)
    if len(ids) < len(wanted):
        raise UserError(
            f"config.json: {field} is {quoted(given)}; it wants an id, or a list of ids"
        )
    return ids


def _bos(path: Path, model: hf.Tokenizer, given: object) -> int:
    ids = token_ids(given, "bos_token_id")
    if len(ids) > 1:
        raise UserError(f"config.json: bos_token_id is {quoted(given)}; one id begins a text")
    named = (model.token_to_id(token) for token in BOS)
    found = next((i for i in (*ids, *named) if i is not None), None)
    if found is None:
        raise UserError(f"{path} names no beginning of text; say bos_token_id in config.json")
    return found


def _unknown(model: hf.Tokenizer, given: dict[str, Any]) -> int | None:
    """The id of what the tokenizer does not know, if it has one."""
    if (token := given.get("unk_token")) is not None:
        return model.token_to_id(token)
    return given.get("unk_id")  # Unigram's


# --- what ids give back --------------------------------------------------------------------------


def _is_part(part: str, whole: str) -> bool:
    """Whether leaving characters out of `whole` makes `part`."""
    rest = iter(whole)
    return all(char in rest for char in part)


def _difference(wanted: str, found: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(wanted, found)) if a != b), len(wanted))
    near = slice(max(0, at - 10), at + 20)
    return f'"{printable(wanted[near])}" comes back as "{printable(found[near])}"'
