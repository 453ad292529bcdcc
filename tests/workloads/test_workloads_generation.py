"""What a task may say of the text it wants."""

from __future__ import annotations

import pytest

from retnet_bench.base import UserError
from retnet_bench.workloads.generation import LIMITS, Writing


@pytest.mark.parametrize("name", LIMITS)
def test_each_name_of_the_limit_is_heeded(name):
    assert Writing.of({name: 7}).most == 7
    assert Writing.of({name: "7"}).most == 7
    assert Writing.of({name: None}).most == 256


def test_the_first_name_of_the_limit_counts():
    assert Writing.of({"max_tokens": 3, "max_gen_toks": 7, "max_new_tokens": 9}).most == 7


@pytest.mark.parametrize("value", [0, -1, "many", [3], float("nan"), float("inf")])
def test_a_limit_that_is_no_count(value):
    with pytest.raises(UserError, match=r"the task's max_tokens is .*; it wants a count of tokens"):
        Writing.of({"max_tokens": value})


@pytest.mark.parametrize(
    ("until", "stops"),
    [
        ("\n", ("\n",)),
        (["a", "b"], ("a", "b")),
        (["", None, "a"], ("a",)),
        ("", ()),
        (None, ()),
        ([], ()),
    ],
)
def test_empty_and_null_stop_words_are_dropped(until, stops):
    writing = Writing.of({"until": until})
    assert writing.stops == stops
    assert writing.cut("x\ny") == ("x" if stops == ("\n",) else "x\ny")
    assert not writing.is_done(1, "x")


def test_text_ends_before_the_first_stop_word_or_at_the_limit():
    writing = Writing.of({"until": ["b", "a"], "max_gen_toks": 3})
    assert writing.is_done(1, "xa")
    assert writing.is_done(3, "xyz")
    assert not writing.is_done(2, "xy")
    assert writing.cut("xayb") == "x"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": [5]}, "the task's until holds 5, which is no text; quote it"),
        ({"until": {"a": 1}}, "the task's until holds .*, which is no text"),
        ({"do_sample": True}, "the task wants sampled text"),
        ({"temperature": 0.7}, "the task wants sampled text"),
        ({"max_length": 20}, "the task's max_length counts its context too; say max_gen_toks"),
        ({"num_beams": 4}, "generation_kwargs say num_beams: 4, which greedy text does not heed"),
        ({"max_gen_tok": 4}, 'does not heed; did you mean "max_gen_toks"'),
    ],
)
def test_what_greedy_text_can_t_meet_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Writing.of(options)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False, "temperature": 0.7, "top_p": 0.9},
        {"do_sample": True, "temperature": 0.0},
        {"temperature": 0},
        {"num_beams": 1, "repetition_penalty": 1.0},
    ],
)
def test_what_says_greedy_is_accepted(options):
    assert Writing.of(options) == Writing(256, ())
