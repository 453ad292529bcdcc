"""Only a run of the tests of a GPU may do without a package."""

from __future__ import annotations

import pytest
from fakes.selection import is_of_gpus


@pytest.mark.parametrize(
    ("expression", "asks"),
    [
        ("gpu", True),
        ("gpu and not slow", True),
        ("slow or gpu", True),
        ("", False),
        ("slow", False),
        ("not gpu", False),
        ("slow and not gpu", False),
        ("not gpu and not slow and not browser", False),
    ],
)
def test_an_expression_that_leaves_gpus_out_does_not_ask_for_them(expression, asks):
    assert is_of_gpus(expression) is asks
