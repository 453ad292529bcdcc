"""Cells of one name are told apart by what differs between them."""

from __future__ import annotations

import json

from retnet_bench.results.labels import differences


def test_cells_of_one_name_say_what_differs():
    cells = [
        {"arm": "a", "seed": 0, "learning_rate": 0.1, "steps": 9},
        {"arm": "a", "seed": 1, "learning_rate": 0.1, "steps": 9},
        {"arm": "a", "seed": 1, "steps": 9},
        {"arm": "b", "seed": 1, "steps": 9},
    ]
    texts = [json.dumps(cell) for cell in cells]
    named = [(cell["arm"], text) for cell, text in zip(cells, texts, strict=True)]
    found = differences(named)
    assert [found[cell] for cell in named] == [
        "learning_rate 0.1, seed 0",
        "learning_rate 0.1, seed 1",
        "learning_rate -, seed 1",
        "",
    ]


def test_a_cell_that_is_alone_under_another_name_is_still_told_apart():
    """Of two cells only one has a time: its row needs no settings, those of both others do."""
    one, two = '{"seed": 0}', '{"seed": 1}'
    found = differences([("loss", one), ("loss", two), ("time", one)])
    assert found == {("loss", one): "seed 0", ("loss", two): "seed 1", ("time", one): ""}
