"""Perplexity: the score is the naive one, training repeats bit by bit, only text is scored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.cells import cell, texts
from fakes.clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.base import UserError
from retnet_bench.data import ScoredDocument
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import LanguageModel
from retnet_bench.workloads import NotFinite, Sample
from retnet_bench.workloads.perplexity import (
    Perplexity,
    default_learning_rate,
    document_nll,
    schedule,
)

CPU = torch.device("cpu")


@pytest.fixture
def own_text(tmp_path):
    return {"corpus": str(texts(tmp_path / "texts")), "tokenizer": "byte", "vocab_size": 257}


def run(mixer: str = "retention", **changes: Any) -> list[Sample]:
    found = Perplexity(cell("perplexity", mixer, token_budget=64 * 10, **changes))
    found.prepare()
    return list(found.block(FakeClock(), Protocol(), 0.0))


# --- scoring -----------------------------------------------------------------------------------


@torch.no_grad()
def naive_nll(model: LanguageModel, ids: torch.Tensor, window: int) -> float:
    """-ln p of each token given those before it in its window, one token at a time."""
    total = 0.0
    for i in range(1, len(ids)):
        start = (i - 1) // window * window
        logits = model(ids[None, start:i])[0, -1]
        total -= logits.log_softmax(-1)[ids[i]].item()
    return total


@pytest.mark.parametrize("mixer", ["retention", "attention"])
@pytest.mark.parametrize("n_tokens", [1, 15, 16, 17, 150])
def test_document_nll_is_the_naive_sum(mixer, n_tokens):
    torch.manual_seed(1)
    config = cell(mixer=mixer, chunk=8).matched().config
    model = LanguageModel(config).eval()
    ids = torch.randint(64, (n_tokens + 1,))
    document = ScoredDocument("d", ids, n_bytes=1, n_words=1)
    found = document_nll(model, document, 16, CPU)
    assert found == pytest.approx(naive_nll(model, ids, 16), rel=1e-5)
    assert found > n_tokens  # an untrained model is no oracle


def test_scores_of_a_document_do_not_depend_on_the_window_s_batch():
    """A window sees its own tokens only: changing another leaves its part of the sum."""
    torch.manual_seed(2)
    model = LanguageModel(cell(chunk=8).matched().config).eval()
    head, tails = torch.randint(64, (1 + 16 * 9,)), torch.randint(64, (2, 16))
    docs = [ScoredDocument("d", torch.cat([head, t]), 1, 1) for t in tails]
    parts = [ScoredDocument("d", torch.cat([head[-1:], t]), 1, 1) for t in tails]
    whole = [document_nll(model, d, 16, CPU) for d in docs]
    tail = [document_nll(model, d, 16, CPU) for d in parts]
    assert whole[0] - whole[1] == pytest.approx(tail[0] - tail[1], abs=1e-3)


def test_each_held_out_document_has_nll_tokens_words_and_bytes(own_text):
    samples = run(length=32, documents=2, **own_text)
    scored = [s for s in samples if s.document]
    names = sorted({s.document for s in scored})
    assert len(names) == 2
    for name in names:
        rows = {s.metric: s for s in scored if s.document == name}
        text = Path(own_text["corpus"], name).read_text()
        assert {m: s.unit for m, s in rows.items()} == {
            "document_nll_nat": "nat",
            "document_tokens": "tokens",
            "document_words": "words",
            "document_bytes": "bytes",
        }
        assert rows["document_bytes"].values == (len(text.encode()),)
        assert rows["document_tokens"].values == (len(text.encode()),)  # byte tokens, <bos> not
        assert rows["document_words"].values == (len(text.split()) + 1,)  # lm-eval's count
        nll_per_byte = rows["document_nll_nat"].values[0] / len(text.encode())
        assert 1.0 < nll_per_byte < 2 * math.log(257)
        assert {s.phase for s in rows.values()} == {"perplexity"}


# --- training ----------------------------------------------------------------------------------


def test_the_loss_falls_over_the_token_budget(own_text):
    losses = [s for s in run(length=32, **own_text) if s.metric == "train_loss_nat"]
    assert [s.position for s in losses] == [64 * i for i in range(1, 11)]
    assert {(s.unit, s.phase) for s in losses} == {("nat", "train")}
    assert losses[0].values[0] == pytest.approx(math.log(257), rel=0.2)
    assert losses[-1].values[0] < losses[0].values[0] - 0.2


@pytest.mark.parametrize("mixer", ["retention", "attention"])
def test_the_same_seed_gives_the_same_bits(own_text, mixer):
    runs = [run(mixer, length=32, documents=1, **own_text) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] != run(mixer, length=32, documents=1, seed=1, **own_text)


def test_both_arms_read_the_same_batches(own_text):
    batches = []
    for mixer in ("retention", "attention"):
        found = Perplexity(cell("perplexity", mixer, token_budget=640, **own_text))
        found.prepare()
        batches.append([next(found.batches)[0] for _ in range(3)])
        assert [d.name for d in found.held_out]
    assert all(map(torch.equal, *batches))


def test_a_loss_that_is_not_finite_ends_it(own_text):
    found = Perplexity(cell("perplexity", token_budget=640, **own_text))
    found.prepare()
    with torch.no_grad():
        found.model.embedding.weight.fill_(math.nan)
    with pytest.raises(NotFinite, match="training loss became nan"):
        list(found.block(FakeClock(), Protocol(), 0.0))


def test_random_ids_are_refused():
    with pytest.raises(UserError, match='corpus "random" has no text') as caught:
        Perplexity(cell("perplexity", token_budget=64)).prepare()
    assert "\n" not in str(caught.value)


def test_schedule_rises_over_a_twentieth_and_falls_to_zero():
    values = [schedule(i, 100) for i in range(101)]
    assert values[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert values[5] == 1.0
    assert values[52] == pytest.approx(48 / 95)
    assert values[99] == pytest.approx(1 / 95)
    assert values[100] == 0.0
    assert schedule(0, 1) == 1.0  # one step is all warm-up, at the full rate
    assert schedule(101, 100) == 0.0


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
def test_schedule_is_positive_while_there_are_steps(at):
    assert 0 < schedule(*at) <= 1


def test_default_learning_rate():
    assert default_learning_rate(2048) == 6e-4
    assert default_learning_rate(512) == pytest.approx(1.2e-3)
    assert default_learning_rate(16) == 3e-3


def test_learning_rate_clip_and_schedule_reach_the_optimiser(own_text):
    found = Perplexity(cell("perplexity", token_budget=6400, learning_rate=0.01, **own_text))
    found.prepare()
    assert found.clip == 2.0
    rates = []
    for _ in range(6):
        rates.append(found.optimiser.adamw.param_groups[0]["lr"])
        found.step()
    assert rates == pytest.approx([0.01 * i / 5 for i in (1, 2, 3, 4, 5, 5)])
