"""Studies that nobody means: one printable line, at once; and limits that stand where they say."""

from __future__ import annotations

import copy
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import cells

from retnet_bench.analysis.verdicts import claims
from retnet_bench.base import UserError, printable
from retnet_bench.study import plan
from retnet_bench.study import study as studies
from retnet_bench.study.study import Source, Study

CLAIM = {
    "name": "faster",
    "says": "x",
    "source": "me",
    "measure": {"kind": "ratio", "metric": "train_step_s", "of": "retnet", "over": "transformer"},
    "where": {"workload": "train"},
    "at_least": 1,
}
ODD_TEXT = "\x1b]0;T\a\u202e\n" + "x" * 5000


def parse(text: str) -> Study:
    return studies.parse(Source(Path("s.yaml"), text))


def study(**changes: Any) -> dict[str, Any]:
    return cells.study(figures=["throughput"], claims=[CLAIM]) | changes


def refused(raw: dict[str, Any] | str) -> str:
    """The one line, printable and short, in less than two seconds."""
    text = raw if isinstance(raw, str) else yaml.safe_dump(raw)
    start_s = time.process_time()
    with pytest.raises(UserError) as caught:
        parse(text)
    assert time.process_time() - start_s < 2
    message = str(caught.value)
    assert message.startswith("s.yaml: ")
    assert message == printable(message)
    assert len(message) < 500
    return message


def axes(**values: list[Any]) -> dict[str, Any]:
    return study(workloads=[{"workload": "train", "axes": values}], claims=[])


# --- limits ------------------------------------------------------------------------------------


def test_cells_are_counted_before_they_are_multiplied_out():
    many = list(range(1, 101))
    said = refused(axes(length=many, batch=many, seed=many, threads=many, documents=many))
    assert said == "s.yaml: the study has 20,000,000,000 cells, at most 10,000 are taken"
    assert "the study has 10,002 cells" in refused(axes(length=list(range(1, 5002))))


def test_a_study_of_the_most_cells_loads():
    made = parse(yaml.safe_dump(axes(length=list(range(1, 51)), batch=list(range(1, 101)))))
    assert made.n_cells == len(made.arms) * len(list(made.points())) == 10_000


def test_a_long_axis_is_told_by_its_length_and_a_value_by_its_place():
    assert "the study has 40,000 cells" in refused(axes(length=[7] * 20_000))
    assert "workloads.0.axes.length names a value twice: 7" in refused(axes(length=[8, 7, 7]))
    assert "axes.learning_rate names a value twice" in refused(axes(learning_rate=[1, 1.0]))
    assert "workloads.0.axes.length: input should be a valid int" in refused(axes(length=[8, "x"]))
    assert "workloads.0.axes.batch: null is no value of it" in refused(axes(batch=[1, None]))


LIMITS = [
    ({"batch": 2**24 + 1}, "fixed.batch: input should be less than or equal to 16777216"),
    ({"batch": 10**17}, "fixed.batch: input should be less than or equal to"),
    ({"length": 10**17}, "fixed.length: input should be less than or equal to"),
    ({"length": 2**20, "batch": 2**11}, "batch 2048 x length 1048576 are 2,147,483,648 tokens a"),
    ({"threads": 5000}, "fixed.threads: "),
    ({"seed": 2**32}, "fixed.seed: "),
    ({"token_budget": 10**17}, "fixed.token_budget: "),
    ({"learning_rate": float("inf")}, "learning_rate: input should be a finite number, not inf"),
    ({"learning_rate": float("nan")}, "fixed.learning_rate: input should be a finite number"),
    ({"learning_rate": True}, "fixed.learning_rate: input should be a valid number, not true"),
    ({"recompute": "no"}, "fixed.recompute: input should be a valid boolean, not 'no'"),
    ({"recompute": 1}, "fixed.recompute: input should be a valid boolean, not 1"),
    ({"measure": ["time", "time"]}, "fixed.measure: names a value twice, not ['time', 'time']"),
    ({"measure": []}, "fixed.measure is empty; give it at least 1"),
    ({"contexts": [64, 64]}, "fixed.contexts: names a value twice, not [64, 64]"),
    ({"contexts": [*range(64, 165)]}, "fixed.contexts: value should have at most 100 items"),
    ({"size": "x" * 101}, "fixed.size: string should have at most 100 characters"),
    ({"corpus": "x" * 1001}, "fixed.corpus: string should have at most 1000 characters"),
    ({"corpus": "a\x1b[2J"}, "fixed.corpus: has characters that can't be printed, not 'a\\x1b[2J'"),
    ({"tokenizer": "a\nb"}, "fixed.tokenizer: has characters that can't be printed"),
]


@pytest.mark.parametrize(("fixed", "said"), LIMITS, ids=[said[:40] for _, said in LIMITS])
def test_a_setting_has_bounds(fixed, said):
    made = axes(length=[16])
    assert said in refused(
        made
        | {"fixed": made["fixed"] | fixed, "workloads": [{"workload": "train", "fixed": fixed}]}
    )


PROTOCOL = [
    ({"blocks": 100_001}, "protocol.blocks: input should be less than or equal to 100000, not 1"),
    ({"blocks": 0}, "protocol.blocks: input should be greater than or equal to 1, not 0"),
    ({"processes": 10**17}, "protocol.processes: input should be less than or equal to 100000,"),
    ({"blocks": 2, "max_blocks": 10**9}, "protocol.max_blocks: input should be less than or equ"),
    ({"blocks": 2, "max_blocks": 1}, "protocol.max_blocks is 1, must be at least blocks (2)"),
    ({"max_samples": 2}, "protocol.max_samples is 2, must be at least min_samples (3)"),
    ({"timeout_s": 1_000_001}, "protocol.timeout_s: input should be less than or equal to 10000"),
    ({"timeout_s": 0}, "protocol.timeout_s: input should be greater than 0, not 0"),
    ({"budget_s": 1e308}, "protocol.budget_s: input should be less than or equal to 1000000"),
    ({"warmup_max_s": float("nan")}, "protocol.warmup_max_s: input should be a finite number"),
    ({"precision": 2}, "protocol.precision: input should be less than 1, not 2"),
    ({"interleave": "steps"}, 'protocol.interleave: "steps" is unknown; choose from blocks, pro'),
    ({"blocks": True}, "protocol.blocks: input should be a valid integer, not true"),
    ({"blocks": "3"}, "protocol.blocks: input should be a valid integer, not '3'"),
]


@pytest.mark.parametrize(("protocol", "said"), PROTOCOL, ids=[said[:40] for _, said in PROTOCOL])
def test_a_protocol_has_bounds(protocol, said):
    assert said in refused(study(protocol=protocol))


NAMES = ["\x1b]0;T\a", "a b", "ret$net_a$", "a\nb", "<a>", "\ufffe", "x" * 101, "", "-a", "~again"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_become_labels_and_files_so_they_follow_a_pattern(name):
    arm = {"mixer": "retention"}
    long = "string should have at most 100 characters"
    wrong = long if len(name) > 100 else "must begin with a letter or digit and may go on with"
    assert f"name: {wrong}" in refused(study(name=name))
    assert "arms." in refused(study(arms={name: arm}, claims=[]))
    assert f"claims.0.name: {wrong}" in refused(study(claims=[CLAIM | {"name": name}]))
    assert f"figures.0: {wrong}" in refused(study(figures=[name]))


def test_prose_is_made_printable_when_it_is_loaded():
    text = "Is \x1b[31mRetNet\x1b[0m faster?\nγ = 1 \u202e"
    made = parse(yaml.safe_dump(study(question=text, claims=[CLAIM | {"says": text}])))
    shown = "Is \\x1b[31mRetNet\\x1b[0m faster?\nγ = 1 \\u202e"
    assert made.question == made.claims[0].says == shown


@pytest.mark.parametrize(
    "raw",
    [
        study(**{ODD_TEXT: 1}),
        study(fixed={ODD_TEXT: 1}),
        study(fixed={"size": ODD_TEXT}),
        study(fixed={"dtype": ODD_TEXT}),
        study(arms={ODD_TEXT: {ODD_TEXT: 1}}),
        study(arms={"a": {"mixer": ODD_TEXT}}),
        study(figures=[ODD_TEXT]),
        study(claims=[CLAIM | {"claim": ODD_TEXT}]),
        study(claims=[CLAIM | {"name": ODD_TEXT}]),
        study(claims=[CLAIM | {"figure": "f" * 100}]),
        study(claims=[CLAIM | {"measure": CLAIM["measure"] | {"of": "a" * 100}}]),
        study(claims=[CLAIM | {"where": {"workload": "w" * 100, ODD_TEXT: 1}}]),
        study(claims=[CLAIM | {"where": {"workload": "w" * 100}}]),
        study(question=[["x" * 9000] * 9] * 9),
        axes(**{ODD_TEXT: [1]}),
        axes(length=[[ODD_TEXT]]),
    ],
    ids=range(16),
)
def test_what_a_message_repeats_is_short_and_printable(raw):
    assert refused(raw)


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a\x1b[31m", "a\0b", "../quickstart", "x" * 300 + ".yaml"]
)
def test_a_name_that_is_no_file_s_is_told_shortly(name):
    with pytest.raises(UserError, match=r"unknown study|does not exist") as caught:
        studies.load(name)
    message = str(caught.value)
    assert message == printable(message)
    assert len(message) < 500


def test_a_folder_named_like_a_shipped_study_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert studies.find("quickstart") == studies.folder() / "quickstart.yaml"
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"^mine is no regular file"):
        studies.load("mine")


# --- claims ------------------------------------------------------------------------------------


def test_claims_have_a_most_and_are_checked_in_linear_time(tmp_path):
    def many(n: int) -> dict[str, Any]:
        return study(claims=[CLAIM | {"name": f"c{i}"} for i in range(n)])

    assert "claims: list should have at most 1000 items" in refused(many(1001))
    start_s = time.process_time()
    assert len(parse(yaml.dump(many(1000), Dumper=yaml.CSafeDumper)).claims) == 1000
    assert time.process_time() - start_s < 3


BESIDE = {
    "bomb": "claims: [&a [1], &b [*a, *b]]",
    "deep": "claims: " + "[" * 3000,
    "tag": "claims: !!bool maybe",
    "text": "claims: x",
    "tree": "claims: [{name: [1]}]",
    "key": "claims: [{" + '"\\e]0;T\\a": 1}]',
    "many": f"claims: [{'{claim: decode_faster},' * 1001}]",
    "name": "claims: [{claim: [a, b]}]",
    "digits": "claims: [{name: 1" + "0" * 5000 + "}]",
    "list": "- claims",
    "figures": "figures: 3\nclaims: [{claim: nothing}]",
}


@pytest.mark.parametrize("name", BESIDE)
def test_claims_beside_records_are_read_as_carefully(tmp_path, name):
    (tmp_path / "study.yaml").write_text(BESIDE[name])
    with pytest.raises(UserError) as caught:
        claims.beside(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/study.yaml: ")
    assert message == printable(message)
    assert len(message.removeprefix(str(tmp_path))) < 500


# --- arms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (
            {"mixer": "attention", "decay": "eq8", "head_norm": "rms", "gate": False, "chunk": 7},
            "arms.a.chunk: mixer attention does not read it; "
            "its settings are mixer, kernel, family, checkpoint, layers, head_dim",
        ),
        ({"mixer": "attention", "chunk": 128}, "mixer attention does not read it; its settings"),
        ({"mixer": "attention", "gate": True}, "mixer attention does not read it; its settings"),
        ({"mixer": "attention", "decay": "none"}, "arms.a.decay: mixer attention does not"),
        (
            {"mixer": "retention", "kernel": "parallel", "chunk": 7},
            "chunk: kernel parallel does not",
        ),
        (
            {"mixer": "retention", "kernel": "recurrent", "chunk": 128},
            "kernel recurrent does not read",
        ),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(arm, said):
    """Else one model has two names, and two ids."""
    with pytest.raises(UserError, match=said):
        plan.make(parse(yaml.safe_dump(study(arms={"a": arm}, claims=[]))))


DECODE = {"workload": "decode", "axes": {"length": [64]}}
PERPLEXITY = {"workload": "perplexity", "axes": {"length": [64], "token_budget": [4096]}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"workloads": [DECODE | {"fixed": {"dropout": 0.1}}]},
            "workloads.0.fixed.dropout: workload decode does not read it; "
            "train, perplexity and recall do",
        ),
        (
            {"workloads": [PERPLEXITY, DECODE | {"axes": PERPLEXITY["axes"]}]},
            "workloads.1.axes.token_budget: workload decode does not read it; perplexity does",
        ),
        (
            {"fixed": {"size": "0.1M", "positions": 8}, "workloads": [PERPLEXITY]},
            "fixed.positions: workload perplexity does not read it; decode does",
        ),
    ],
)
def test_a_setting_that_no_workload_reads_is_refused(changes, said):
    with pytest.raises(UserError, match=f"^{said}$"):
        plan.make(parse(yaml.safe_dump(study(claims=[], figures=[]) | changes)))


def test_a_setting_that_is_fixed_and_an_axis_is_refused():
    both = {"workload": "decode", "fixed": {"length": 128}, "axes": {"length": [64]}}
    assert refused(study(claims=[], figures=[], workloads=[both])) == (
        "s.yaml: workloads.0: length stands in fixed and in axes; keep one of them"
    )


def test_a_setting_that_one_of_the_workloads_reads_is_planned():
    fixed = {"size": "0.1M", "dropout": 0.1, "positions": 8}
    raw = study(claims=[], figures=[], fixed=fixed, workloads=[PERPLEXITY, DECODE])
    assert plan.make(parse(yaml.safe_dump(raw)))


@pytest.mark.parametrize(
    "arm",
    [
        {"mixer": "attention", "head_dim": 16, "decay": None, "kernel": "math"},
        {"mixer": "retention", "chunk": 8, "decay": "eq8", "gate": False, "head_norm": "none"},
        {"mixer": "retention", "kernel": "parallel", "head_dim": 8, "family": "modern"},
    ],
)
def test_a_setting_that_is_read_is_planned(arm):
    assert plan.make(parse(yaml.safe_dump(study(arms={"a": arm}, claims=[]))))


# --- mutations ---------------------------------------------------------------------------------

ODD = [
    *(None, True, 0, -1, 1.5, 10**17, float("inf"), float("nan"), "", "max", ODD_TEXT, "x" * 300),
    *([], {}, [[]], [None], {"a": 1}, [1, "a"], "1:30", "yes", "9" * 30, "\ud7ff\x7f"),
]
RAW = ["1:30", "!!int ''", "9" * 5000, "*a", "&a [*a]", "[" * 99, "0x", "{? a", "<<", "%", "\x07"]
"""Put in as they stand, unquoted."""


def places(node: Any) -> list[tuple[Any, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node))
    found = [(node, key) for key in keys]
    below = [node[key] for key in keys if isinstance(node[key], (dict, list))]
    return found + [place for child in below for place in places(child)]


def mutated(dice: random.Random) -> str:
    raw = copy.deepcopy(study())
    for _ in range(dice.choice((1, 1, 2, 3))):
        node, key = dice.choice(places(raw))
        act = dice.choice(("odd", "odd", "drop", "rename", "raw"))
        if act == "odd":
            node[key] = copy.deepcopy(dice.choice(ODD))
        elif act == "raw":
            node[key] = f"RAW{dice.randrange(len(RAW))}"
        elif act == "rename" and isinstance(node, dict):
            node[dice.choice((f"{key}s", ODD_TEXT, "claim", "fixed"))] = node.pop(key)
        else:
            del node[key]
    text = yaml.dump(raw, Dumper=yaml.CSafeDumper)
    for i, put in enumerate(RAW):
        text = text.replace(f"RAW{i}\n", f"{put}\n")
    return text


@pytest.mark.parametrize("seed", range(8))
def test_a_changed_study_is_a_study_or_one_line(seed):
    dice, loaded = random.Random(seed), 0
    for _ in range(60):
        text = mutated(dice)
        try:
            loaded += isinstance(parse(text), Study)
        except UserError as error:
            message = str(error)
            assert message.startswith("s.yaml: "), text
            assert message == printable(message), text
            assert len(message) < 500, text
    assert 0 < loaded < 60
