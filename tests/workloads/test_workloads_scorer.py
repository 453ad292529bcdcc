"""Answers: equal to one plain forward pass per request, and nothing shared is read twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes.options import options_of
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.base import UserError
from retnet_bench.models import LanguageModel, match
from retnet_bench.workloads import scorer
from retnet_bench.workloads.scorer import Request, Scorer

ARMS = [("retention", "chunkwise"), ("attention", "sdpa")]
BOS = 28


def model_of(mixer: str, kernel: str) -> LanguageModel:
    torch.manual_seed(3)
    config = match(
        "0.1M", mixer, kernel=kernel, vocab_size=BOS + 1, options=options_of(mixer, chunk=8)
    ).config
    model = LanguageModel(replace(config, norm_eps=1e-6)).double()
    for parameter in model.parameters():
        parameter.data.mul_(2.0)  # so that some tokens are clearly likelier than others
    return model


MODELS = {mixer: model_of(mixer, kernel) for mixer, kernel in ARMS}


class Counting:
    """Tokens that a model's prefill was given, padding included."""

    def __init__(self, model: LanguageModel, monkeypatch) -> None:
        self.tokens, prefill = 0, model.prefill

        def counted(tokens, state, every=False):
            self.tokens += tokens.numel()
            return prefill(tokens, state, every)

        monkeypatch.setattr(model, "prefill", counted)


@torch.no_grad()
def naive(model: LanguageModel, request: Request) -> tuple[float, bool]:
    ids = torch.tensor(request.context + request.continuation)
    logprobs = model(ids[None, :-1])[0].log_softmax(-1)[-len(request.continuation) :]
    wanted = ids[-len(request.continuation) :]
    total = logprobs[torch.arange(len(wanted)), wanted].sum().item()
    return total, bool((logprobs.argmax(-1) == wanted).all())


def test_one_context_with_other_examples_does_not_cost_the_others_their_stem():
    many = [(BOS, *range(20), *range(20), i) for i in range(5)]
    alone = [(BOS, 7, i) for i in range(2)]
    contexts = [many[0], alone[0], *many, alone[1]]
    assert scorer.clusters(contexts) == [[0, 2, 3, 4, 5, 6], [1, 7]]
    assert scorer.clusters(alone) == [[0, 1]]


ids = st.lists(st.integers(0, BOS - 1), max_size=12).map(tuple)


@settings(max_examples=25)
@given(
    stem=ids,
    contexts=st.lists(ids, min_size=1, max_size=4),
    continuations=st.lists(ids.filter(bool), min_size=1, max_size=3),
    rows=st.sampled_from([1, 3, 64]),
    piece=st.sampled_from([4, 2048]),
)
@pytest.mark.parametrize("mixer", MODELS)
def test_scores_equal_one_forward_pass_per_request(
    mixer, stem, contexts, continuations, rows, piece
):
    requests = [Request((BOS, *stem, *c), k) for c in contexts for k in continuations]
    requests.append(Request((BOS, *stem, *contexts[0], 1), (2, 3)))  # one without a sibling
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "ROWS", rows)
        patch.setattr(scorer, "PIECE", piece)
        scores = Scorer(MODELS[mixer], 64).score(requests)
    for request, score in zip(requests, scores, strict=True):
        total, greedy = naive(MODELS[mixer], request)
        assert score.loglikelihood == pytest.approx(total, abs=1e-9)
        assert score.greedy == greedy


@pytest.mark.parametrize("mixer", MODELS)
def test_greedy_is_true_for_what_greedy_decoding_writes(mixer):
    scorer = Scorer(MODELS[mixer], 64)
    context = (BOS, 4, 9)
    written = tuple(scorer.generate([context], 3, lambda i, ids: False)[0])
    other = (*written[:2], (written[2] + 1) % BOS)
    first, second = scorer.score([Request(context, written), Request(context, other)])
    assert first.greedy
    assert not second.greedy


@pytest.mark.parametrize("mixer", MODELS)
def test_a_shared_few_shot_prefix_is_read_once(mixer, monkeypatch):
    stem = (BOS, *range(20), *range(20))
    questions = [(20, 21, 22), (23, 24, 25), (26, 27, 0)]  # equal lengths: no padding
    choices = [(1, 2), (3, 4)]
    requests = [Request((*stem, *q), c) for q in questions for c in choices]
    counting = Counting(MODELS[mixer], monkeypatch)
    Scorer(MODELS[mixer], 64).score(requests)
    once = len(stem)
    each_question = 3 * (len(questions[0]) - 1)  # its last token is read with the continuation
    each_choice = 6 * len(choices[0])
    assert counting.tokens == once + each_question + each_choice
    assert counting.tokens < sum(r.length for r in requests) / 3


@pytest.mark.parametrize("mixer", MODELS)
@pytest.mark.parametrize("length", [7, 64])
def test_rolling_is_the_sum_over_windows(mixer, length):
    documents = [(BOS, *torch.randint(BOS, (n,)).tolist()) for n in (1, 6, 20, 7)]
    totals = Scorer(MODELS[mixer], length).rolling(documents)
    for document, total in zip(documents, totals, strict=True):
        windows = [
            Request(document[a : a + 1], document[a + 1 : a + 1 + length])
            for a in range(0, len(document) - 1, length)
        ]
        expected = sum(naive(MODELS[mixer], w)[0] for w in windows)
        assert total == pytest.approx(expected, abs=1e-9)


def test_rolling_by_windows_that_begin_with_bos_as_in_training():
    model, (first, second) = MODELS["retention"], ((BOS, 1, 2, 3), (3, 4, 5))
    [total] = Scorer(model, 3, window_bos=BOS).rolling([(*first, *second[1:])])
    windows = [Request(first[:1], first[1:]), Request((BOS,), second[1:])]
    assert total == pytest.approx(sum(naive(model, w)[0] for w in windows), abs=1e-9)


@torch.no_grad()
def greedily(model: LanguageModel, context: tuple[int, ...], n: int) -> list[int]:
    ids = list(context)
    for _ in range(n):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(context) :]


@pytest.mark.parametrize("mixer", MODELS)
def test_generation_equals_greedy_decoding_by_whole_forward_passes(mixer):
    contexts = [(BOS, 1, 2, 3), (BOS, 1, 2, 9), (BOS, 1), (BOS, 5, 6, 7, 8, 9)]
    stops = [6, 2, 6, 4]
    found = Scorer(MODELS[mixer], 64).generate(contexts, 6, lambda i, ids: len(ids) >= stops[i])
    for context, stop, ids in zip(contexts, stops, found, strict=True):
        assert ids == greedily(MODELS[mixer], context, stop)


def test_a_context_too_long_loses_its_left_but_not_its_bos():
    model = MODELS["retention"]
    context = (BOS, *range(10))
    [score] = Scorer(model, 6).score([Request(context, (1, 2))])
    assert score.loglikelihood == pytest.approx(
        naive(model, Request((BOS, 6, 7, 8, 9), (1, 2)))[0], abs=1e-9
    )


def test_a_continuation_too_long_is_an_error():
    with pytest.raises(UserError, match="continuation of 8 tokens does not fit"):
        Scorer(MODELS["retention"], 6).score([Request((BOS,), (1,) * 8)])


@pytest.mark.parametrize("mixer", MODELS)
def test_ids_beyond_the_tokenizer_s_are_never_written_but_have_their_share_of_p(mixer):
    model, request = MODELS[mixer], Request((BOS, 3, 5), (7, 2))
    whole, part = Scorer(model, 64), Scorer(model, 64, n_ids=9)
    assert part.score([request])[0].loglikelihood == whole.score([request])[0].loglikelihood
    contexts = [(BOS, i) for i in range(9)]
    written = part.generate(contexts, 6, lambda i, ids: False)
    assert max(max(ids) for ids in written) < 9
    assert max(max(ids) for ids in whole.generate(contexts, 6, lambda i, ids: False)) >= 9
    scored = part.score([Request(contexts[0], tuple(written[0]))])
    assert scored[0].greedy
