"""Budgets by rule: tokens for each parameter, in whole batches, and not too often the same text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import cells

from retnet_bench.base import UserError
from retnet_bench.catalogue.plan import plan_table
from retnet_bench.models import cost
from retnet_bench.models.matching import reference
from retnet_bench.study import budgets, plan
from retnet_bench.study.study import Source, Study, parse
from retnet_bench.workloads import Cell


@pytest.fixture
def text(tmp_path):
    return str(cells.texts(tmp_path / "texts"))


def study(text: str, group: dict[str, Any] | None = None, **fixed: Any) -> dict[str, Any]:
    said = {"size": "0.1M", "length": 32, "batch": 4, "corpus": text, "tokenizer": "byte"}
    groups = [{"workload": "perplexity", **(group or {})}]
    return cells.study(workloads=groups, fixed=said | {"max_epochs": 1e6} | fixed)


def planned(text: str, group: dict[str, Any] | None = None, **fixed: Any) -> list[Cell]:
    pairs = plan.make(Study.model_validate(study(text, group, **fixed)))
    return [p.cell for pair in pairs for p in pair]


@pytest.mark.parametrize("family", ["paper", "modern"])
def test_both_arms_get_so_many_tokens_for_each_parameter_of_the_reference(text, family):
    group = {"axes": {"size": ["0.1M", "0.4M"], "tokens_per_param": [5, 20]}}
    found = planned(text, group, family=family)
    assert len(found) == 8
    for cell in found:
        body = cost.body_parameters(reference(cell.size, family, 257))
        assert cell.token_budget is not None
        assert cell.token_budget % (4 * 32) == 0
        assert abs(cell.token_budget - cell.tokens_per_param * body) <= 64
        assert cost.body_parameters(cell.matched().config) == pytest.approx(body, rel=5e-3)
    assert len({cell.pair_id for cell in found}) == 4
    assert len({(c.pair_id, c.token_budget) for c in found}) == 4


def test_the_vocabulary_adds_nothing_to_the_budget(text):
    """Body parameters: the embedding's share falls with size, and a rule that counts it would not
    be the one of the literature."""
    small, large = (
        budgets.by_parameters(20, "0.4M", "paper", vocab, 4, 32) for vocab in (257, 32_000)
    )
    assert small == large


def test_fewer_tokens_than_a_batch_are_one_batch(text):
    assert {c.token_budget for c in planned(text, tokens_per_param=1e-5)} == {128}


def test_a_cell_keeps_the_ratio_beside_the_tokens(text):
    (cell, _) = planned(text, tokens_per_param=20)
    said = json.loads(cell.canonical())
    assert said["tokens_per_param"] == 20
    assert said["token_budget"] == cell.token_budget
    assert "max_epochs" not in said
    assert Cell.read(said) == cell


def test_a_budget_in_tokens_makes_the_cells_it_always_made(text):
    for cell in planned(text, token_budget=1000):
        assert cell.tokens_per_param is None
        assert "tokens_per_param" not in cell.canonical()


def test_the_nearer_of_the_two_counts(text):
    group = {"workload": "perplexity", "fixed": {"token_budget": 1024}}
    assert {c.token_budget for c in planned(text, group, tokens_per_param=20)} == {1024}
    group = {"workload": "perplexity", "axes": {"tokens_per_param": [1e-5]}}
    assert {c.token_budget for c in planned(text, group, token_budget=1024)} == {128}


@pytest.mark.parametrize(
    ("group", "fixed", "words"),
    [
        (
            {},
            {"tokens_per_param": 20, "token_budget": 1000},
            "fixed: token_budget and tokens_per_param are two words for one setting",
        ),
        (
            {"fixed": {"token_budget": 1000}, "axes": {"tokens_per_param": [5, 20]}},
            {},
            "workloads.0: token_budget and tokens_per_param are two words for one setting",
        ),
        ({}, {"tokens_per_param": 0}, "fixed.tokens_per_param: input should be greater than 0"),
        ({}, {"tokens_per_param": 20, "max_epochs": 0}, "fixed.max_epochs: input should be"),
        ({}, {}, "workload perplexity: token_budget or tokens_per_param is missing"),
        ({"axes": {"tokens_per_param": [5, 5.0]}}, {}, "tokens_per_param names a value twice"),
    ],
)
def test_what_cannot_be_is_one_line(text, group, fixed, words, tmp_path):
    import yaml

    path = tmp_path / "s.yaml"
    with pytest.raises(UserError) as caught:
        plan.make(parse(Source(path, yaml.safe_dump(study(text, group, **fixed)))))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# --- epochs --------------------------------------------------------------------------------------


def test_a_corpus_too_small_says_how_many_epochs_it_would_be(text):
    with pytest.raises(UserError) as caught:
        planned(text, tokens_per_param=20, max_epochs=4)
    (cell, _) = planned(text, tokens_per_param=20)
    words = str(caught.value)
    assert f"{budgets.epochs(cell):.1f} epochs of it, and max_epochs is 4" in words
    assert f"size 0.1M, tokens_per_param 20, trains on {cell.token_budget:,} tokens" in words
    assert "\n" not in words


def test_epochs_count_what_is_read_of_the_train_split(text):
    """31 windows of a length read 31 times the length, whatever is left over."""
    (cell, _) = planned(text, token_budget=32 * 4 * 7)
    stream = budgets._stream(cell.corpus, cell.tokenizer)
    windows = (len(stream) - 1) // 32
    assert budgets.epochs(cell) == 32 * 4 * 7 / (windows * 32)


def test_four_epochs_are_the_rule_with_a_ratio_and_none_with_tokens(text):
    few = planned(text, token_budget=128)[0]
    body = cost.body_parameters(reference("0.1M", "paper", 257))
    once = 128 / budgets.epochs(few)
    four = 4 * once / body
    assert planned(text, max_epochs=None, tokens_per_param=0.98 * four)
    with pytest.raises(UserError, match=r"4\.1 epochs of it, and max_epochs is 4;"):
        planned(text, max_epochs=None, tokens_per_param=1.02 * four)
    assert planned(text, max_epochs=None, token_budget=int(40 * once))
    with pytest.raises(UserError, match=r"40\.0 epochs of it, and max_epochs is 5;"):
        planned(text, max_epochs=5, token_budget=int(40 * once))


# --- what a plan shows ---------------------------------------------------------------------------


def test_a_plan_shows_tokens_steps_and_epochs(text, tmp_path):
    import yaml

    path = tmp_path / "s.yaml"
    group = {"axes": {"size": ["0.1M", "0.4M"], "seed": [0, 1]}}
    path.write_text(yaml.safe_dump(study(text, group, tokens_per_param=20)))
    shown = [part for part in plan_table(str(path), on="h100-80gb") if not isinstance(part, str)]
    (trainings,) = (table for table in shown if table.title == "Trainings")
    found = [list(column.cells) for column in trainings.columns]
    expected = {cell.size: cell for cell in planned(text, group, tokens_per_param=20)}
    assert found[1] == ["0.1M", "0.4M"]
    assert found[2] == ["20", "20"]
    assert found[3] == [f"{cell.token_budget:,}" for cell in expected.values()]
    assert found[4] == ["4", "4"]
    assert found[5] == [f"{(cell.token_budget or 0) // 128:,}" for cell in expected.values()]
    assert found[6] == [f"{budgets.epochs(cell):.2g}" for cell in expected.values()]


def test_a_plan_shows_the_epochs_of_a_budget_in_tokens_too(text, tmp_path):
    import yaml

    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(study(text, token_budget=1280)))
    shown = [part for part in plan_table(str(path), on="h100-80gb") if not isinstance(part, str)]
    (trainings,) = (table for table in shown if table.title == "Trainings")
    (cell,) = planned(text, token_budget=1280)[:1]
    assert [*trainings.columns[6].cells] == [f"{budgets.epochs(cell):.2g}"]


def test_a_plan_of_another_machine_downloads_no_corpus(tmp_path, monkeypatch):
    import yaml

    def refuse(spec: str) -> None:
        raise AssertionError(f"{spec} was asked for")

    monkeypatch.setattr(plan, "load_corpus", refuse)
    monkeypatch.setattr(budgets, "load_corpus", refuse)
    path = tmp_path / "s.yaml"
    path.write_text(
        yaml.safe_dump(study("hf:owner/name", tokens_per_param=20, tokenizer="bpe:300"))
    )
    shown = [part for part in plan_table(str(path), on="h100-80gb") if not isinstance(part, str)]
    (trainings,) = (table for table in shown if table.title == "Trainings")
    assert [*trainings.columns[6].cells] == ["unknown"]
    path.write_text(yaml.safe_dump(study("hf:not a name", token_budget=1000)))
    with pytest.raises(UserError, match="wants hf:owner/name"):
        list(plan_table(str(path), on="h100-80gb"))
