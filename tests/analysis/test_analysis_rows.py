"""Numbers of groups: as pandas gives them, which the tables were first made with."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.analysis.tables import rows

WORDS = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))
NUMBERS = st.one_of(st.just(float("nan")), st.integers(0, 3).map(float))


@given(st.lists(st.tuples(WORDS, NUMBERS), max_size=30))
def test_rows_are_numbered_as_pandas_numbers_groups(values):
    frame = pd.DataFrame(values, columns=["word", "number"])
    expected = frame.groupby(["word", "number"], dropna=False).ngroup()
    assert rows._numbers([frame["word"], frame["number"]]).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"size": ["a", "b", "a", "b"], "batch": [1, 2, 1, 2]}, ["arm", "size"]),  # one says it all
        ({"size": ["a", "a", "b", "b"], "batch": [1, 2, 1, 1]}, ["arm", "size", "batch"]),
        ({"size": ["a", None, None, "a"], "batch": [1, 1, 1, 1]}, ["arm", "size"]),
        ({"size": [None, np.nan, None, None], "batch": [1, 1, 1, 1]}, ["arm"]),  # nulls are equal
    ],
)
def test_columns_are_kept_while_they_tell_rows_apart(columns, found):
    frame = pd.DataFrame({"arm": ["x"] * 4, **columns})
    assert rows._with_varying(frame, ["arm"], ["size", "batch"]) == found
