"""Scoring: every context gives the naive answer, and they agree where they must."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from fakes.cells import cell
from fakes.options import options_of
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.base import UserError
from retnet_bench.data import ScoredDocument
from retnet_bench.models import MIXERS, LanguageModel
from retnet_bench.workloads import scoring
from retnet_bench.workloads.scoring import Context, token_nll

QUICK = settings(max_examples=15)
mixers = st.sampled_from([*MIXERS])


@lru_cache
def model(mixer: str) -> LanguageModel:
    torch.manual_seed(1)
    found = cell(mixer=mixer, options=options_of(mixer, chunk=8))
    return LanguageModel(found.matched().config).double().eval()


def ids(n_tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(64, (n_tokens + 1,), generator=torch.Generator().manual_seed(seed))


def context(kind: str, window: int, stride: int = 1, **more: Any) -> Context:
    return Context(kind=kind, window=window, stride=stride, **more)


@torch.no_grad()
def naive(mixer: str, text: torch.Tensor, starts: list[int]) -> torch.Tensor:
    """-ln p of each token by the whole model over what it may see, one token at a time."""
    found = []
    for i, start in enumerate(starts, 1):
        logits = model(mixer)(text[None, start:i])[0, -1]
        found.append(-logits.log_softmax(-1)[text[i]])
    return torch.stack(found)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@QUICK
@given(mixers, st.integers(1, 70), st.integers(1, 20))
def test_chunked_is_the_naive_score(mixer, n, window):
    text = ids(n)
    starts = [i // window * window for i in range(n)]
    same(token_nll(model(mixer), text, context("chunked", window)), naive(mixer, text, starts))


@QUICK
@given(
    mixers,
    st.integers(1, 60),
    st.integers(1, 16).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w))),
)
def test_sliding_is_the_naive_score(mixer, n, shape):
    """Token i is scored in the first window, begun every `stride` tokens, that reaches it."""
    window, stride = shape
    text = ids(n)
    starts = [max(0, -(-(i + 1 - window) // stride)) * stride for i in range(n)]
    found = token_nll(model(mixer), text, context("sliding", window, stride))
    same(found, naive(mixer, text, starts))


@QUICK
@given(mixers, st.integers(1, 60), st.integers(1, 16))
def test_sliding_by_a_whole_window_is_chunked(mixer, n, window):
    text = ids(n)
    sliding = token_nll(model(mixer), text, context("sliding", window, window))
    assert torch.equal(sliding, token_nll(model(mixer), text, context("chunked", window)))


@QUICK
@given(mixers, st.integers(1, 150), st.integers(1, 40))
def test_carried_is_one_big_window(mixer, n, piece):
    text = ids(n)
    carried = token_nll(model(mixer), text, context("carried", piece))
    same(carried, token_nll(model(mixer), text, context("chunked", n)))


@pytest.mark.parametrize("mixer", MIXERS)
def test_bos_stands_in_for_the_first_input_of_each_window(mixer):
    text = ids(20)
    found = token_nll(model(mixer), text, context("chunked", 8, bos=63))
    marked = text.clone()
    marked[[0, 8, 16]] = 63
    at_starts = naive(mixer, marked, [i // 8 * 8 for i in range(20)])
    keep = [i for i in range(20) if i not in (7, 15)]  # there the target itself was replaced
    same(found[keep], at_starts[keep])


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("kind", scoring.CONTEXTS)
def test_under_autocast_scores_are_finite_and_close(mixer, kind):
    text, single = ids(100), LanguageModel(model(mixer).cfg)
    single.load_state_dict({k: v.float() for k, v in model(mixer).state_dict().items()})
    with torch.autocast("cpu", torch.bfloat16):
        found = token_nll(single.eval(), text, context(kind, 32, 16))
    exact = token_nll(model(mixer), text, context(kind, 32, 16))
    assert found.dtype == torch.float64
    assert (found - exact).abs().max() < 0.2
    assert found.mean().item() == pytest.approx(exact.mean().item(), rel=0.02)


def test_many_windows_are_run_a_few_at_a_time(monkeypatch):
    text = ids(300)
    whole = token_nll(model("retention"), text, context("chunked", 8))
    rows: list[int] = []
    forward = LanguageModel.forward
    monkeypatch.setattr(
        LanguageModel, "forward", lambda self, x: (rows.append(len(x)), forward(self, x))[1]
    )
    monkeypatch.setattr(scoring, "LOGITS", 3 * 8 * 64)
    same(token_nll(model("retention"), text, context("chunked", 8)), whole)
    assert max(rows) == 3


# --- curves ------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 100_000))
def test_buckets_hold_every_token_and_the_trained_length_is_an_edge(trained, n):
    ends = scoring.bucket_ends(trained, n)
    assert ends == sorted(set(ends))
    assert ends[-1] >= n
    assert len(ends) == 1 or ends[-2] < n
    assert trained in ends or trained > n
    nll = torch.arange(n, dtype=torch.float64)
    parts = list(scoring.by_position(nll, trained))
    assert sum(tokens for *_, tokens in parts) == n
    assert sum(nat for _, nat, _ in parts) == pytest.approx(n * (n - 1) / 2)
    assert [end for end, *_ in parts] == ends


@pytest.mark.parametrize("mixer", MIXERS)
def test_contexts_score_the_same_tokens_from_more_or_less_before_them(mixer):
    text = ids(700)
    found = list(scoring.by_context(model(mixer), text, (128, 200, 300), None))
    assert [(c, tokens) for c, _, tokens in found] == [(c, 2 * 128) for c in (128, 200, 300)]
    for at, nat, _ in found:
        expected = 0.0
        for end in (300, 600):
            logits = model(mixer)(text[None, end - at : end])[0, -128:].log_softmax(-1)
            targets = text[end - 127 : end + 1]
            expected -= logits.gather(1, targets[:, None]).sum().item()
        assert nat == pytest.approx(expected, rel=1e-9)


def test_documents_shorter_than_the_longest_context_are_left_out_and_some_must_be_as_long():
    assert list(scoring.by_context(model("retention"), ids(299), (128, 300), None)) == []
    short = [ScoredDocument("d", ids(299), 1, 1)]
    with pytest.raises(UserError, match="the longest held-out document has 299"):
        scoring.check_contexts(short, (128, 300))
    scoring.check_contexts(short, (128, 299))
    scoring.check_contexts(short, ())


# --- AR hits -----------------------------------------------------------------------------------


def _told(ids: list[int], frequent: set[tuple[int, int]], **context: object) -> list[int]:
    """Places in ids[1:] of the hits."""
    keys = np.array(sorted(a * 10 + b for a, b in frequent), np.int64)
    said: dict[str, Any] = {"kind": "chunked", "window": 4, "stride": 2} | context
    of = Context(**said)
    return scoring.ar_hits(torch.tensor(ids), of, keys, 10).nonzero().flatten().tolist()


def test_a_hit_is_known_from_what_the_context_shows():
    ids = [1, 2, 3, 1, 2, 3, 1, 2]
    assert _told(ids, set(), kind="carried") == [3, 4, 5, 6]
    assert _told(ids, set()) == [3]  # windows see 1 2 3 1 (2) and 2 3 1 (2)
    assert _told(ids, set(), kind="sliding") == [3, 5]  # 3 1 2 3 (1), not 1 2 3 1 2
    assert _told(ids, {(1, 2)}, kind="carried") == [4, 5]
    assert _told(ids, set(), kind="carried", bos=9) == [3, 4, 5, 6]  # nothing is replaced there


def test_what_bos_hides_was_not_seen():
    ids = [9, 1, 2, 9, 1, 2, 1, 2, 5]
    assert _told(ids, set(), window=8, bos=9) == [3, 4, 6]
    assert _told([9, 5, 6, 1, 2, 1, 2], set(), window=3, bos=9) == []  # reads <bos> 2 1, not 1 2 1
    assert _told([9, 5, 6, 1, 2, 1, 2], set(), window=3) == [5]
