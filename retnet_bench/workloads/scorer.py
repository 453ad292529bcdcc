"""Answers to a task's requests: log-likelihoods of texts, and greedy continuation.

What requests have in common is read once. The tokens that contexts begin with (few-shot examples,
an instruction) are their stem: one prefill. A context with several continuations is prefilled once,
and each continuation starts from its own copy of that state. Sequences that stand at one position
share a batch; the shorter ones of a batch are padded on the right, where causality hides it.
Both arms take the same path.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.models import DecodeState, LanguageModel
from retnet_bench.workloads.scoring import Context, token_nll

T = TypeVar("T")
ROWS = 64
"""Most sequences in a batch."""
LOGITS = 2**25
"""Most logits of a batch, if it holds more than one sequence."""
STEM, OFTEN = 32, 4
"""Tokens that contexts must share, and how many contexts, to be read from one stem on."""
PIECE = 2048
"""Most tokens of a sequence that one prefill takes, so that logits stay small."""


@dataclass(frozen=True)
class Request:
    """Score `continuation` after `context`: ids, neither empty; a context begins with <bos>."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that are read: the last is only predicted."""
        return len(self.context) + len(self.continuation) - 1


@dataclass(frozen=True)
class Score:
    """ln P(continuation | context), and whether greedy decoding would have written it."""

    loglikelihood: float
    greedy: bool


@dataclass
class Scorer:
    """`model` on its device. No input is longer than `max_length`: contexts lose their left.

    A model may know more ids than its tokenizer, where its table is padded. They have their share
    of P, as the model defines it, but are never written.
    """

    model: LanguageModel
    max_length: int
    window_bos: int | None = None
    """<bos>, if each window of a document begins with it, as in training; None: as it is."""
    n_ids: int | None = None
    """Ids from 0 on that may be written; all when None."""
    ends: tuple[int, ...] = ()
    """Ids that end a text, beside <bos>."""

    @torch.no_grad()
    def score(self, requests: Sequence[Request]) -> list[Score]:
        """One score a request, in their order."""
        if not requests:
            return []
        fitted = [self._fit(request) for request in requests]
        scores: dict[int, Score] = {}
        for members in clusters([request.context for request in fitted]):
            found = self._cluster([fitted[i] for i in members])
            scores |= dict(zip(members, found, strict=True))
        return [scores[i] for i in range(len(fitted))]

    def _cluster(self, fitted: list[Request]) -> list[Score]:
        """Scores of requests whose contexts are read from one stem on."""
        scores: dict[int, Score] = {}
        capacity = max(request.length for request in fitted)
        stem = shared_prefix([request.context for request in fitted])
        base = self._read(self.model.new_state(1, capacity), [stem])
        for prefixes, members in _families(fitted, len(stem)).items():
            for some in _batches(members, self._at_once(capacity)):
                scores |= self._family(fitted, base, prefixes - len(stem), some)
        return [scores[i] for i in range(len(fitted))]

    def _fit(self, request: Request) -> Request:
        """The request with its context cut on the left (<bos> stays) to fit `max_length`."""
        over = request.length - self.max_length
        if over <= 0:
            return request
        if over >= len(request.context):
            raise UserError(
                f"a continuation of {len(request.continuation)} tokens does not fit the model's "
                f"longest input, {self.max_length}; set --length higher if the model can take it"
            )
        return Request(request.context[:1] + request.context[1 + over :], request.continuation)

    def _family(
        self, fitted: list[Request], base: DecodeState, more: int, members: list[list[int]]
    ) -> dict[int, Score]:
        """Scores of the requests in `members`: one list for each of several contexts, all to be
        read `more` tokens beyond `base` before the continuations part."""
        start = base.position
        contexts = [fitted[group[0]].context for group in members]
        state = self.model.select(base, self._zeros(len(members)))
        state = self._read(state, [context[start : start + more] for context in contexts])
        rows = [(parent, i) for parent, group in enumerate(members) for i in group]
        scores: dict[int, Score] = {}
        for some in _batches(rows, self._at_once(max(fitted[i].length for _, i in rows))):
            inputs = [_inputs(fitted[i])[state.position :] for _, i in some]
            fork = self.model.select(state, self._ids([parent for parent, _ in some]))
            targets = [fitted[i].continuation for _, i in some]
            scores |= dict(zip((i for _, i in some), self._scores(fork, inputs, targets)))
        return scores

    def _scores(
        self, state: DecodeState, inputs: list[tuple[int, ...]], targets: list[tuple[int, ...]]
    ) -> Iterator[Score]:
        """Scores of the last tokens of each row: `targets` are what comes after them."""
        logprobs, best = self._follow(state, inputs, targets)
        for row, (given, wanted) in enumerate(zip(inputs, targets, strict=True)):
            where = slice(len(given) - len(wanted), len(given))
            total = logprobs[row, where].sum().item()
            yield Score(total, bool((best[row, where].cpu() == torch.tensor(wanted)).all()))

    def _follow(
        self, state: DecodeState, inputs: list[tuple[int, ...]], targets: list[tuple[int, ...]]
    ) -> tuple[Tensor, Tensor]:
        """ln P of each row's targets, which end where its inputs end, and the likeliest tokens,
        both (B, T) and only meaningful there. Reads at most PIECE tokens at a time."""
        tokens, wanted = self._padded(inputs), self._padded(_aligned(inputs, targets))
        logprobs, best = [], []
        for piece, truth in zip(tokens.split(PIECE, 1), wanted.split(PIECE, 1), strict=True):
            logits = self.model.prefill(piece, state, every=True)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            chosen = logits.log_softmax(-1).gather(-1, truth[..., None]).squeeze(-1)
            logprobs.append(chosen.double())
            best.append(self._likeliest(logits))
        return torch.cat(logprobs, 1), torch.cat(best, 1)

    def rolling(self, documents: Sequence[Sequence[int]]) -> list[float]:
        """ln P of each document, its first id (<bos>) given and not scored, by the `chunked`
        windows of the workload `perplexity`, `max_length` tokens long."""
        window = self.max_length
        context = Context(kind="chunked", window=window, stride=window, bos=self.window_bos)
        return [
            -token_nll(self.model, torch.tensor(ids), context).sum().item() if len(ids) > 1 else 0.0
            for ids in documents
        ]

    @torch.no_grad()
    def generate(
        self,
        contexts: Sequence[tuple[int, ...]],
        most: int,
        done: Callable[[int, list[int]], bool],
    ) -> list[list[int]]:
        """Greedy continuations of at most `most` ids; `done(i, ids)` ends the i-th earlier."""
        if not contexts:
            return []
        keep = self.max_length - most
        if keep < 1:
            raise UserError(f"{most} new tokens leave no room for a context in {self.max_length}")
        cut = [c[:1] + c[1:][-(keep - 1) :] if len(c) > keep else c for c in contexts]
        stem = shared_prefix(cut)
        base = self._read(self.model.new_state(1, max(map(len, cut)) + most), [stem])
        written: list[list[int]] = [[] for _ in cut]
        by_length = _grouped(range(len(cut)), lambda i: len(cut[i]))
        for group in by_length.values():
            for some in _batches(group, self._at_once(len(cut[group[0]]) + most)):
                state = self.model.select(base, self._zeros(len(some)))
                rows = self._padded([cut[i][len(stem) :] for i in some])
                logits = self.model.prefill(rows, state)
                self._write(state, logits, some, most, done, written)
        return written

    def _write(
        self,
        state: DecodeState,
        logits: Tensor,
        members: list[int],
        most: int,
        done: Callable[[int, list[int]], bool],
        written: list[list[int]],
    ) -> None:
        """Step all members together until each is done."""
        going = set(members)
        for step in range(most):
            chosen = self._likeliest(logits[:, -1])
            for i, token in zip(members, chosen.tolist(), strict=True):
                if i in going:
                    written[i].append(token)
                    if done(i, written[i]):
                        going.remove(i)
            if not going or step == most - 1:
                return
            logits = self.model.step(chosen[:, None], state)

    # --- tensors -----------------------------------------------------------------------------

    def _likeliest(self, logits: Tensor) -> Tensor:
        return logits[..., : self.n_ids].argmax(-1)

    def _read(self, state: DecodeState, rows: list[tuple[int, ...]]) -> DecodeState:
        """Take rows of equal length into `state`."""
        for piece in self._padded(rows).split(PIECE, 1):
            if piece.shape[1]:
                self.model.prefill(piece, state)
        return state

    def _at_once(self, length: int) -> int:
        return max(1, min(ROWS, LOGITS // (self.model.cfg.vocab_size * max(1, length))))

    def _padded(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        longest = max(map(len, rows))
        return self._ids([row + (0,) * (longest - len(row)) for row in rows])

    def _ids(self, values: Sequence) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.embedding.weight.device)

    def _zeros(self, n: int) -> Tensor:
        return self._ids([0] * n)


def clusters(contexts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Indices of contexts that share a stem worth reading once: at least STEM tokens, and at least
    OFTEN different contexts. All others together are the last cluster.

    A document that is itself among a task's examples has other examples than the rest, and must
    not cost them their stem.
    """
    found: list[list[int]] = []
    first: tuple[int, ...] = ()
    for i in sorted(range(len(contexts)), key=lambda i: contexts[i]):
        if not found or (contexts[i] != first and len(shared_prefix([first, contexts[i]])) < STEM):
            found.append([])
            first = contexts[i]
        found[-1].append(i)
    large = [c for c in found if len({contexts[i] for i in c}) >= OFTEN]
    rest = [i for c in found if c not in large for i in c]
    return [*large, rest] if rest else large


def shared_prefix(contexts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all contexts begin with, less the last token of the shortest: it is read with what
    follows, so that its logits are at hand."""
    first, last = min(contexts), max(contexts)  # in order: whatever these share, all share
    most = min(map(len, contexts)) - 1
    same = (i for i, (a, b) in enumerate(zip(first, last)) if a != b)
    return first[: min(next(same, most), most)]


def _families(requests: list[Request], stem: int) -> dict[int, list[list[int]]]:
    """Requests by the position at which their continuations part, then by context.

    A context with several continuations is read to its last token but one before they part; one
    with a single continuation has nothing to share beyond the stem.
    """
    by_context = _grouped(range(len(requests)), lambda i: requests[i].context)
    families = defaultdict(list)
    for context, members in by_context.items():
        families[len(context) - 1 if len(members) > 1 else stem].append(members)
    for groups in families.values():
        groups.sort(key=lambda group: requests[group[0]].length)
    return families


K = TypeVar("K", bound=Hashable)


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _inputs(request: Request) -> tuple[int, ...]:
    return request.context + request.continuation[:-1]


def _aligned(
    inputs: list[tuple[int, ...]], targets: list[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Targets moved to where their rows' inputs end."""
    pairs = zip(inputs, targets, strict=True)
    return [(0,) * (len(given) - len(wanted)) + wanted for given, wanted in pairs]
