"""Which cells of a folder count, once its study has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import scored

from retnet_bench.analysis.tables import curves
from retnet_bench.base import UserError
from retnet_bench.results import current
from retnet_bench.results.current import Listed
from retnet_bench.results.store import Store, earlier, read_records


def listed(cell: str, **changes: object) -> Listed:
    fields = {"cell_id": cell, "pair_id": f"of {cell}", "waits": False}
    return Listed(**{"workload": "perplexity", "arm": "retnet", "size": "a", **fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two trainings of one arm, size and seed, at the rate that a sweep led to before and now."""
    store = Store(tmp_path / "study")
    for cell, rate in (("before", 4e-3), ("now", 8e-3)):
        own = {"cell_id": cell, "learning_rate": rate, "tuned": "learning_rate"}
        about = scored.model("retnet", "a", 0, **own)
        store.append([*scored.scored(1.5, about)], cell)
    return store.folder


def test_cells_that_the_study_no_longer_has_are_left_out_and_named(folder, caplog):
    current.write(folder, [listed("now")])
    for _ in range(2):
        assert set(read_records(folder)["cell_id"]) == {"now"}
    (said,) = {record.getMessage() for record in caplog.records}
    assert said == (
        f"{folder}: 1 of 2 cells is of an earlier version of its study and left out, such as "
        "perplexity a retnet length 512 batch 2 learning_rate 0.004"
    )
    assert curves.perplexities(read_records(folder))["seeds"].tolist() == [1]
    assert earlier(folder) == {"before"}


def test_without_a_list_and_where_the_parts_are_named_every_cell_counts(folder, caplog):
    assert set(read_records(folder)["cell_id"]) == {"before", "now"}
    current.write(folder, [listed("now")])
    assert set(read_records(folder / "records")["cell_id"]) == {"before", "now"}
    assert set(read_records(folder / "records" / "before.parquet")["cell_id"]) == {"before"}
    assert not caplog.records


def test_a_folder_of_an_earlier_version_alone_is_one_line(folder):
    current.write(folder, [listed("next")])
    with pytest.raises(UserError) as caught:
        read_records(folder)
    words = "2 of 2 cells are of an earlier version of its study, and none of it as it is now"
    assert str(caught.value) == f"{folder}: {words}: run it again"


def test_what_eval_scored_is_of_no_study_and_counts(folder):
    own = {"cell_id": "scores", "study": current.EVAL}
    Store(folder).append([*scored.scored(1.5, scored.model("retnet", "a", 0, **own))], "scores")
    current.write(folder, [listed("now")])
    assert set(read_records(folder)["cell_id"]) == {"now", "scores"}


@pytest.mark.parametrize(("waits", "ids"), [(False, {"before", "now"}), (True, {"now"})])
def test_cells_have_other_ids_where_their_job_ran(folder, waits, ids):
    """Of a pair that waits for the sweep, a job can only have run for an earlier version."""
    (folder / "jobs").mkdir()
    (folder / "jobs" / "p.outcome.json").write_text(json.dumps({"cells": ["before"]}))
    current.write(folder, [listed("now"), listed("here", pair_id="p", waits=waits)])
    assert set(read_records(folder)["cell_id"]) == ids


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '[{"cell_id": 1}]', "null", "[" * 100_000])
def test_what_is_no_list_is_one_line(folder, text):
    (folder / current.NAME).write_text(text)
    with pytest.raises(UserError) as caught:
        read_records(folder)
    assert str(caught.value).startswith(
        f"{folder}/cells.json is no list of a study's cells; delete"
    )
