"""`--set`: where a key goes, what is refused, and that the text kept says what was run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fakes import cells

from retnet_bench import yaml_file
from retnet_bench.base import UserError
from retnet_bench.study import changes
from retnet_bench.study import study as studies
from retnet_bench.study.study import Source, Study

TWO_PARTS = [
    {"workload": "train", "axes": {"length": [16, 32]}, "fixed": {"batch_tokens": 64}},
    {"workload": "decode", "axes": {"length": [64, 128]}, "fixed": {"positions": 4}},
]


def source(**keys: object) -> Source:
    return Source(Path("s.yaml"), yaml.safe_dump(cells.study(**keys), sort_keys=False))


def changed(*words: str, **keys: object) -> Study:
    return studies.parse(changes.changed(source(**keys), words))


def test_fixed_reaches_the_whole_study_and_the_text_says_so():
    made = changes.changed(source(workloads=TWO_PARTS), ["fixed.size=0.1M", "fixed.seed=3"])
    study = studies.parse(made)
    assert (study.fixed.size, study.fixed.seed) == ("0.1M", 3)
    assert yaml.safe_load(made.text)["fixed"]["size"] == "0.1M"
    assert "--set fixed.size=0.1M" in made.text  # a reader of the results sees what changed
    assert made.changed == ("fixed.size", "fixed.seed")


def test_an_axis_reaches_every_part_that_has_it():
    study = changed("axes.length=[32, 64]", workloads=TWO_PARTS)
    assert [part.axes["length"] for part in study.workloads] == [[32, 64], [32, 64]]
    study = changed("axes.length=[32]", "workloads.decode.axes.length=[256]", workloads=TWO_PARTS)
    assert [part.axes["length"] for part in study.workloads] == [[32], [256]]


def test_an_axis_takes_the_place_of_what_its_only_part_says():
    part = {"workload": "train", "fixed": {"length": 16, "batch_tokens": 64}}
    study = changed("axes.length=[16, 32]", "axes.batch=[1, 2]", workloads=[part])
    assert study.workloads[0].axes == {"length": [16, 32], "batch": [1, 2]}
    assert study.workloads[0].fixed.model_fields_set == set()


def test_arms_protocol_and_the_study_s_own_keys():
    study = changed(
        "arms.retnet.chunk=32", "arms.linear={mixer: linear}", "protocol.blocks=5", "name=other"
    )
    assert study.arms["retnet"].options.chunk == 32
    assert study.arms["linear"].mixer == "linear"
    assert study.protocol.blocks == 5
    assert study.name == "other"


TUNED = {
    "workloads": [{"workload": "perplexity", "fixed": {"length": 32, "token_budget": 256}}],
    "fixed": {"size": "0.1M", "corpus": "sotu", "threads": 1, "learning_rate": "tuned"},
    "tune": {"axes": {"learning_rate": [1e-3, 2e-3]}, "sizes": ["0.1M"], "token_budget": 384},
}


def test_the_sweep_of_a_study_that_tunes():
    study = changed("tune.axes.learning_rate=[4e-3]", "tune.axes.batch=[4, 8]", **TUNED)
    assert study.tune.axes == {"learning_rate": [4e-3], "batch": [4, 8]}
    study = changed("tune.sizes=[0.1M, 0.4M]", "tune.seeds=[0, 1]", **TUNED)
    assert (study.tune.sizes, study.tune.seeds) == (("0.1M", "0.4M"), (0, 1))
    study = changed("tune.axes={learning_rate: [4e-3]}", **TUNED)
    assert study.tune.axes == {"learning_rate": [4e-3]}
    budget = changed("tune.tokens_per_param=5", **TUNED).tune
    assert (budget.token_budget, budget.tokens_per_param) == (None, 5)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("tune.axes.learning_rat=[1]", 'unknown key "axes.learning_rat"; did you mean "axes.lea'),
        ("tune.size=[0.1M]", 'tune: unknown key "size"; did you mean "sizes"?'),
        ("tune.axes.learning_rate=1e-3", "is a list: write 'tune.axes.learning_rate=[1e-3]'"),
    ],
)
def test_what_a_sweep_does_not_have_is_one_line(word, words):
    with pytest.raises(UserError) as caught:
        changed(word, **TUNED)
    assert str(caught.value).startswith(f"--set {word}: ")
    assert words in str(caught.value)


def test_null_takes_a_key_out_and_no_other():
    part = {"workload": "train", "fixed": {"length": 16, "batch": 2}}
    assert (
        changed("workloads.0.fixed.batch=null", workloads=[part]).workloads[0].fixed.batch is None
    )
    part["fixed"] = {"length": 16, "batch_tokens": 64}
    study = changed("workloads.0.fixed.batch=null", workloads=[part])
    assert study.workloads[0].fixed.batch_tokens == 64


RATIO = {"workload": "perplexity", "fixed": {"tokens_per_param": 20, "length": 32}}
RATIOS = {"workload": "perplexity", "axes": {"tokens_per_param": [5, 80]}, "fixed": {"length": 32}}


def test_a_budget_takes_the_place_of_the_rule_that_would_hide_it():
    """Else it would change nothing, unsaid: a part's rule counts before the study's budget."""
    (part,) = changed("fixed.token_budget=6000", workloads=[RATIO]).workloads
    assert (part.fixed.token_budget, part.fixed.tokens_per_param) == (6000, None)
    words = "workloads.0.fixed.token_budget=6000", "workloads.1.fixed.token_budget=6000"
    study = changed("fixed.token_budget=6000", *words, workloads=[RATIO, RATIOS])
    assert {part.fixed.token_budget for part in study.workloads} == {6000}
    assert not any(part.axes for part in study.workloads)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            [RATIO, RATIOS],
            "workloads.0 (perplexity), workloads.1 (perplexity) say tokens_per_param for "
            "themselves, so this would not reach them; set workloads.0.fixed.token_budget, too",
        ),
        (
            [RATIOS],
            "workloads.0 (perplexity) says tokens_per_param for itself, so this would not reach "
            "it; set workloads.0.fixed.token_budget",
        ),
    ],
)
def test_a_budget_that_a_part_s_rule_hides_is_refused(parts, words):
    with pytest.raises(UserError) as caught:
        changed("fixed.token_budget=6000", workloads=parts)
    assert str(caught.value) == f"--set fixed.token_budget=6000: {words}"


REFUSED = [
    ("fixed.sze=3M", 'fixed: unknown key "sze"; did you mean "size"?'),
    ("axes.lenght=[1]", 'axes: unknown key "lenght"; did you mean "length"?'),
    ("fixed.kernel=math", 'fixed: unknown key "kernel"; it is said of an arm: arms.NAME.kernel'),
    ("tune.sizes=[0.1M]", "the study has no sweep; give it whole: tune={axes: ..., sizes: ...}"),
    ("axes.chunk=[16,32]", 'axes: unknown key "chunk"; it is said of an arm: arms.NAME.chunk'),
    ("size=3M", 'unknown key "size"; did you mean fixed.size or axes.size?'),
    ("fixd.size=3M", 'unknown key "fixd.size"; did you mean "fixed.size"?'),
    ("protocol.bloks=3", 'protocol: unknown key "bloks"; did you mean "blocks"?'),
    ("fixed.seed=many", "fixed.seed: input should be a valid integer, not 'many'"),
    ("fixed.size=", "is no KEY=VALUE, such as fixed.size=3M"),
    ("fixed.size", "is no KEY=VALUE"),
    ("axes.length=16", "an axis is a list: write 'axes.length=[16]'"),
    ("axes.length=[]", "axes.length is empty"),
    ("axes.length=[16, 16]", "names a value twice: 16"),
    ("axes.length=[16", "not valid YAML"),
    ("axes.dtype=[fp32]", "say workloads.0.axes.dtype or workloads.1.axes.dtype"),
    ("fixed.length=16", "workloads.0 (train), workloads.1 (decode) say length for themselves"),
    ("fixed.batch=2", "workloads.0 (train) says batch_tokens for itself"),
    ("workloads.prefill.fixed.batch=2", 'has no workload part "prefill"; choose from'),
    ("workloads.7.fixed.batch=2", 'has no workload part "7"'),
    ("workloads.0.fixd.batch=2", 'did you mean "fixed"?'),
    ("workloads=[]", "say which key of it, such as workloads.0.fixed.size=3M"),
    ("arms.retnt.chunk=4", 'the study has no arm "retnt"; did you mean "retnet"?'),
    ("arms.retnet.chnk=4", 'did you mean "chunk"?'),
    ("baseline=nobody", '"nobody" is not one of the arms'),
]


@pytest.mark.parametrize(("word", "said"), REFUSED, ids=[word for word, _ in REFUSED])
def test_what_is_refused_names_the_set(word, said):
    with pytest.raises(UserError) as refusal:
        changed(word, workloads=TWO_PARTS)
    assert said in str(refusal.value)
    assert f"--set {word.partition('=')[0]}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_part_named_by_a_workload_that_stands_twice_is_refused():
    twice = [TWO_PARTS[1], {**TWO_PARTS[1], "axes": {"length": [32]}}]
    with pytest.raises(UserError, match=r"2 parts decode: say workloads\.0 or workloads\.1"):
        changed("workloads.decode.fixed.positions=2", workloads=twice)


def test_one_place_is_set_once():
    with pytest.raises(UserError, match=r"fixed\.seed is set twice"):
        changed("fixed.seed=1", "fixed.seed=2")


def test_fixed_is_taken_where_the_parts_that_hide_it_are_set_too():
    study = changed("fixed.batch=2", "workloads.0.fixed.batch=4", workloads=TWO_PARTS)
    assert study.fixed.batch == 2
    assert study.workloads[0].fixed.batch == 4
    assert study.workloads[0].fixed.batch_tokens is None


def test_what_the_file_has_wrong_is_not_blamed_on_the_change():
    broken = Source(Path("s.yaml"), "name: x\n")
    with pytest.raises(UserError) as refusal:
        changes.changed(broken, ["fixed.size=3M"])
    assert str(refusal.value).startswith("s.yaml: ")
    assert "--set" not in str(refusal.value)


def test_equal_changes_have_one_folder_and_others_another():
    suffix = changes.suffix
    assert suffix([]) == ""
    assert suffix(["fixed.size=0.8M", "axes.length=[1024,4096]"]) == ("-length=1024+4096-size=0.8M")
    assert suffix(["fixed.size=3M", "fixed.seed=1"]) == suffix(["fixed.seed=1", "fixed.size=3M"])
    odd = {suffix([f"fixed.corpus={name}"]) for name in ("a/b", "a_b", "a b")}
    assert len(odd) == 3
    assert all("/" not in name and " " not in name for name in odd)
    assert len(suffix([f"axes.length=[{', '.join(map(str, range(1, 99)))}]"])) < 100


@pytest.mark.parametrize("name", studies.names())
def test_a_shipped_study_written_anew_says_the_same(name):
    path = studies.find(name)
    data = yaml_file.parse(yaml_file.read(path), path)
    text = yaml_file.dump(data)
    assert yaml_file.parse(text, path) == data
    assert yaml.safe_load(text) == data


@pytest.mark.parametrize("text", ["1e3", "0100", "1:30", "yes", "null", "2024-01-02", "a: b", "ü"])
def test_text_that_looks_like_something_else_is_written_in_quotes(text):
    assert yaml_file.parse(yaml_file.dump({"key": text}), Path("s")) == {"key": text}
