"""Perplexity: the score is the naive one, training repeats bit by bit, only text is scored."""

from __future__ import annotations

import math
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes.cells import cell, texts
from fakes.clock import FakeClock

from retnet_bench.base import UserError
from retnet_bench.data import load_corpus
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS
from retnet_bench.workloads import Diverged, Sample
from retnet_bench.workloads.perplexity import Perplexity


@pytest.fixture
def own_text(tmp_path):
    return {"corpus": str(texts(tmp_path / "texts")), "tokenizer": "byte", "vocab_size": 257}


def run(mixer: str = "retention", **changes: Any) -> list[Sample]:
    found = Perplexity(cell("perplexity", mixer, token_budget=64 * 10, **changes))
    found.prepare()
    return list(found.block(FakeClock(), Protocol(), 0.0))


# --- scoring -----------------------------------------------------------------------------------


def test_each_held_out_document_has_nll_tokens_words_and_bytes(own_text):
    samples = run(length=32, documents=2, **own_text)
    scored = [s for s in samples if "document" in s.coordinates]
    names = sorted({s.coordinates["document"] for s in scored})
    assert len(names) == 2
    for name in names:
        rows = {s.metric: s for s in scored if s.coordinates["document"] == name}
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
        assert {(s.phase, s.coordinates["context"]) for s in rows.values()} == {
            ("score", "chunked")
        }


def test_ar_hits_and_the_others_are_the_document_in_two_parts(own_text):
    """Training and scoring are as without them; a hit is told by what the window shows."""
    common = {"length": 128, "documents": 2, **own_text}
    plain, found = run(**common), run(ar_hits=500, **common)
    assert [s for s in found if not s.metric.startswith("ar_")] == plain
    for document in {s.coordinates["document"] for s in plain if "document" in s.coordinates}:
        rows = {s.metric: s for s in found if s.coordinates.get("document") == document}
        nats = [rows[f"ar_{part}_nll_nat"].values[0] for part in ("hit", "other")]
        assert sum(nats) == pytest.approx(rows["document_nll_nat"].values[0])
        tokens = [rows[f"ar_{part}_tokens"].values[0] for part in ("hit", "other")]
        assert sum(tokens) == rows["document_tokens"].values[0]
        assert tokens[0] == _hits(Path(own_text["corpus"], document), 128, 500)
        assert 0 < tokens[0] < tokens[1]
        where = [s for m, s in rows.items() if m.startswith("ar_")]
        assert {(s.phase, s.coordinates["context"]) for s in where} == {("score", "chunked")}


def _hits(path: Path, window: int, most: int) -> int:
    """Token by token: bytes, <bos> first, in windows that do not overlap."""
    corpus = load_corpus(str(path.parent))
    counted = Counter(
        pair for d in corpus.documents("train") for pair in pairwise([256, *d.text.encode()])
    )
    ids = [256, *path.read_bytes()]
    found = 0
    for at in range(1, len(ids)):
        start = (at - 1) // window * window
        earlier = {*pairwise(ids[start:at])}
        bigram = (ids[at - 1], ids[at])
        found += bigram in earlier and counted[bigram] <= most
    return found


# --- training ----------------------------------------------------------------------------------


def test_the_loss_falls_over_the_token_budget(own_text):
    losses = [s for s in run(length=32, **own_text) if s.metric == "train_loss_nat"]
    assert [s.coordinates["tokens_seen"] for s in losses] == [64 * i for i in range(1, 11)]
    assert {(s.unit, s.phase) for s in losses} == {("nat", "train")}
    assert losses[0].values[0] == pytest.approx(math.log(257), rel=0.2)
    assert losses[-1].values[0] < losses[0].values[0] - 0.2


@pytest.mark.parametrize("mixer", MIXERS)
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


def test_a_training_says_its_tokens_its_epochs_and_its_speed(own_text):
    clock = FakeClock()
    found = Perplexity(cell("perplexity", token_budget=64 * 40 + 20, documents=1, **own_text))
    found.prepare()
    step = found.step

    def slow() -> None:
        step()
        clock.idle(0.5)

    found.step = slow  # type: ignore[method-assign]
    rows = {s.metric: s for s in found.block(clock, Protocol(), 0.0)}
    windows = (len(found.stream) - 1) // 32
    assert rows["tokens_trained"].values == (64 * 40,)
    assert rows["epochs"].values == (64 * 40 / (windows * 32),)
    assert rows["training_tokens_per_second"].values == (pytest.approx(64 / 0.5),)
    assert rows["training_tokens_per_second"].unit == "tokens/s"
    assert "not timed by the protocol" in str(rows["training_tokens_per_second"].note)
    assert {rows[m].phase for m in ("tokens_trained", "epochs")} == {"train"}


def test_a_loss_that_is_not_finite_ends_it(own_text):
    found = Perplexity(cell("perplexity", token_budget=640, **own_text))
    found.prepare()
    with torch.no_grad():
        found.model.embedding.weight.fill_(math.nan)
    with pytest.raises(Diverged, match="training loss became nan at step 1; no step"):
        list(found.block(FakeClock(), Protocol(), 0.0))


def test_random_ids_are_refused():
    with pytest.raises(UserError, match='corpus "random" has no text') as caught:
        Perplexity(cell("perplexity", token_budget=64)).prepare()
    assert "\n" not in str(caught.value)


def test_learning_rate_clip_and_schedule_reach_the_optimiser(own_text):
    found = Perplexity(cell("perplexity", token_budget=6400, learning_rate=0.01, **own_text))
    found.prepare()
    assert found.clip == 2.0
    rates = []
    for _ in range(6):
        found.step()
        rates.append(found.optimiser.adamw.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01 * i / 5 for i in (1, 2, 3, 4, 5, 5)])


# --- options -----------------------------------------------------------------------------------


def losses_of(**changes: Any) -> list[float]:
    return [s.values[0] for s in run(**changes) if s.metric == "train_loss_nat"]


@pytest.mark.parametrize("mixer", MIXERS)
def test_micro_batches_add_up_to_the_batch(own_text, mixer):
    """In fp64: AdamW's first steps follow the sign of gradients that are next to nothing."""
    common = {"mixer": mixer, "length": 16, "batch": 4, "documents": 1, "dtype": "fp64", **own_text}
    whole, parts = losses_of(**common), losses_of(micro_batch=1, **common)
    assert len(whole) == 10
    assert parts == pytest.approx(whole, rel=1e-6)  # losses are kept in fp32


@pytest.mark.parametrize("mixer", MIXERS)
def test_recomputation_changes_no_bit_with_dropout_or_without(own_text, mixer):
    for dropout in (None, 0.3):
        common = {"mixer": mixer, "documents": 1, "dropout": dropout, **own_text}
        assert losses_of(recompute=True, **common) == losses_of(**common)


def test_dropout_repeats_by_seed_and_never_touches_the_scores(own_text):
    runs = [run(dropout=0.3, documents=1, **own_text) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] != run(documents=1, **own_text)
    found = Perplexity(cell("perplexity", token_budget=64, dropout=0.3, **own_text))
    found.prepare()
    list(found.block(FakeClock(), Protocol(), 0.0))
    again = [list(found._score(found.held_out[0])) for _ in range(2)]
    assert again[0] == again[1]


def test_what_ran_before_the_training_leaves_it_alone(own_text):
    """The worker asks for the dispatched kernel first, which runs the model."""
    expected = losses_of(dropout=0.3, documents=1, **own_text)
    found = Perplexity(cell("perplexity", token_budget=640, dropout=0.3, documents=1, **own_text))
    found.prepare()
    found.dispatched()
    torch.rand(7)
    samples = found.block(FakeClock(), Protocol(), 0.0)
    assert [s.values[0] for s in samples if s.metric == "train_loss_nat"] == expected


def test_the_paper_s_recipe_begins_every_window_with_bos_and_drops_a_tenth(own_text):
    found = Perplexity(
        cell("perplexity", recipe="paper", length=4, token_budget=8 * 400, **own_text)
    )
    found.prepare()
    inputs, targets = next(found.batches)
    assert inputs[:, 0].tolist() == [256, 256]
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert found.model.cfg.dropout == 0.1
    assert found.bos == 256
    for _ in range(376):
        found.done += 1
    assert found.recipe.rate_factor(found.done, found.steps) == pytest.approx(24 / 25)


def test_curves_beside_the_documents(own_text):
    common = {"length": 64, "documents": 3, "contexts": (128, 512), "by_position": True}
    samples = run(**common, **own_text)
    tokens = {
        s.coordinates["document"]: s.values[0] for s in samples if s.metric == "document_tokens"
    }
    for document, n in tokens.items():
        here = [s for s in samples if s.coordinates.get("document") == document]
        parts = [s for s in here if s.metric == "position_tokens"]
        assert sum(s.values[0] for s in parts) == n
        assert 64 in [s.coordinates["position"] for s in parts]  # the trained length is an edge
        assert {s.coordinates["context"] for s in parts} == {"carried"}
        counted = {
            s.coordinates["context_length"]: s.values[0]
            for s in here
            if s.metric == "context_tokens"
        }
        assert counted == (dict.fromkeys((128, 512), n // 512 * 128) if n >= 512 else {})
    assert max(tokens.values()) > 512


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contexts": (128, 10**6)}, "contexts asks for 1000000 tokens, but the longest held-out"),
        ({"batch": 2000}, "windows of 32 tokens to train on, fewer than one batch of 2000"),
        ({"length": 10**6}, "take a length of at most"),
        ({"recipe": "paper"}, "the recipe warms up over 375 steps, and token_budget makes only 10"),
    ],
)
def test_a_corpus_too_small_for_what_is_asked(own_text, changes, words):
    found = Perplexity(cell("perplexity", **({"token_budget": 640} | own_text | changes)))
    with pytest.raises(UserError, match=words) as caught:
        found.prepare()
    assert "\n" not in str(caught.value)


def test_another_corpus_can_be_scored(own_text, tmp_path):
    other = texts(tmp_path / "other")
    (other / "00.txt").write_text("One more document of the other corpus.\n" * 40)
    scored = {s.coordinates.get("document") for s in run(score_corpus=str(other), **own_text)} - {
        None
    }
    assert scored
    assert scored <= {path.name for path in other.iterdir()}


def test_attention_and_state_cross_from_document_to_document_in_a_window():
    """As stated in train_batches: <bos> is a token like others, it hides nothing."""
    for mixer in ("retention", "attention"):
        torch.manual_seed(0)
        found = Perplexity(cell("perplexity", mixer))
        model = found.build_model("fp32").eval()
        first, second = torch.tensor([[1, 2, 3, 63, 9]]), torch.tensor([[4, 5, 6, 63, 9]])
        assert not torch.allclose(model(first)[:, -1], model(second)[:, -1])


# --- what is said meanwhile --------------------------------------------------------------------


def test_it_says_where_it_stands_every_few_seconds(own_text):
    clock, lines = FakeClock(), []
    found = Perplexity(cell("perplexity", token_budget=64 * 40, documents=2, **own_text))
    found.report = lines.append
    found.prepare()
    step = found.step

    def slow() -> None:
        step()
        clock.idle(1.0)

    found.step = slow  # type: ignore[method-assign]
    list(found.block(clock, Protocol(), 0.0))
    assert len(lines) == 8  # one in five seconds, of forty
    assert lines[0].startswith("step 5/40, loss ")
    assert lines[0].endswith(", 64 tokens/s, eta 0:35")


def test_tensorboard_that_is_not_there_is_named(own_text, monkeypatch, tmp_path):
    monkeypatch.setattr("retnet_bench.workloads.progress.find_spec", lambda name: None)
    found = Perplexity(cell("perplexity", token_budget=64, **own_text))
    found.tensorboard = tmp_path
    with pytest.raises(UserError, match="pip install tensorboard"):
        found.prepare()
    assert list(run(documents=1, **own_text))  # nobody asked: nothing is missed


def test_tensorboard_gets_the_curve_and_drops_what_is_trained_again(
    own_text, monkeypatch, tmp_path
):
    """purge_step hides an earlier process's points from there on: those beyond the checkpoint."""
    written: list[tuple[str, float, int]] = []
    opened: list[int] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            opened.append(purge_step)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            opened.append(-1)

    fake = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr("retnet_bench.workloads.progress.find_spec", lambda name: True)
    found = Perplexity(cell("perplexity", token_budget=640, documents=1, **own_text))
    found.tensorboard = tmp_path
    found.prepare()
    list(found.block(FakeClock(), Protocol(), 0.0))
    assert opened == [1, -1]
    assert [(t, v) for n, v, t in written if n == "train_loss_nat"] == found.curve
    assert [t for n, _, t in written if n == "learning_rate"] == [t for t, _ in found.curve]


def test_bf16_computes_in_bf16_and_keeps_weights_and_moments_in_fp32(own_text):
    found = Perplexity(cell("perplexity", token_budget=640, dtype="bf16", **own_text))
    found.prepare()
    seen: set[torch.dtype] = set()
    for module in found.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, given, made: seen.add(made.dtype))
    found.step()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    moments = found.optimiser.adamw.state.values()
    kept = {t.dtype for state in moments for t in state.values() if isinstance(t, torch.Tensor)}
    assert kept == {torch.float32}
    assert found.last_loss.dtype == torch.float32


def test_the_test_split_is_scored_where_it_is_asked_for(own_text):
    corpus = load_corpus(own_text["corpus"])
    for split in ("valid", "test"):
        found = run(score_split=split, **own_text)
        names = {s.coordinates["document"] for s in found if "document" in s.coordinates}
        assert names == {document.name for document in corpus.documents(split)}  # type: ignore[arg-type]
