"""MQAR sequences: built as the paper builds them, and drawn as its formula says."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.base import UserError
from retnet_bench.data.mqar import SLOT_POWER, Mqar, Queries

QUICK = settings(max_examples=60)


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Mqar, int, int]:
    pairs = draw(st.integers(1, 12))
    length = 2 * draw(st.integers(2 * pairs, 2 * pairs + 20))
    vocabulary = draw(st.integers(length + 1, length + 60))
    filler = draw(st.sampled_from(["zero", "random"]))
    seed = draw(st.integers(0, 2**32 - 1))
    return Mqar(vocabulary=vocabulary, length=length, filler=filler), pairs, seed


def drawn(task: Mqar, pairs: int, seed: int, n: int = 20) -> Queries:
    return next(task.training(seed, n, (pairs,)))


@QUICK
@given(tasks())
def test_a_query_is_a_key_that_comes_again_and_its_target_the_value(of):
    task, pairs, _ = of
    inputs, positions, targets = drawn(*of)
    V, T = task.vocabulary, task.length
    assert inputs.shape == (20, T)
    assert positions.shape == targets.shape == (20, pairs)
    for row, at, answers in zip(inputs.tolist(), positions.tolist(), targets.tolist(), strict=True):
        keys, values = row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2]
        assert all(1 <= key < V // 2 <= value < V for key, value in zip(keys, values, strict=True))
        assert len({*keys}) == len({*values}) == len({*at}) == pairs
        assert answers == values
        assert [row[p] for p in at] == keys
        assert all(2 * pairs <= p < T and p % 2 == 0 for p in at)
        rest = [token for p, token in enumerate(row[2 * pairs :], 2 * pairs) if p not in at]
        assert not {*rest} & {*keys}, "filler asks for nothing"
        assert all(0 <= token < V for token in rest)
        if task.filler == "zero":
            assert not any(rest)


@QUICK
@given(tasks())
def test_a_seed_fixes_every_token_and_another_does_not(of):
    task, pairs, seed = of
    for a, b in zip(drawn(*of), drawn(*of), strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(drawn(*of).inputs, drawn(task, pairs, seed + 1).inputs)


def test_training_goes_on_where_it_stopped():
    task = Mqar(vocabulary=128, length=64, filler="random")
    whole = list(islice(task.training(3, 4, (4, 8, 16)), 12))
    later = list(islice(task.training(3, 4, (4, 8, 16), start=5), 7))
    for a, b in zip(whole[5:], later, strict=True):
        assert all(map(np.array_equal, a, b))
    counts = [batch.targets.shape[1] for batch in islice(task.training(0, 1, (4, 8, 16)), 600)]
    assert {n: counts.count(n) > 150 for n in (4, 8, 16)} == {4: True, 8: True, 16: True}


def test_no_split_has_a_sequence_of_another():
    task = Mqar(vocabulary=1024, length=64)
    rows = [
        {*map(bytes, split.inputs)}
        for split in (
            task.held_out("valid", 500, 8),
            task.held_out("test", 500, 8),
            next(task.training(0, 500, (8,))),
        )
    ]
    assert not rows[0] & rows[1] | rows[0] & rows[2] | rows[1] & rows[2]
    first, again = task.held_out("test", 500, 8), task.held_out("test", 500, 8)
    assert all(map(np.array_equal, first, again))


@pytest.mark.parametrize(("length", "pairs", "share"), [(64, 4, 0.0625), (64, 16, 0.25)])
def test_the_supervised_share_of_positions(length, pairs, share):
    _, positions, _ = drawn(Mqar(vocabulary=1024, length=length), pairs, 0)
    assert positions.size / (20 * length) == share


def _shares(slots: int) -> np.ndarray:
    """How often each slot holds the first key, p(j) of the formula, and how often the second, which
    is drawn among those that are left."""
    weights = np.arange(1, slots + 1) ** (SLOT_POWER - 1)
    p = weights / weights.sum()
    second = p * ((p / (1 - p)).sum() - p / (1 - p))
    return np.stack([p, second])


def test_slots_are_drawn_by_the_power_law_without_replacement():
    n, pairs = 40_000, 4
    _, positions, _ = drawn(Mqar(vocabulary=128, length=64), pairs, 0, n)
    slots = (positions - 2 * pairs) // 2
    expected = _shares(28)
    for key in range(2):
        found = np.bincount(slots[:, key], minlength=28) / n
        error = (expected[key] * (1 - expected[key]) / n) ** 0.5
        assert (np.abs(found - expected[key]) < 4.5 * error).all()
    assert (slots == 0).any(1).mean() == pytest.approx(0.72, abs=0.01)  # by numpy's own choice()


def test_keys_values_and_filler_are_uniform():
    n, task = 40_000, Mqar(vocabulary=20, length=12, filler="random")
    inputs, positions, targets = drawn(task, 3, 1, n)
    keys = np.bincount(inputs[:, 0:6:2].ravel(), minlength=20)[1:10] / (3 * n)
    assert np.abs(keys - 1 / 9).max() < 0.005
    assert np.abs(np.bincount(targets.ravel(), minlength=20)[10:] / (3 * n) - 0.1).max() < 0.005
    rest = np.ones_like(inputs, bool)
    rest[:, :6] = False
    np.put_along_axis(rest, positions, False, axis=1)
    filler = np.bincount(inputs[rest], minlength=20) / rest.sum()
    # A key is refused in the third of all rows in which it is one of the three.
    assert np.abs(filler[[0, *range(10, 20)]] - 1 / 17).max() < 0.003
    assert np.abs(filler[1:10] - (2 / 3) / 17).max() < 0.003


def test_every_slot_and_every_key_can_be_taken():
    task = Mqar(vocabulary=9, length=8)
    inputs, positions, _ = drawn(task, 2, 0)
    assert {tuple(sorted(row)) for row in positions.tolist()} == {(4, 6)}
    assert {*inputs[:, 0].tolist()} == {1, 2, 3}


@pytest.mark.parametrize(
    ("fields", "pairs", "words"),
    [
        ({"vocabulary": 64, "length": 64}, 4, "vocabulary 64 is too small for length 64"),
        ({"vocabulary": 64, "length": 63}, 4, "length 63 is odd"),
        ({"vocabulary": 128, "length": 64}, 17, "17 pairs don't fit in length 64.*length of 68"),
        ({"vocabulary": 128, "length": 64}, 0, "at least one pair, not 0"),
    ],
)
def test_what_does_not_fit_is_one_line(fields, pairs, words):
    with pytest.raises(UserError, match=words) as caught:
        Mqar(**fields).check(pairs)
    assert "\n" not in str(caught.value)
