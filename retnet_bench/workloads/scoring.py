"""Scoring: the negative log-likelihood of each token of a document, given a stated context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.data import ScoredDocument, bigrams
from retnet_bench.models import LanguageModel

CONTEXTS = ("chunked", "sliding", "carried")
CONTEXT_TOKENS = 128
"""Tokens scored at the end of each window when contexts are compared (Table 8)."""
ROWS = 8
"""Most windows run together."""
LOGITS = 2**25
"""Most logits made at once: 128 MiB in fp32."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a token is predicted from. <bos> is given, never scored.

    `chunked`: the tokens before it in its own window of `window`; windows don't overlap.
    `sliding`: windows overlap and move on by `stride`; a token is scored in the first that holds
    it, so but for the first window it has at least `window - stride` tokens before it.
    `carried`: all of the document before it. Retention carries its state, of constant size, from
    piece to piece of `window` tokens; attention keeps the whole cache.
    """

    kind: str
    window: int
    stride: int
    bos: int | None = None
    """Put in place of each window's first input, for a model trained so; None: left as it is."""


@torch.no_grad()
def token_nll(model: LanguageModel, ids: Tensor, context: Context) -> Tensor:
    """(N,) fp64 on the CPU: nat of ids[1:] (N + 1,) under the context; the model in eval mode."""
    if context.kind == "carried":
        return _carried(model, ids, context.window)
    inputs, targets = ids[:-1], ids[1:]
    found = [
        nll
        for _, same in groupby(_windows(len(inputs), context), key=lambda w: (w[1] - w[0], w[2]))
        for nll in _scored(model, inputs, targets, list(same), context.bos)
    ]
    return torch.cat(found)


Window = tuple[int, int, int]
"""First input, end, and how many tokens at its end are scored."""


def _windows(n: int, context: Context) -> Iterator[Window]:
    """Windows that score each of `n` tokens once. `chunked` is `sliding` by a whole window."""
    stride = context.window if context.kind == "chunked" else context.stride
    done = start = 0
    while done < n:
        end = min(start + context.window, n)
        yield start, end, end - done
        done, start = end, start + stride


def ar_hits(ids: Tensor, context: Context, frequent: np.ndarray, vocab_size: int) -> Tensor:
    """(N,) bool: which of ids[1:] (N + 1,) end a bigram that stands earlier in what they are
    predicted from, and that is none of the `frequent` (`bigrams.keys`) of the training text.

    They are what associative recall can tell (AR hits of Zoology, arXiv:2312.04927). Only what
    `context` gives counts as earlier, so that every hit can be told from tokens the model sees.
    """
    n = len(ids) - 1
    carried = context.kind == "carried"
    found = [
        _repeats(ids[start : end + 1].numpy(), None if carried else context.bos, vocab_size)[-last:]
        for start, end, last in ([(0, n, n)] if carried else _windows(n, context))
    ]
    rare = ~np.isin(bigrams.keys(ids.numpy(), vocab_size), frequent)
    return torch.from_numpy(np.concatenate(found) & rare)


def _repeats(window: np.ndarray, bos: int | None, vocab_size: int) -> np.ndarray:
    """`bigrams.repeated` of a window as the model reads it."""
    seen = window if bos is None else np.concatenate([[bos], window[1:]])
    return bigrams.repeated(seen, vocab_size)


def _scored(
    model: LanguageModel, inputs: Tensor, targets: Tensor, windows: list[Window], bos: int | None
) -> Iterator[Tensor]:
    """Scores of windows of one shape, a few at a time."""
    start, end, scored = windows[0]
    at_once = max(1, min(ROWS, LOGITS // ((end - start) * model.cfg.vocab_size)))
    for first in range(0, len(windows), at_once):
        some = windows[first : first + at_once]
        x = torch.stack([inputs[a:b] for a, b, _ in some])
        y = torch.stack([targets[b - scored : b] for _, b, _ in some])
        if bos is not None:
            x[:, 0] = bos
        yield _nll(model(x.to(_device(model)))[:, -scored:], y)


def _carried(model: LanguageModel, ids: Tensor, piece: int) -> Tensor:
    state = model.new_state(1, len(ids) - 1)
    pieces = zip(ids[:-1].split(piece), ids[1:].split(piece), strict=True)
    found = [
        _nll(model.prefill(inputs[None].to(_device(model)), state, every=True), targets[None])
        for inputs, targets in pieces
    ]
    return torch.cat(found)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, T, vocab), (B, T) -> (B T,) fp64 on the CPU."""
    at_least_fp32 = logits if logits.dtype == torch.float64 else logits.float()
    flat = at_least_fp32.flatten(0, 1)
    targets = targets.to(logits.device).flatten()
    return F.cross_entropy(flat, targets, reduction="none").double().cpu()


def _device(model: LanguageModel) -> torch.device:
    return model.embedding.weight.device


# --- curves ------------------------------------------------------------------------------------


def bucket_ends(trained: int, n_tokens: int) -> list[int]:
    """Ends of buckets of positions: `trained` by powers of two, down to 32 tokens and up until
    the last holds `n_tokens`. So what a model was trained for and what it was not are apart."""
    ends = [trained]
    while ends[0] >= 64:
        ends.insert(0, ends[0] // 2)
    while ends[-1] < n_tokens:
        ends.append(2 * ends[-1])
    return [end for i, end in enumerate(ends) if i == 0 or ends[i - 1] < n_tokens]


def by_position(nll: Tensor, trained: int) -> Iterator[tuple[int, float, int]]:
    """(bucket end, nat, tokens) over a document's token scores: token i is at position i + 1."""
    done = 0
    for end in bucket_ends(trained, len(nll)):
        part = nll[done:end]
        yield end, part.sum().item(), len(part)
        done = end


@torch.no_grad()
def by_context(
    model: LanguageModel, ids: Tensor, contexts: Sequence[int], bos: int | None
) -> Iterator[tuple[int, float, int]]:
    """(context, nat, tokens): the last CONTEXT_TOKENS of each whole stretch of max(contexts)
    tokens, predicted from windows of each context that end there: always the same tokens
    (Table 8). Nothing for a document shorter than max(contexts)."""
    inputs, targets = ids[:-1], ids[1:]
    longest = max(contexts)
    ends = range(longest, len(inputs) + 1, longest)
    for context in contexts if ends else ():
        windows = [(end - context, end, CONTEXT_TOKENS) for end in ends]
        nll = torch.cat(list(_scored(model, inputs, targets, windows, bos)))
        yield context, nll.sum().item(), len(nll)


def check_contexts(documents: Sequence[ScoredDocument], contexts: Sequence[int]) -> None:
    """UserError if no document is as long as the longest context."""
    longest = max((d.n_tokens for d in documents), default=0)
    if contexts and longest < max(contexts):
        raise UserError(
            f"contexts asks for {max(contexts)} tokens, but the longest held-out document has "
            f"{longest}; take contexts up to {longest}, or a corpus of longer documents"
        )
