"""How many tokens a training gets by the size of its model, and how often that reads the corpus."""

from __future__ import annotations

from functools import cache

import numpy as np

from retnet_bench.base import UserError, quoted
from retnet_bench.data import count_windows, encode_split, load_corpus, load_tokenizer
from retnet_bench.models import cost
from retnet_bench.models.matching import reference
from retnet_bench.workloads import Cell
from retnet_bench.workloads.settings import MOST_TOKENS

MAX_EPOCHS = 4.0
"""Epochs that `tokens_per_param` may come to where the study does not say: up to four, text that is
read again is worth almost as much as new text (arXiv:2305.16264)."""


def by_parameters(
    ratio: float, size: str, family: str, vocab_size: int, batch: int, length: int
) -> int:
    """Tokens to train on: `ratio` for each body parameter of the size's Transformer, to which all
    arms are matched, so that those of a pair get equally many. The nearest whole number of batches,
    at least one. UserError where that is more than a training may have."""
    step = batch * length
    wanted = ratio * cost.body_parameters(reference(size, family, vocab_size))
    tokens = max(1, round(wanted / step)) * step
    if tokens > MOST_TOKENS:
        raise UserError(
            f"tokens_per_param {ratio:g} makes {tokens:,} tokens of size {size}; at most "
            f"{MOST_TOKENS:,} are taken"
        )
    return tokens


def epochs(cell: Cell) -> float:
    """How often the training reads what it can of the corpus's train split. UserError for a corpus
    or tokenizer that is not available here, or that holds no window of the cell's length."""
    windows = count_windows(_stream(cell.corpus, cell.tokenizer), cell.length)
    if windows < 1:
        raise UserError(
            f'corpus "{quoted(cell.corpus)}" has no {cell.length + 1:,} tokens to train on; take a '
            f"shorter length or a larger corpus"
        )
    return (cell.token_budget or 0) / (windows * cell.length)


@cache  # a plan asks for each of its cells
def _stream(corpus: str, tokenizer: str) -> np.ndarray:
    """The train split's tokens (N,)."""
    loaded = load_corpus(corpus)
    return encode_split(loaded, "train", load_tokenizer(tokenizer, loaded))


def check_epochs(cell: Cell, most: float | None) -> None:
    """UserError for a corpus that would be read more often than `most` times, or where that is not
    said and the budget is so many tokens a parameter, more than MAX_EPOCHS times."""
    most = most or (MAX_EPOCHS if cell.tokens_per_param else None)
    if most is None or (found := epochs(cell)) <= most:
        return
    ratio = f", tokens_per_param {cell.tokens_per_param:g}," if cell.tokens_per_param else ""
    raise UserError(
        f'corpus "{quoted(cell.corpus)}" is too small: size {cell.size}{ratio} trains on '
        f"{cell.token_budget:,} tokens, which is {found:.1f} epochs of it, and max_epochs is "
        f"{most:g}; take a larger corpus or fewer tokens, or raise max_epochs"
    )
