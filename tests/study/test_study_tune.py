"""The key `tune`: what it may say, the cells that come of it, and what waits for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import cells, sweeps

from retnet_bench.base import UserError
from retnet_bench.catalogue.plan import plan_table
from retnet_bench.results import store
from retnet_bench.study import plan
from retnet_bench.study.study import Source, Study, parse
from retnet_bench.study.tuning import Sweep
from retnet_bench.workloads import Cell

TUNE: dict[str, Any] = {
    "axes": {"learning_rate": [2e-3, 4e-3, 8e-3]},
    "sizes": ["0.1M", "0.8M"],
    "token_budget": 128,
}


@pytest.fixture
def text(tmp_path):
    return str(cells.texts(tmp_path / "texts"))


def study(text: str, tune: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    fixed = {"length": 32, "batch": 4, "corpus": text, "tokenizer": "byte", "threads": 1}
    group = {
        "workload": "perplexity",
        "fixed": {"token_budget": 256, "learning_rate": "tuned"},
        "axes": {"size": ["0.1M", "0.4M"], "seed": [0, 1]},
    }
    more = {"workloads": [group], "fixed": fixed, "tune": {**TUNE, **(tune or {})}}
    return cells.study(**(more | changes))


def parsed(raw: dict[str, Any]) -> Study:
    return parse(Source(Path("s.yaml"), yaml.safe_dump(raw)))


def big(found: list[plan.Pair]) -> list[plan.Planned]:
    return [p for pair in found for p in pair if p.cell.workload == "perplexity"]


# --- what may be said ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({"arms": []}, "tune.arms is empty; give it at least 1"),
        ({"arms": ["retnett"]}, 'tune: arms: "retnett" is not one of the arms; did you mean'),
        ({"axes": {"learning_rate": [0]}}, "tune: axes.learning_rate: input should be greater"),
        ({"axes": {"learning_rate": []}}, "tune: axes.learning_rate is empty"),
        ({"axes": {"learning_rate": [1e-3, 1e-3]}}, "names a value twice: 0.001"),
        ({"axes": {"learning_rate": ["tuned"]}}, "tuned is what the sweep leads to"),
        ({"axes": {"learning_rte": [1e-3]}}, 'axes: "learning_rte" can\'t be tuned; did you mean'),
        ({"axes": {"batch": [4]}}, "tune: axes.learning_rate is missing"),
        ({"sizes": []}, "tune.sizes is empty; give it at least 1"),
        ({"sizes": ["0.1N"]}, 'tune.sizes: unknown size "0.1N"; did you mean "0.1M"?'),
        (
            {"tokens_per_param": 5},
            "tune: token_budget and tokens_per_param are two words for one setting",
        ),
        ({"token_budget": None}, "workload tune: token_budget or tokens_per_param is missing"),
        ({"rates": [1e-3]}, 'tune: unknown key "rates"'),
        ({"seeds": [-1]}, "tune.seeds.0: input should be greater than or equal to 0"),
    ],
)
def test_a_sweep_that_can_t_be_is_one_line(text, tune, words):
    with pytest.raises(UserError) as caught:
        plan.make(parsed(study(text, tune)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tune": None}, "learning_rate: tuned wants a key tune"),
        ({"fixed": {"learning_rate": 1e-3}}, "nothing waits for the sweep"),
        ({"fixed": {"score_split": "valid"}}, "score_split: valid is what the sweep chooses by"),
        ({"fixed": {"learning_rate": "tuend"}}, "learning_rate: must be a number or tuned, is tue"),
        ({"fixed": {"batch": "tuned"}}, "fixed.batch: tuned is said of learning_rate alone"),
        ({"workload": "tune"}, "workloads.0: tune is no workload to name; say the key tune"),
        ({"workload": "recall"}, "learning_rate: tuned is of perplexity only"),
    ],
)
def test_cells_that_can_t_wait_for_it_are_one_line(text, changes, words):
    raw = study(text)
    (group,) = raw["workloads"]
    if "tune" in changes:
        del raw["tune"]
    group["fixed"] |= changes.get("fixed", {})
    group["workload"] = changes.get("workload", "perplexity")
    if group["workload"] == "recall":
        group["fixed"] = {"steps": 3, "train_pairs": [2], "learning_rate": "tuned"}
        del raw["fixed"]["tokenizer"], raw["fixed"]["corpus"]
    with pytest.raises(UserError) as caught:
        plan.make(parsed(raw))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


PART = {"token_budget": 256, "learning_rate": "tuned"}
MORE = {"learning_rate": [2e-3, 4e-3], "batch": [2, 4], "warmup_share": [0.05, 0.2]}


@pytest.mark.parametrize(
    ("fixed", "part", "axes", "words"),
    [
        ({"batch": 4}, {}, {}, "fixed.batch and tune.axes.batch say one thing"),
        ({"batch_tokens": 64}, {}, {}, "fixed.batch_tokens and tune.axes.batch say one thing"),
        ({}, {"batch": 4}, {}, "workloads.0.fixed.batch and tune.axes.batch say one thing"),
        ({}, {}, {"batch": [2, 4]}, "workloads.0.axes.batch and tune.axes.batch say one thing"),
        ({"warmup_share": 0.1}, {}, {}, "fixed.warmup_share and tune.axes.warmup_share say one"),
        (
            {},
            {},
            {"warmup_share": [0.1, 0.2]},
            "workloads.0.axes.warmup_share and tune.axes.warmup_share say one thing",
        ),
    ],
)
def test_what_the_sweep_chooses_is_said_nowhere_else(text, fixed, part, axes, words):
    """It would be silently overridden, or, as an axis, each cell would be there several times,
    which was found out after the whole sweep."""
    raw = tuning_more(text)
    raw["fixed"] |= fixed
    raw["workloads"][0]["fixed"] |= part
    raw["workloads"][0]["axes"] |= axes
    with pytest.raises(UserError) as caught:
        parsed(raw)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_other_cells_read_may_stand_beside_it(text):
    """A part with a rate of its own, and an arm that isn't in the sweep, have the study's batch."""
    raw = tuning_more(text)
    raw["fixed"]["batch"] = 8
    raw["workloads"].append({"workload": "perplexity", "fixed": PART | {"learning_rate": 1e-3}})
    raw["workloads"][1]["fixed"]["size"] = "0.1M"
    assert {p.cell.batch for p in big(plan.make(parsed(raw))) if not p.waits} == {8}
    raw = tuning_more(text, {"arms": ["retnet"]})
    raw["fixed"]["batch"] = 8
    found = big(plan.make(parsed(raw)))
    assert {(p.cell.arm, p.cell.batch) for p in found} == {("retnet", 4), ("transformer", 8)}


def test_a_micro_batch_is_held_against_every_batch_before_the_sweep(text):
    raw = tuning_more(text)
    raw["workloads"][0]["fixed"]["micro_batch"] = 4
    with pytest.raises(UserError, match="micro_batch 4 does not divide batch 2"):
        plan.make(parsed(raw))
    raw["workloads"][0]["fixed"]["micro_batch"] = 2
    assert {p.cell.batch for p in big(plan.make(parsed(raw)))} == {4}


def test_a_budget_by_rule_is_one_for_all_batches_of_the_sweep(text):
    raw = tuning_more(text)
    raw["workloads"][0]["fixed"] = {"tokens_per_param": 0.1, "learning_rate": "tuned"}
    raw["tune"]["axes"] = MORE | {"learning_rate": [2e-3, 4e-3, 8e-3]}
    made = parsed(raw)
    waiting = {p.cell.size: p.cell.token_budget for p in big(plan.make(made))}
    best = {"retnet": 2, "transformer": 4}

    def loss(cell: Cell) -> float:
        return 2 + abs(cell.learning_rate - 4e-3) + (cell.batch != best[cell.arm])

    done = Sweep(made, sweeps.records(Sweep(made).cells, loss))
    found = [p.cell for p in big(plan.make(made, done.choose))]
    assert {(c.arm, c.batch) for c in found} == {*best.items()}
    assert {(c.size, c.token_budget) for c in found} == {*waiting.items()}


def tuning_more(text: str, tune: dict[str, Any] | None = None) -> dict[str, Any]:
    """A study whose sweep tries batches and warm-ups, too."""
    raw = study(text, {"axes": MORE, "sizes": ["0.1M"], **(tune or {})})
    del raw["fixed"]["batch"]
    return raw


# --- the cells -----------------------------------------------------------------------------------


def test_the_sweep_is_a_training_for_each_arm_size_rate_and_seed(text):
    made = parsed(study(text, {"seeds": [0, 1]}))
    found = [p.cell for p in Sweep(made).cells]
    assert len(found) == 2 * 2 * 3 * 2
    assert {(c.arm, c.size, c.learning_rate, c.seed) for c in found} == {
        (arm, size, rate, seed)
        for arm in ("retnet", "transformer")
        for size in ("0.1M", "0.8M")
        for rate in (2e-3, 4e-3, 8e-3)
        for seed in (0, 1)
    }
    assert {(c.workload, c.token_budget) for c in found} == {("tune", 128)}
    assert made.n_cells == 24 + 8


def test_settings_of_scoring_are_not_the_sweep_s(text):
    """It scores whole documents, so that they would only make its ids change."""
    raw = study(text)
    raw["fixed"] |= {"contexts": [128], "ar_hits": 5, "by_position": True, "score_split": "test"}
    assert Sweep(parsed(raw)).cells[0].cell == Sweep(parsed(study(text))).cells[0].cell


def test_only_the_arms_named_are_tuned(text):
    made = parsed(study(text, {"arms": ["retnet"]}))
    assert {p.cell.arm for p in Sweep(made).cells} == {"retnet"}
    choice = Sweep(made).choose("transformer", "0.1M")
    assert choice is not None
    assert "not in the sweep" in choice.how


def test_cells_wait_until_the_sweep_is_done(text):
    made = parsed(study(text))
    waiting = big(plan.make(made))
    assert len(waiting) == 8
    assert all(p.waits and p.unsupported is None for p in waiting)
    assert {p.cell.tuned for p in waiting} == {"learning_rate"}
    assert {p.cell.score_split for p in waiting} == {"test"}


def test_all_cells_of_a_study_that_tunes_are_scored_on_the_same_documents(text):
    raw = study(text)
    (group,) = raw["workloads"]
    del group["fixed"]["learning_rate"]
    group["axes"]["learning_rate"] = ["tuned", 1e-3]
    found = [p.cell for p in big(plan.make(parsed(raw)))]
    assert {cell.score_split for cell in found} == {"test"}
    group["axes"]["learning_rate"] = [1e-3]
    group["fixed"]["score_split"] = "valid"
    raw["workloads"].append(
        {"workload": "perplexity", "fixed": {"size": "0.1M", "token_budget": 256}}
    )
    raw["workloads"][1]["fixed"]["learning_rate"] = "tuned"
    splits = {(c.score_split, bool(c.tuned)) for c in (p.cell for p in big(plan.make(parsed(raw))))}
    assert splits == {("valid", False), ("test", True)}


def test_a_study_without_it_has_the_cells_it_always_had(text):
    raw = study(text)
    del raw["tune"]
    raw["workloads"][0]["fixed"]["learning_rate"] = 1e-3
    for planned in big(plan.make(parsed(raw))):
        assert not planned.waits
        said = planned.cell.canonical()
        assert not {"tuned", "score_split", "warmup_share"} & json.loads(said).keys()


# --- what the sweep leads to ---------------------------------------------------------------------


def bowl(best: dict[str, float]):
    """Losses whose least is at a rate by arm."""
    import math

    return lambda cell: 2 + abs(math.log(cell.learning_rate / best[cell.arm]))


def test_each_arm_gets_its_own_best_and_the_pair_stays_a_pair(text):
    made = parsed(study(text, {"axes": {"learning_rate": [1e-3, 2e-3, 4e-3, 8e-3]}}))
    sweep = Sweep(made)
    done = Sweep(made, sweeps.records(sweep.cells, bowl({"retnet": 4e-3, "transformer": 2e-3})))
    assert done.further == []
    assert done.waiting == []
    found = big(plan.make(made, done.choose))
    assert not any(p.waits for p in found)
    rates = {(p.cell.arm, p.cell.size): p.cell.learning_rate for p in found}
    assert rates == {
        ("retnet", "0.1M"): 4e-3,
        ("retnet", "0.4M"): 4e-3,
        ("transformer", "0.1M"): 2e-3,
        ("transformer", "0.4M"): 2e-3,
    }
    assert len({p.cell.pair_id for p in found}) == 4
    assert len({p.cell.cell_id for p in found}) == 8
    for planned in found:
        assert Cell.read(json.loads(planned.cell.canonical())) == planned.cell
    words = next(p.choice.how for p in found if p.cell.size == "0.4M" and p.choice)
    assert words.startswith("interpolated in log-log of the width between 0.004 at size 0.1M")


def test_a_best_rate_at_the_end_adds_one_training_beyond_and_no_more(text):
    made = parsed(study(text))
    losses = bowl({"retnet": 1.0, "transformer": 4e-3})  # RetNet: the higher the better
    records = sweeps.records(Sweep(made).cells, losses)
    more = Sweep(made, records).further
    assert [(p.cell.arm, p.cell.size, p.cell.learning_rate) for p in more] == [
        ("retnet", "0.1M", 0.016),
        ("retnet", "0.8M", 0.016),
    ]
    waiting = Sweep(made, records)
    assert waiting.choose("retnet", "0.1M") is None
    assert waiting.choose("transformer", "0.1M") is not None
    done = Sweep(made, sweeps.records([*Sweep(made).cells, *more], losses))
    assert done.waiting == []
    choice = done.choose("retnet", "0.1M")
    assert choice is not None
    assert choice.settings == {"learning_rate": 0.016}
    assert choice.how.endswith("0.016 is at the end of the grid, which was extended once")


def test_a_grid_of_one_rate_is_extended_to_twice_that(text):
    made = parsed(study(text, {"axes": {"learning_rate": [4e-3]}, "sizes": ["0.1M"]}))
    records = sweeps.records(Sweep(made).cells, lambda cell: 2.0)
    assert {p.cell.learning_rate for p in Sweep(made, records).further} == {8e-3}


def test_at_the_low_end_it_goes_down_and_comes_back_where_that_is_worse(text):
    made = parsed(study(text))
    table = {1e-3: 3.0, 2e-3: 2.0, 4e-3: 2.5, 8e-3: 3.0}
    records = sweeps.records(Sweep(made).cells, lambda cell: table[cell.learning_rate])
    more = Sweep(made, records).further
    assert {p.cell.learning_rate for p in more} == {1e-3}
    full = sweeps.records([*Sweep(made).cells, *more], lambda cell: table[cell.learning_rate])
    choice = Sweep(made, full).choose("retnet", "0.1M")
    assert choice is not None
    assert choice.settings == {"learning_rate": 2e-3}
    assert choice.how == "the best of the sweep at size 0.1M"


def test_a_rate_at_which_a_seed_diverged_loses_to_one_at_which_none_did(text):
    made = parsed(study(text, {"seeds": [0, 1]}))

    def loss(cell: Cell) -> float | None:
        if cell.learning_rate == 8e-3:
            return None if cell.seed else 1.0
        return 3.0 if cell.learning_rate == 2e-3 else 2.0

    done = Sweep(made, sweeps.records(Sweep(made).cells, loss))
    choice = done.choose("retnet", "0.1M")
    assert choice is not None
    assert choice.settings == {"learning_rate": 4e-3}


def test_a_sweep_in_which_every_rate_diverged_is_the_reason_of_the_big_cells(text):
    made = parsed(study(text))
    losses = bowl({"transformer": 4e-3})
    done = Sweep(
        made,
        sweeps.records(
            Sweep(made).cells, lambda cell: None if cell.arm == "retnet" else losses(cell)
        ),
    )
    assert done.waiting == []
    for planned in big(plan.make(made, done.choose)):
        if planned.cell.arm == "transformer":
            assert planned.unsupported is None
            continue
        assert planned.unsupported == (
            "no rate of its sweep gave a score: size 0.1M at 0.002, 0.004, 0.008 (loss above twice "
            "its best); size 0.8M at 0.002, 0.004, 0.008 (loss above twice its best)"
        )


def test_of_two_sizes_one_of_which_gave_nothing_the_other_decides(text):
    made = parsed(study(text))
    losses = bowl({"retnet": 4e-3, "transformer": 4e-3})
    done = Sweep(
        made,
        sweeps.records(
            Sweep(made).cells, lambda cell: None if cell.size == "0.8M" else losses(cell)
        ),
    )
    choice = done.choose("retnet", "0.4M")
    assert choice is not None
    assert choice.settings == {"learning_rate": 0.00327}  # 4e-3 (96 / 64)^-0.5


def test_batch_and_warm_up_are_tuned_beside_the_rate(text):
    made = parsed(tuning_more(text, {"axes": MORE | {"learning_rate": [2e-3, 4e-3, 8e-3]}}))

    def loss(cell: Cell) -> float:
        return 2 + abs(cell.learning_rate - 4e-3) + (cell.batch == 4) + (cell.warmup_share or 0)

    done = Sweep(made, sweeps.records(Sweep(made).cells, loss))
    found = big(plan.make(made, done.choose))
    assert {(c.cell.batch, c.cell.warmup_share, c.cell.learning_rate) for c in found} == {
        (2, 0.05, 4e-3),
        (2, 0.05, 0.00327),
    }
    assert {c.cell.tuned for c in found} == {"batch, learning_rate, warmup_share"}
    assert len({c.cell.pair_id for c in found}) == 4
    assert found[0].cell.training_recipe.warmup_share == 0.05
    words = next(c.choice.how for c in found if c.cell.size == "0.4M" and c.choice)
    assert words.endswith("; batch 2, warmup_share 0.05 of size 0.1M")


def test_records_of_another_sweep_in_the_folder_do_not_count(text):
    made, other = parsed(study(text)), parsed(study(text, {"token_budget": 256}))
    records = sweeps.records(Sweep(other).cells, bowl({"retnet": 4e-3, "transformer": 4e-3}))
    assert len(Sweep(made, records).waiting) == 12


# --- what a plan shows ---------------------------------------------------------------------------


def test_a_plan_shows_the_sweep_and_what_waits_for_it(text, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(study(text)))
    shown = list(plan_table(str(path), on="h100-80gb"))
    lines = [part for part in shown if isinstance(part, str)]
    assert "sweep: 12 trainings; a best rate at an end of the grid adds one" in lines
    for arm in ("retnet", "transformer"):
        assert f"waits for the sweep of {arm}: 4 cells, whose learning rate it decides" in lines
    tables = {str(part.title): part for part in shown if not isinstance(part, str)}
    table = tables["Cells (rate: peak learning rate)"]
    cells = {str(column.header): [*column.cells] for column in table.columns}
    assert cells["workload"].count("tune") == 12
    assert cells["rate"] == [*(["0.002", "0.002", "0.004", "0.004", "0.008", "0.008"] * 2)] + (
        ["tuned"] * 8
    )
    assert [*tables["Trainings"].columns[0].cells] == ["tune", "tune", "perplexity", "perplexity"]


def test_a_plan_says_of_a_sweep_what_it_has_looked_at(text, tmp_path, monkeypatch):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(study(text)))
    done = Sweep(parsed(study(text))).cells[:5]
    there = sweeps.records(done, bowl({"retnet": 4e-3, "transformer": 4e-3}))
    monkeypatch.setattr(store, "read_records", lambda folder: there)
    found = tmp_path / "r"
    (line,) = (
        part
        for part in plan_table(str(path), on="h100-80gb", records=found)
        if isinstance(part, str) and part.startswith("sweep:")
    )
    assert line.startswith(f"sweep: 12 trainings, 5 of them done in {found}; a best rate")


def test_a_plan_shows_a_batch_that_the_sweep_decides_as_what_it_may_be(text, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(tuning_more(text)))
    shown = [p for p in plan_table(str(path), on="h100-80gb") if not isinstance(p, str)]
    (table,) = (table for table in shown if table.title == "Trainings")
    found = {str(column.header): [*column.cells] for column in table.columns}
    assert found["batch"] == ["2", "4", "up to 4", "up to 4"]
    assert found["steps"] == ["2", "1", "from 2", "from 2"]
