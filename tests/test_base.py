"""The ground: suggestions and registries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.base import Registry, UserError, did_you_mean, natural

NAMES = ["chunkwise", "parallel", "recurrent"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("chunkwize", '; did you mean "chunkwise"?'),
        ("Parallel", '; did you mean "parallel"?'),
        ("xyz", "; choose from chunkwise, parallel, recurrent"),
        ("", "; choose from chunkwise, parallel, recurrent"),
        (3, "; choose from chunkwise, parallel, recurrent"),
        (None, "; choose from chunkwise, parallel, recurrent"),
    ],
)
def test_a_near_miss_is_suggested_else_all_are_listed(word, said):
    assert did_you_mean(word, reversed(NAMES)) == said


def test_nothing_to_choose_from_says_nothing():
    assert did_you_mean("x", []) == ""


def test_numbers_are_listed_by_size():
    assert sorted(["3M", "0.8M", "1.3B", "12k"], key=natural) == ["12k", "0.8M", "3M", "1.3B"]
    assert sorted(["nan", "fp32", "4096", "512"], key=natural) == ["512", "4096", "fp32", "nan"]
    assert did_you_mean(7, ["16384", "2048", "1024"]) == "; choose from 1024, 2048, 16384"


@given(st.text(), st.lists(st.text(min_size=1, alphabet=st.characters(codec="ascii"))))
def test_a_suggestion_is_always_one_of_the_choices(word, choices):
    said = did_you_mean(word, choices)
    assert said == "" or any(choice in said for choice in choices)


@pytest.fixture
def registry() -> Registry[int]:
    made: Registry[int] = Registry("kernel")
    for i, name in enumerate(NAMES):
        assert made.add(name, i) == i
    return made


def test_a_registry_keeps_order_and_finds(registry):
    assert list(registry) == NAMES
    assert list(registry.items()) == [("chunkwise", 0), ("parallel", 1), ("recurrent", 2)]
    assert registry["parallel"] == 1
    assert "parallel" in registry
    assert "paralel" not in registry
    assert 3 not in registry


def test_an_unknown_name_is_the_user_s_mistake(registry):
    with pytest.raises(UserError) as caught:
        registry["paralel"]
    assert str(caught.value) == 'unknown kernel "paralel"; did you mean "parallel"?'
    assert caught.value.__suppress_context__  # --debug shows the mistake, not the dictionary's


def test_a_name_taken_twice_is_a_bug_of_ours(registry):
    with pytest.raises(AssertionError, match="kernel 'parallel' is registered twice"):
        registry.add("parallel", 9)
    assert registry["parallel"] == 1


def test_register_returns_what_it_decorates():
    made: Registry[type] = Registry("workload")

    @made.register("train")
    class Train:
        pass

    assert made["train"] is Train


def test_the_other_case_is_a_near_miss_however_short():
    assert did_you_mean("3m", ["3M", "13B"]) == '; did you mean "3M"?'
