"""Batches: what the models read, as int64 CPU tensors, equal for equal seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from typing import TYPE_CHECKING

import numpy as np
import tokenizers as hf

from retnet_bench.base import UserError
from retnet_bench.data.cache import cache_folder, found, keep
from retnet_bench.data.corpus import Corpus, Document, Split
from retnet_bench.data.tokenizers import Tokenizer, count_words, pieces
from retnet_bench.files import NotWritten

if TYPE_CHECKING:
    import torch

# Part of the name of what is kept: raise it when `_encode` changes.
RECIPE = 1


@dataclass(frozen=True, eq=False)
class ScoredDocument:
    """A held-out document, ready to be scored.

    ids: (N + 1,) int64, <bos> first. n_words: as `count_words`. n_bytes: of its UTF-8 text.
    """

    name: str
    ids: torch.Tensor
    n_bytes: int
    n_words: int

    @property
    def n_tokens(self) -> int:
        """N: the tokens a model predicts, which leaves out <bos>."""
        return len(self.ids) - 1


def documents(
    corpus: Corpus, split: Split, tokenizer: Tokenizer, most: int | None = None
) -> list[ScoredDocument]:
    """The split's documents, the first `most` or all, whole, in stable order; UserError if there is
    no text to score."""
    return [
        ScoredDocument(
            name=document.name,
            ids=_tensor(np.concatenate(list(_encode(document, tokenizer)))),
            n_bytes=len(document.text.encode("utf-8")),
            n_words=count_words(document.text),
        )
        for document in corpus.documents(split)[:most]
    ]


@lru_cache(maxsize=4)
def encode_split(corpus: Corpus, split: Split, tokenizer: Tokenizer) -> np.ndarray:
    """The split as one stream: (N,) int32, read-only, each document behind its <bos>.

    Every cell of a study reads the same stream, each in a process of its own: it is kept in the
    cache folder, if that can be written. UserError if corpus or tokenizer are not for text.
    """
    texts = corpus.documents(split)
    name = f"ids-{corpus.checksum[:32]}-{split}-{tokenizer.checksum[:32]}-{tokenizer.bos_id}"
    path = cache_folder() / f"{name}-tokenizers-{hf.__version__}-recipe-{RECIPE}"

    with suppress(OSError):
        if (kept := found(path)) is not None:
            return np.frombuffer(kept, dtype=np.int32)
    stream = np.concatenate(list(_runs(texts, tokenizer)))
    stream.flags.writeable = False
    with suppress(OSError, NotWritten):
        keep(path, stream.tobytes())
    return stream


def train_batches(
    tokens: np.ndarray,
    batch: int,
    length: int,
    seed: int,
    start: int = 0,
    bos: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (inputs, targets), both (batch, length) int64; targets are inputs one token on.

    The stream is cut into windows of `length` inputs that do not overlap; each epoch reads every
    window once in a new order, and a batch may end one epoch and begin the next. At the end of
    the stream fewer than `length + 1` tokens stay unread. `start`: batches to leave out, so that
    training goes on where it stopped. `bos`: put in place of each window's first input. UserError
    if there is not one window.

    A window may hold the end of one document and the start of the next: <bos> stands between them,
    and the model's attention and state do cross it. No window crosses from one split to another,
    for the stream is one split's.
    """
    if (windows := count_windows(tokens, length)) < 1:
        raise UserError(
            f"the split has {len(tokens)} tokens, length {length} needs {length + 1}; "
            f"take a length of at most {len(tokens) - 1} or a larger corpus"
        )
    return _batches(tokens, _shuffled(windows, seed, batch * start), batch, length, bos)


def count_windows(tokens: np.ndarray, length: int) -> int:
    """Windows of `length` inputs, and one more token for the last target, in the stream."""
    return (len(tokens) - 1) // length


def _batches(
    tokens: np.ndarray, order: Iterator[int], batch: int, length: int, bos: int | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    span = np.arange(length + 1)
    while True:
        starts = length * np.fromiter(islice(order, batch), dtype=np.int64, count=batch)
        rows = _tensor(tokens[starts[:, None] + span])  # (B, T + 1)
        inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        if bos is not None:
            inputs[:, 0] = bos
        yield inputs, targets


def _shuffled(windows: int, seed: int, start: int) -> Iterator[int]:
    first, skipped = divmod(start, windows)
    for epoch in count(first):
        order = np.random.default_rng([seed, epoch]).permutation(windows).tolist()
        yield from order[skipped:]
        skipped = 0


def sample_batch(
    corpus: Corpus, tokenizer: Tokenizer, batch: int, length: int, seed: int
) -> torch.Tensor:
    """(batch, length + 1) int64 ids to time a model on: train text, or random ids.

    Only as much text is encoded as the batch needs; a corpus that is too short is repeated.
    Ids are uniform over the vocabulary when corpus or tokenizer is a random one.
    """
    rng = np.random.default_rng(seed)
    shape = (batch, length + 1)
    if not (corpus.is_text and tokenizer.reads_text):
        return _tensor(rng.integers(tokenizer.vocab_size, size=shape))
    train = corpus.documents("train")
    shuffled = (train[index] for index in rng.permutation(len(train)))
    ids = _take(_runs(shuffled, tokenizer), batch * (length + 1))
    return _tensor(np.resize(ids, shape))  # repeats what is too short


def _take(runs: Iterable[np.ndarray], wanted: int) -> np.ndarray:
    """The first `wanted` ids, or all if there are fewer; later runs are never made."""
    taken: list[np.ndarray] = []
    for run in runs:
        taken.append(run[:wanted])
        wanted -= len(taken[-1])
        if wanted == 0:
            break
    return np.concatenate(taken)


def _runs(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    for document in documents:
        yield from _encode(document, tokenizer)


def _encode(document: Document, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    yield np.array([tokenizer.bos_id], dtype=np.int32)
    for piece in pieces(document.text):
        yield tokenizer.encode(piece)


def _tensor(ids: np.ndarray) -> torch.Tensor:
    # Imported here because it takes a second, which `list` and checks of a study need not pay.
    import torch

    return torch.from_numpy(ids.astype(np.int64))
