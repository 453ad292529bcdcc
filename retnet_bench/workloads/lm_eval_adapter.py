"""lm-eval's three questions, answered by a Scorer. Imported only where lm-eval is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.model import LM

from retnet_bench.base import UserError, quoted
from retnet_bench.data import Tokenizer
from retnet_bench.workloads.generation import Writing
from retnet_bench.workloads.scorer import Request, Scorer
from retnet_bench.workloads.unspelled import Unspelled


class Adapter(LM):
    """Texts to ids and scores back. Every context begins with <bos>, as in training.

    Requests are taken task by task, so that a few-shot prefix a task repeats is read once.
    unspelled: what the tokenizer could not spell of each task's texts.
    """

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.scorer = scorer
        self.tokenizer = tokenizer
        self.unspelled: dict[str, Unspelled] = {}

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
        """(ln P(continuation | context), is greedy) of each request's (context, continuation)."""
        return _by_task(requests, self._pairs)

    def _pairs(self, requests: list) -> list[tuple[float, bool]]:
        for request in requests:
            self._unspelled(request).answer(request.args[1], self.tokenizer)
        scores = self.scorer.score([self.encode_pair(*request.args) for request in requests])
        return [(score.loglikelihood, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """ln P of each request's (text,)."""
        for request in requests:
            text = request.args[0]
            spelled = self.tokenizer.spelled(text)
            self._unspelled(request).document(request.doc_id, text, spelled)
        return self.scorer.rolling([self._ids(request.args[0]) for request in requests])

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Greedy text after each request's (context, options), up to the first stop word."""
        return _by_task(requests, self._texts)

    def encode_pair(self, context: str, continuation: str) -> Request:
        """Both as ids, as lm-eval's own models do (TemplateLM._encode_pair): white space between
        them belongs to the continuation, which is what the ids of both have beyond those of the
        context alone. UserError where that is nothing: it would be certain, whatever the model."""
        prefix, whole = self._ids(context.rstrip()), self._ids(context + continuation)
        if len(whole) <= len(prefix):
            raise UserError(
                f'the answer "{quoted(continuation)}" after "...{quoted(context[-20:])}" has no '
                f"token of its own in {self.tokenizer.name}; begin the task's answers where words "
                f'do (target_delimiter: " ")'
            )
        return Request(prefix, whole[len(prefix) :])

    def _ids(self, text: str) -> tuple[int, ...]:
        """<bos> and the text; as in lm-eval not twice, where the text itself begins with it."""
        ids = tuple(self.tokenizer.encode(text).tolist())
        bos = (self.tokenizer.bos_id,)
        return ids if ids[:1] == bos else bos + ids

    def _unspelled(self, request: Any) -> Unspelled:
        return self.unspelled.setdefault(request.task_name, Unspelled(self.tokenizer.name))

    def _texts(self, requests: list) -> list[str]:
        wanted = [Writing.of(request.args[1]) for request in requests]
        contexts = [self._ids(request.args[0]) for request in requests]
        ends = {self.tokenizer.bos_id, *self.scorer.ends}

        def text_of(ids: list[int]) -> str:
            return self.tokenizer.decode(ids[:-1] if ids and ids[-1] in ends else ids)

        def done(i: int, ids: list[int]) -> bool:
            return ids[-1] in ends or wanted[i].is_done(len(ids), text_of(ids))

        most = max(one.most for one in wanted)
        written = self.scorer.generate(contexts, most, done)
        return [one.cut(text_of(ids)) for ids, one in zip(written, wanted, strict=True)]


def _by_task(requests: list, answer: Callable[[list], list]) -> list:
    answers: dict[int, Any] = {}
    for task in dict.fromkeys(request.task_name for request in requests):
        members = [i for i, request in enumerate(requests) if request.task_name == task]
        found = answer([requests[i] for i in members])
        answers |= dict(zip(members, found, strict=True))
    return [answers[i] for i in range(len(requests))]
