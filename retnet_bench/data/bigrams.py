"""Bigrams: those that a training text is full of, and those that a text repeats."""

from __future__ import annotations

import numpy as np

PIECE = 2**22
"""Bigrams counted at once. Memory grows with this and with the number of different bigrams, not
with the length of the text."""


def keys(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """(N + 1,) token ids -> (N,) int64: one number for each pair of neighbours."""
    ids = tokens.astype(np.int64)
    return ids[:-1] * vocab_size + ids[1:]


def frequent(tokens: np.ndarray, vocab_size: int, most: int) -> np.ndarray:
    """Keys of the bigrams that occur more than `most` times in a stream (N,): ascending int64."""
    known, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for start in range(0, len(tokens) - 1, PIECE):
        piece = keys(tokens[start : start + PIECE + 1], vocab_size)
        found, times = np.unique(piece, return_counts=True)
        known, where = np.unique(np.concatenate([known, found]), return_inverse=True)
        together = np.bincount(where, np.concatenate([counts, times]))  # fp64: exact below 2^53
        counts = together.astype(np.int64)
    return known[counts > most]


def repeated(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """(N + 1,) token ids -> (N,) bool: whether tokens i and i + 1 already stood together before."""
    _, first, which = np.unique(keys(tokens, vocab_size), return_index=True, return_inverse=True)
    return first[which] < np.arange(len(which))
