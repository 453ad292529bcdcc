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
    found = differences((cell["arm"], text) for cell, text in zip(cells, texts, strict=True))
    assert [found[text] for text in texts] == [
        "learning_rate 0.1, seed 0",
        "learning_rate 0.1, seed 1",
        "learning_rate -, seed 1",
        "",
    ]
