"""Tokenizers: bytes, byte-level BPE trained on a corpus's train split, and random ids.

Spec: `byte`, `bpe:<vocabulary>`, `random:<vocabulary>`. The vocabulary counts every id, <bos>
included; <bos> is always the last id and never comes out of text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import tokenizers as hf

from retnet_bench.base import Registry, UserError, quoted
from retnet_bench.data.cache import CACHE_VARIABLE, cache_folder, kept
from retnet_bench.data.corpus import Corpus

# Part of the cache key: raise it when `_train` changes what it learns.
RECIPE = 1


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. Equal when name and checksum are.

    vocab_size: number of ids, <bos> included. checksum: sha256 of what defines it, in hex.
    encode: text -> (N,) int32, without <bos>. decode: ids -> text, <bos> left out; broken
    UTF-8 becomes U+FFFD. reads_text: False for `random:<vocabulary>`, whose ids mean nothing.
    """

    name: str
    vocab_size: int
    checksum: str
    encode: Callable[[str], np.ndarray] = field(compare=False, repr=False)
    decode: Callable[[Iterable[int]], str] = field(compare=False, repr=False)
    reads_text: bool = True

    @property
    def bos_id(self) -> int:
        return self.vocab_size - 1

    def spelled(self, text: str) -> str:
        """What of `text` its ids give back: all of it, for these are byte-level. UserError if they
        give back another text."""
        return text


@dataclass(frozen=True)
class TokenizerEntry:
    """A kind of tokenizer: what it is, in one line, and how to make it from (spec, corpus)."""

    description: str
    load: Callable[[str, Corpus], Tokenizer]
    vocabulary: Callable[[str], int]
    """From a spec to the number of ids, for who has no corpus."""


TOKENIZERS: Registry[TokenizerEntry] = Registry("tokenizer")


def load_tokenizer(spec: str, corpus: Corpus) -> Tokenizer:
    """The tokenizer a spec names; a BPE is trained on `corpus`'s train split, or taken from cache.

    UserError: unknown kind, vocabulary missing or out of range, BPE on a corpus without text or
    with too little of it for the vocabulary, cache folder not writable.
    """
    return TOKENIZERS[spec.partition(":")[0]].load(spec, corpus)


def vocabulary_of(spec: str) -> int:
    """Ids of the tokenizer that a spec names, as it will be on a corpus that has text enough for
    it. UserError: unknown kind, vocabulary missing or out of range."""
    return TOKENIZERS[spec.partition(":")[0]].vocabulary(spec)


def count_words(text: str) -> int:
    r"""Words as lm-evaluation-harness counts them for word perplexity: `len(re.split(r"\s+"))`.

    White space at either end counts one more word, there as here.
    """
    return len(re.split(r"\s+", text))


def pieces(text: str, size: int = 1 << 17) -> Iterator[str]:
    """Pieces of about `size` characters whose ids, joined, are those of the whole text.

    A BPE's encoding takes some 100 bytes a token, so a file of 100 MB must not be encoded at once.
    None of its pre-tokens crosses from a non-space to a newline: that is the place to cut.
    """
    boundary = re.compile(r"(?<=\S)(?=\n)")
    start = 0
    while match := boundary.search(text, start + size):
        yield text[start : match.start()]
        start = match.start()
    yield text[start:]


def _vocabulary(spec: str, lowest: int, highest: int) -> int:
    kind, _, size = spec.partition(":")
    if not re.fullmatch(r"[0-9]{1,12}", size) or not lowest <= int(size) <= highest:
        raise UserError(
            f'tokenizer "{quoted(spec)}": wants a vocabulary from {lowest} to {highest} after the '
            f'colon, such as "{kind}:4096"'
        )
    return int(size)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- bytes and random ids ----------------------------------------------------------------------


def _bytes(spec: str) -> int:
    if spec != "byte":
        raise UserError(f'tokenizer "{quoted(spec)}": byte takes no vocabulary; write "byte"')
    return 257


def _load_byte(spec: str, corpus: Corpus) -> Tokenizer:
    return Tokenizer("byte", _bytes(spec), _sha256("byte"), _encode_bytes, _decode_bytes)


def _encode_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int32)


def _decode_bytes(ids: Iterable[int]) -> str:
    return bytes(int(i) for i in ids if i < 256).decode("utf-8", errors="replace")


def _random_ids(spec: str) -> int:
    return _vocabulary(spec, 2, 2**31 - 1)


def _load_random(spec: str, corpus: Corpus) -> Tokenizer:
    name = f"random:{_random_ids(spec)}"

    def refuse(_: object) -> NoReturn:
        raise UserError(f'tokenizer "{name}" only times; to read text take "byte" or "bpe:4096"')

    return Tokenizer(name, int(name[7:]), _sha256(name), refuse, refuse, reads_text=False)


# --- byte-level BPE ----------------------------------------------------------------------------


def _learnt(spec: str) -> int:
    return _vocabulary(spec, 257, 65536)


def _load_bpe(spec: str, corpus: Corpus) -> Tokenizer:
    vocab_size = _learnt(spec)
    documents = corpus.documents("train")
    path = cache_folder() / (
        f"bpe-{vocab_size}-{corpus.checksum[:32]}-tokenizers-{hf.__version__}-recipe-{RECIPE}.json"
    )
    texts = (document.text for document in documents)
    definition = _cached(path, lambda: _train(texts, vocab_size, corpus.name))
    model = hf.Tokenizer.from_str(definition)

    def encode(text: str) -> np.ndarray:
        return np.array(model.encode(text).ids, dtype=np.int32)

    def decode(ids: Iterable[int]) -> str:
        return model.decode([int(i) for i in ids if i < vocab_size - 1])

    return Tokenizer(f"bpe:{vocab_size}", vocab_size, _sha256(definition), encode, decode)


def _train(texts: Iterable[str], vocab_size: int, corpus_name: str) -> str:
    """The JSON of a BPE with `vocab_size - 1` ids; <bos> is not in it, so text can't spell it."""
    model = hf.Tokenizer(hf.models.BPE())
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(hf.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    learnt = model.get_vocab_size() + 1
    if learnt < vocab_size:
        raise UserError(
            f'corpus "{corpus_name}" has too little text for bpe:{vocab_size}; '
            f"it fills at most bpe:{learnt}"
        )
    return model.to_str()


# --- the cache ---------------------------------------------------------------------------------


def _cached(path: Path, make: Callable[[], str]) -> str:
    """As `cache.kept`, of text. UserError: the cache can't be read or written."""
    try:
        return kept(path, lambda: make().encode()).decode()
    except OSError as error:
        raise UserError(
            f'cannot use the tokenizer cache "{path.parent}": {error.strerror}; '
            f"set {CACHE_VARIABLE} to a writable folder"
        ) from error


TOKENIZERS.add("byte", TokenizerEntry("UTF-8 bytes and <bos>: 257 ids", _load_byte, _bytes))
TOKENIZERS.add(
    "bpe",
    TokenizerEntry(
        "bpe:<vocabulary>: byte-level BPE trained on the train split", _load_bpe, _learnt
    ),
)
TOKENIZERS.add(
    "random",
    TokenizerEntry("random:<vocabulary>: uniform ids; for speed only", _load_random, _random_ids),
)
