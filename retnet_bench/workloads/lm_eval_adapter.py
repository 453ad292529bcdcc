"""lm-eval's three questions, answered by a Scorer. Imported only where lm-eval is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.model import LM

from retnet_bench.base import UserError
from retnet_bench.data import Tokenizer
from retnet_bench.workloads.answers import Request, Scorer

MOST_NEW_TOKENS = 256
"""Where a task does not say, as in lm-eval."""


class Adapter(LM):
    """Texts to ids and scores back. Every context begins with <bos>, as in training.

    Requests are taken task by task, so that a few-shot prefix a task repeats is read once.
    """

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.scorer = scorer
        self.tokenizer = tokenizer

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
        """(ln P(continuation | context), is greedy) of each request's (context, continuation)."""
        return _by_task(requests, self._pairs)

    def _pairs(self, requests: list) -> list[tuple[float, bool]]:
        scores = self.scorer.score([self.encode_pair(*request.args) for request in requests])
        return [(score.loglikelihood, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """ln P of each request's (text,)."""
        return self.scorer.rolling([self._ids(request.args[0]) for request in requests])

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Greedy text after each request's (context, options), up to the first stop word."""
        return _by_task(requests, self._texts)

    def encode_pair(self, context: str, continuation: str) -> Request:
        """Both as ids. White space between them belongs to the continuation, and is encoded with
        both in place, as lm-eval's own models do."""
        kept = context.rstrip()
        whole, prefix = self._ids(context + continuation), self._ids(kept)
        return Request(prefix, whole[len(prefix) :])

    def _ids(self, text: str) -> tuple[int, ...]:
        return (self.tokenizer.bos_id, *self.tokenizer.encode(text).tolist())

    def _texts(self, requests: list) -> list[str]:
        most = {_most(request.args[1]) for request in requests}
        stops = [_stops(request.args[1]) for request in requests]
        contexts = [self._ids(request.args[0]) for request in requests]

        def done(i: int, ids: list[int]) -> bool:
            text = self.tokenizer.decode(ids)
            return ids[-1] == self.tokenizer.bos_id or any(stop in text for stop in stops[i])

        written = self.scorer.generate(contexts, max(most), done)
        return [_cut(self.tokenizer.decode(ids), s) for ids, s in zip(written, stops, strict=True)]


def _by_task(requests: list, answer: Callable[[list], list]) -> list:
    answers: dict[int, Any] = {}
    for task in dict.fromkeys(request.task_name for request in requests):
        members = [i for i, request in enumerate(requests) if request.task_name == task]
        found = answer([requests[i] for i in members])
        answers |= dict(zip(members, found, strict=True))
    return [answers[i] for i in range(len(requests))]


def _stops(options: dict[str, Any]) -> list[str]:
    if options.get("do_sample") and options.get("temperature", 1.0) > 0:
        raise UserError("the task wants sampled text (do_sample); only greedy text is written here")
    until = options.get("until") or []
    return [until] if isinstance(until, str) else list(until)


def _most(options: dict[str, Any]) -> int:
    return int(options.get("max_gen_toks", MOST_NEW_TOKENS))


def _cut(text: str, stops: list[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
