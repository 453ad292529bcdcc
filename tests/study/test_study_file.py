"""The YAML file: what is wrong with it is said in one line, and it expands to the right cells."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import cells

from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES
from retnet_bench.study import plan
from retnet_bench.study import study as studies

SHIPPED = sorted(studies.folder().glob("*.yaml"))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., studies.Study]:
    """Loads a study given as dictionary, text or bytes; path: study.yaml in a fresh folder."""

    def write_and_load(content: dict | str | bytes) -> studies.Study:
        if isinstance(content, dict):
            content = yaml.safe_dump(content, sort_keys=False)
        if isinstance(content, str):
            content = content.encode()
        (tmp_path / "study.yaml").write_bytes(content)
        return studies.load(str(tmp_path / "study.yaml"))[0]

    return write_and_load


def put(at: str, value: Any) -> dict[str, Any]:
    """A good study with `value` at a dotted place."""
    made = cells.study(workloads=[{"workload": "train", "fixed": {"length": 16}}])
    *folders, key = at.split(".")
    place: Any = made
    for name in folders:
        place = place[int(name)] if name.isdigit() else place.setdefault(name, {})
    place[key] = value
    return made


def without(*keys: str) -> dict[str, Any]:
    made = put("question", "?")
    for key in keys:
        made.pop(key, None)
        made["fixed"].pop(key, None)
        made["workloads"][0]["fixed"].pop(key, None)
    return made


HELD = {"workload": "perplexity"}
WRONG = [
    (put("arm", 1), 'unknown key "arm"; did you mean "arms"?'),
    (put("fixed.lenght", 1), 'fixed: unknown key "lenght"; did you mean "length"?'),
    (put("arms.retnet.kernal", "x"), 'did you mean "kernel"?'),
    (put("fixed.head_dim", 64), 'fixed: unknown key "head_dim"; it is said of an arm: arms.NAME.h'),
    (put("workloads.0.axes.kernel", ["math"]), "it is said of an arm: arms.NAME.kernel"),
    (put("protocol.block", 1), 'protocol: unknown key "block"; did you mean "blocks"?'),
    (put("workloads.0.axis", {}), 'workloads.0: unknown key "axis"; did you mean "axes"?'),
    (
        put("workloads.0.axes", {"lenght": [1]}),
        'workloads.0.axes: unknown key "lenght"; did you mean "length"?',
    ),
    (
        put("workloads.0.fixed.sise", "x"),
        'workloads.0.fixed: unknown key "sise"; did you mean "size"?',
    ),
    (
        put("workloads.0.protocol", {"timeout": 1}),
        'workloads.0.protocol: unknown key "timeout"; did you mean "timeout_s"?',
    ),
    (put("fixed.batch", "many"), "fixed.batch: input should be a valid integer"),
    (put("fixed.batch", True), "fixed.batch: input should be a valid integer"),
    (put("fixed.batch", "2"), "fixed.batch: input should be a valid integer"),
    (put("fixed.batch", 0), "fixed.batch: input should be greater than 0, not 0"),
    (put("fixed.seed", -1), "fixed.seed: input should be greater than or equal to 0, not -1"),
    (put("fixed.size", 3), "fixed.size: input should be a valid string, not 3"),
    (put("fixed.measure", []), "fixed.measure is empty; give it at least 1"),
    (put("fixed.measure", ["tme"]), 'fixed.measure.0: "tme" is unknown; did you mean "time"?'),
    (put("fixed.dtype", "fp31"), 'fixed.dtype: "fp31" is unknown; did you mean "fp32"?'),
    (put("fixed.mode", "compiled"), 'fixed.mode: "compiled" is unknown; did you mean "compile"?'),
    (put("arms.retnet.decay", "eq9"), 'arms.retnet.decay: "eq9" is unknown; did you mean "eq8"?'),
    (put("arms.retnet.gate", "no"), "arms.retnet.gate: input should be a valid boolean, not 'no'"),
    (put("arms.retnet.chunk", 0), "arms.retnet.chunk: input should be greater than 0, not 0"),
    (
        put("arms.retnet.chunk", None),
        "arms.retnet.chunk: input should be a valid integer, not null",
    ),
    (
        put("claims", [{"claim": "perplexity_lower", "where": {**HELD, "learning_rate": "bests"}}]),
        "claims.0.where.learning_rate: input should be a valid number or best, not 'bests'",
    ),
    (
        put("claims", [{"claim": "perplexity_lower", "where": {**HELD, "length": "best"}}]),
        "claims.0.where.length: input should be a valid integer or max, not 'best'",
    ),
    (put("arms.retnet.options", {}), "arms.retnet.options: mixer retention does not read it; its"),
    (
        put("arms.retnet.chunck", 8),
        "arms.retnet.chunck: mixer retention does not read it; its settings are mixer, "
        "kernel, family, checkpoint, layers, head_dim, chunk, decay, gate, head_norm; "
        'did you mean "chunk"?',
    ),
    (put("arms.transformer.decay", "eq8"), "arms.transformer.decay: mixer attention does not read"),
    (put("arms.retnet", None), "arms.retnet must be a mapping, is null"),
    (put("baseline", "retnt"), 'baseline: "retnt" is not one of the arms; did you mean "retnet"?'),
    (put("arms", {}), "arms is empty; give it at least 1"),
    (put("arms", ["retnet"]), "arms must be a mapping, is ['retnet']"),
    (put("workloads", []), "workloads is empty; give it at least 1"),
    (put("workloads.0.axes", {"length": 16}), "workloads.0.axes.length must be a list, is 16"),
    (
        put("workloads.0.axes", {"length": []}),
        "workloads.0.axes.length is empty, so the study has no cells; give it at least one value",
    ),
    (put("workloads.0.axes", {"length": [16, 16]}), "workloads.0.axes.length names a value twice"),
    (put("workloads.0.axes", {"length": ["long"]}), "length: input should be a valid integer"),
    (put("name", "a b"), "name: must begin with a letter or digit"),
    (without("name"), "name is missing"),
    ({"name": "x"}, "question, arms, workloads are missing"),
    (put("protocol.blocks", 0), "protocol.blocks: input should be greater than or equal to 1"),
    (
        put("protocol.block_s", float("inf")),
        "protocol.block_s: input should be a finite number, not inf",
    ),
    (put("protocol.interleave", "procesess"), 'did you mean "processes"?'),
    ("name: x\nname: y\n", 'line 2 is not valid YAML: key "name" stands twice'),
    (
        put("fixed", {"batch": 2, "batch_tokens": 64}),
        "fixed: batch and batch_tokens are two words for one setting; keep one of them",
    ),
    ("name: x\nfixed: {size: [\n", "line 3 is not valid YAML"),
    ("name: x\n\tfixed: 1\n", "line 2 is not valid YAML"),
    ("name: x\x01\n", "is not valid YAML"),
    ("", "a study is a mapping"),
    ("- a\n", "a study is a mapping"),
    (b"name: caf\xe9\n", "can't be read"),
]


@pytest.mark.parametrize(("content", "line"), WRONG, ids=[line[:40] for _, line in WRONG])
def test_a_mistake_is_one_line_with_file_place_and_remedy(load, content, line):
    with pytest.raises(UserError) as caught:
        load(content)
    message = str(caught.value)
    assert line in message
    assert "study.yaml:" in message
    assert "\n" not in message


PLANLESS = [
    (without("size"), "size is missing; set it fixed or as axis"),
    (without("length"), "length is missing; set it fixed or as axis"),
    (put("fixed.size", "0.1m"), 'fixed.size: unknown size "0.1m"; did you mean "0.1M"?'),
    (put("arms.retnet.mixer", "retenton"), 'unknown mixer "retenton"; did you mean "retention"?'),
    (put("arms.retnet.kernel", "chunkwize"), 'unknown kernel "chunkwize"; did you mean "chunkw'),
    (put("arms.retnet.kernel", "sdpa"), "kernel sdpa computes attention, not retention; choose"),
    (put("workloads.0.workload", "trian"), 'workloads.0.workload: unknown workload "trian"; did'),
    (put("workloads.0.axes.size", ["0.1m"]), 'workloads.0.axes.size: unknown size "0.1m"; did you'),
    (put("fixed.corpus", "sotuu"), 'did you mean "sotu"?'),
    (put("fixed.corpus", "no/such.txt"), 'corpus "no/such.txt" is neither'),
    (put("fixed.tokenizer", "bite"), 'unknown tokenizer "bite"; did you mean "byte"?'),
    (put("fixed.tokenizer", "bpe"), 'tokenizer "bpe": wants a vocabulary'),
    (put("fixed.device", "gpu"), 'device "gpu" is none that torch knows; try cpu or cuda'),
    (put("workloads.0.workload", "perplexity"), "token_budget or tokens_per_param is missing"),
    (put("workloads", 2 * put("question", "?")["workloads"]), "lists one cell twice: train 0.1M"),
]


@pytest.mark.parametrize(("content", "line"), PLANLESS, ids=[line[:40] for _, line in PLANLESS])
def test_a_name_nobody_knows_is_one_line_when_the_study_is_planned(load, content, line):
    with pytest.raises(UserError) as caught:
        plan.make(load(content))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r'^study file "no/such\.yaml" does not exist$'):
        studies.load("no/such.yaml")
    with pytest.raises(UserError, match='unknown study "quickstrt"; did you mean "quickstart"'):
        studies.load("quickstrt")


# --- expansion ---------------------------------------------------------------------------------


def test_axes_multiply_and_every_point_has_all_arms(load):
    workload = {"workload": "train", "axes": {"length": [16, 24, 32], "batch": [1, 2]}}
    pairs = plan.make(load(cells.study(workloads=[workload])))
    points = [{(p.cell.length, p.cell.batch) for p in pair} for pair in pairs]
    assert points == [{(n, b)} for n in (16, 24, 32) for b in (1, 2)]
    assert all([p.cell.arm for p in pair] == ["retnet", "transformer"] for pair in pairs)
    assert all(len({p.cell.pair_id for p in pair}) == 1 for pair in pairs)
    ids = [p.cell.cell_id for pair in pairs for p in pair]
    assert len(set(ids)) == 12
    assert ids == [
        p.cell.cell_id for pair in plan.make(load(cells.study(workloads=[workload]))) for p in pair
    ]


def test_the_id_of_a_study_s_cell_stays_as_it_is(load):
    """What stands in old folders must be found again, whatever becomes of the study's defaults."""
    (retnet, transformer), *_ = plan.make(load(cells.study()))
    assert retnet.cell == cells.cell(length=16, batch=1)
    assert transformer.cell == cells.cell(mixer="attention", length=16, batch=1)
    assert retnet.cell.cell_id == "4c2b23b33ca63a32"


def test_batch_tokens_fill_the_batch(load):
    workload = {
        "workload": "train",
        "axes": {"length": [16, 24, 100]},
        "fixed": {"batch_tokens": 64},
    }
    pairs = plan.make(load(cells.study(workloads=[workload])))
    assert [pair[0].cell.batch for pair in pairs] == [4, 2, 1]


def test_the_nearest_word_on_batch_wins(load):
    made = cells.study(workloads=[{"workload": "train", "fixed": {"length": 16, "batch": 3}}])
    made["fixed"]["batch_tokens"] = 64
    assert plan.make(load(made))[0][0].cell.batch == 3


def test_the_protocol_of_a_group_goes_over_the_study_s(load):
    made = cells.study(protocol={"blocks": 5, "block_s": 2.0})
    made["workloads"][0]["protocol"] = {"blocks": 3}
    pairs = plan.make(load(made))
    assert [(p[0].protocol.blocks, p[0].protocol.block_s) for p in pairs] == [
        (3, 2.0),
        (5, 2.0),
    ]


def test_settings_of_other_workloads_do_not_split_cells(load):
    """A train cell is the same whatever the study says for decode and perplexity."""
    made = put("fixed.positions", 4)
    made["fixed"] |= {"token_budget": 100, "documents": 3, "learning_rate": 0.1}
    made["workloads"] += [
        {"workload": w, "fixed": {"length": 32}} for w in ("perplexity", "decode")
    ]
    plain = plan.make(load(put("question", "?")))
    assert plan.make(load(made))[0][0].cell == plain[0][0].cell


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (put("arms.retnet.kernel", "fla"), ["kernel fla: needs a CUDA device", None]),
        (put("fixed.mode", "cudagraph"), ["mode cudagraph needs a CUDA device"] * 2),
        (
            put("workloads", [{"workload": "decode", "fixed": {"length": 16}}]),
            ["decode needs a length above 16"] * 2,
        ),
        (put("workloads", [{"workload": "decode", "fixed": {"length": 17}}]), [None, None]),
    ],
)
def test_what_cannot_run_here_is_planned_with_its_reason(load, content, reasons):
    (pair,) = plan.make(load(content))
    for planned, reason in zip(pair, reasons, strict=True):
        assert (planned.unsupported or "").startswith(reason or "")
        assert bool(planned.unsupported) == bool(reason)


@pytest.mark.parametrize(
    ("arm", "fixed", "message"),
    [
        ({"mixer": "retention", "head_dim": 24}, {}, "head_dim 24 does not divide the width 64"),
        ({"mixer": "attention", "head_dim": 1}, {}, "key head dimension 1 is odd"),
        ({"mixer": "attention", "kv_heads": 3}, {}, "kv_heads 3 does not divide the "),
        (
            {"mixer": "h3"},
            {"match": "state"},
            "h3 at size 0.1M can't be matched by state: the",
        ),
    ],
)
def test_an_arm_that_exists_at_no_size_of_the_study_is_refused(load, arm, fixed, message):
    made = cells.study(arms={"odd": arm}, fixed=cells.study()["fixed"] | fixed)
    with pytest.raises(UserError, match=rf"arms\.odd: {re.escape(message)}"):
        plan.make(load(made))


def test_an_arm_that_exists_at_one_size_is_unsupported_at_the_others(load):
    made = put("arms.retnet.head_dim", 48)
    made["workloads"][0]["axes"] = {"size": ["0.1M", "0.4M"]}
    del made["fixed"]["size"]
    small, large = (pair[0].unsupported for pair in plan.make(load(made)))
    assert small == "head_dim 48 does not divide the width 64; choose one of 2, 4, 8, 16, 32, 64"
    assert large is None


def test_arms_that_cannot_be_matched_are_refused_with_the_residual(load):
    """Eq. 5's quadratic term alone costs more than the whole Transformer at this length."""
    made = put("arms.retnet", {"mixer": "retention", "kernel": "parallel"})
    made["fixed"] |= {"match": "train_flops", "length": 4096}
    del made["workloads"][0]["fixed"]
    with pytest.raises(UserError, match=r"can't be matched by train_flops: \+38\.0% remains"):
        plan.make(load(made))


# --- what ships --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_studies_load_plan_and_say_what_they_are_for(path, monkeypatch):
    # Training a BPE takes half a minute and changes nothing but the vocabulary's size.
    monkeypatch.setattr(plan, "_vocab_size", lambda corpus, tokenizer: 257)
    monkeypatch.setattr(plan, "check_epochs", lambda cell, most: None)  # of texts that are not here
    study, source = studies.load(path.stem)
    assert study.name == path.stem
    assert source.text.startswith("# Question:")
    pairs = plan.make(study)
    assert len(pairs) >= 2
    assert all(len(pair) == len(study.arms) for pair in pairs)
    if "gb" not in path.stem and "gpu" not in path.stem:  # those need a CUDA device
        assert study.takes != "not measured"
        assert [p.unsupported for pair in pairs for p in pair if p.unsupported] == []
    assert [name for name in study.figures if name not in FIGURES] == []


def test_an_arm_may_have_a_block_family_of_its_own(load):
    arms = {
        "retnet": {"mixer": "retention", "family": "paper"},
        "modern": {"mixer": "retention", "family": "modern"},
    }
    (pair, *_) = plan.make(load(cells.study(arms=arms)))
    retnet, modern = (planned.cell for planned in pair)
    assert (retnet.arm_family, modern.arm_family) == (None, "modern")
    assert retnet.pair_id == modern.pair_id
    assert [planned.matched.config.family for planned in pair] == ["paper", "modern"]
