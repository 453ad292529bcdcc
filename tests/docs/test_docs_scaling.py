"""The Python of docs/scaling.md runs, also on results that have no joint law."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scaling.md").read_text(), re.DOTALL)


def test_there_is_one():
    assert CODE


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ("scaling", "retnet both all models"),
        ("perplexity", "no joint law"),
    ],
)
def test_it_runs_and_says_what_is_not_fitted(monkeypatch, capsys, results, words):
    monkeypatch.chdir(ROOT)
    for code in CODE:
        exec(code.replace("results/scaling", f"results/{results}"), {})
    assert words in capsys.readouterr().out
