"""Older parts in today's layout: what `phase` and `position` meant is told by the metric."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.parts import of_version, written
from golden.records import FOLDER, coordinates, small_study

from retnet_bench.base import UserError, short_hash
from retnet_bench.results import migrations, part
from retnet_bench.results.coordinates import COORDINATES, split
from retnet_bench.results.schema import NAMES, SCHEMA_VERSION
from retnet_bench.results.store import Store, read_records

OLD = {
    ("forms_relative_error", "fp64", None): {"phase": "check", "check": "fp64"},
    ("forms_relative_error", "compile", None): {"phase": "check", "check": "compile"},
    ("decode_step_s", "decode", 512): {"phase": "decode", "position": 512},
    ("state_bytes", "decode", 512): {"phase": "decode", "position": 512},
    ("loss_after_steps_nat", "train", 5): {"phase": "train", "step": 5},
    ("train_loss_nat", "train", 2048): {"phase": "train", "tokens_seen": 2048},
    ("document_nll_nat", "chunked", None): {"phase": "score", "context": "chunked"},
    ("context_nll_nat", "window", 256): {
        "phase": "score",
        "context": "window",
        "context_length": 256,
    },
    ("position_nll_nat", "carried", 128): {
        "phase": "score",
        "context": "carried",
        "position": 128,
    },
    ("acc", "4-shot", None): {"phase": "score", "shots": 4},
    ("exact_match", "4-shot strict match", None): {
        "phase": "score",
        "shots": 4,
        "filter": "strict match",
    },
    ("other_score", "4-shot bleu", None): {"phase": "score", "shots": 4, "score": "bleu"},
    ("other_score", "4-shot first line bleu", None): {
        "phase": "score",
        "shots": 4,
        "filter": "first line",
        "score": "bleu",
    },
    ("warmup_s", "warmup", None): {"phase": "warmup"},
    ("timed_s", "stop", None): {"phase": "stop"},
    ("peak_rss_bytes", "train", None): {"phase": "train"},
    ("outcome", None, None): {},
}
"""Metric, phase and position of versions 1 and 2, and what they meant."""


@pytest.mark.parametrize("old", OLD, ids=[f"{metric} {phase}" for metric, phase, _ in OLD])
def test_each_meaning_has_its_column(old):
    assert split(*old) == OLD[old]


def old_coordinates() -> list[dict]:
    """Those of `coordinates` that version 2 had."""
    return [row for row in coordinates() if not row.keys() & {"pairs", "candidate"}]


def as_version_2(rows: list[dict]) -> pa.Table:
    """The rows of `coordinates`, as version 2 would have written them."""
    table = pa.Table.from_pylist(
        [
            {name: row.get(name) for name in NAMES}
            | {"schema_version": 2, "value": row["samples"][0]}
            for row in rows
        ],
        schema=pq.read_schema(FOLDER / f"v{SCHEMA_VERSION}_coordinates.parquet"),
    )
    old = list(OLD)[: len(rows)]
    for name, values in (("phase", [o[1] for o in old]), ("position", [o[2] for o in old])):
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table[name].type))
    return of_version(table.select(migrations.names(2)), b"2")


def test_a_part_of_version_2_reads_as_the_same_records_today(tmp_path):
    rows = old_coordinates()
    assert [row["metric"] for row in rows] == [metric for metric, _, _ in list(OLD)[: len(rows)]]
    (tmp_path / "old.parquet").write_bytes(written(as_version_2(rows)))
    old = read_records(tmp_path / "old.parquet")
    new = read_records(FOLDER / f"v{SCHEMA_VERSION}_coordinates.parquet")[: len(rows)]
    version = "schema_version"
    pd.testing.assert_frame_equal(old.drop(columns=version), new.drop(columns=version))


@pytest.mark.parametrize("version", range(3, SCHEMA_VERSION + 1))
def test_golden_coordinates_stay_readable(version):
    table = read_records(FOLDER / f"v{version}_coordinates.parquet")
    rows = coordinates()[: len(table)]  # later versions add to them
    assert len(rows) >= 16
    for row, wanted in zip(table.to_dict("records"), rows, strict=True):
        for name in COORDINATES:
            assert row[name] == wanted[name] if wanted.get(name) is not None else pd.isna(row[name])
        assert row["environment_json"] == wanted["environment_json"]
        assert row["environment_id"] == short_hash(wanted["environment_json"])


@pytest.mark.parametrize(
    ("cell", "split"),
    [
        ({"workload": "perplexity"}, "valid"),
        ({"workload": "tune"}, "valid"),
        ({"workload": "perplexity", "score_split": "test"}, "test"),
        ({"workload": "train"}, None),
        ({}, None),
    ],
)
def test_version_8_said_what_was_scored_in_the_cell_alone(cell, split):
    table = pq.read_table(FOLDER / "v8_small.parquet")
    at = table.column_names.index("cell_json")
    texts = pa.array([json.dumps(cell)] * len(table)).dictionary_encode()
    new = migrations.migrated(table.set_column(at, "cell_json", pa.chunked_array([texts])), 8)
    assert set(new["score_split"].to_pylist()) == {split}


def test_a_row_that_stands_in_two_layouts_counts_once(tmp_path):
    rows = old_coordinates()
    new = Store(tmp_path).append(rows, "new")
    alone = read_records(new)
    (new.parent / "old.parquet").write_bytes(written(as_version_2(rows)))
    assert (
        read_records(tmp_path)
        .drop(columns="schema_version")
        .equals(alone.drop(columns="schema_version"))
    )


def test_an_environment_stands_once_in_a_part(tmp_path):
    path = Store(tmp_path).append(coordinates(), "a")
    plain = pd.read_parquet(path)
    assert plain["environment_json"].notna().sum() == 2
    assert plain["environment_id"].notna().all()
    models = [json.loads(text)["cpu"]["model"] for text in read_records(path)["environment_json"]]
    assert models == (["A", "B"] * len(models))[: len(models)]


def test_an_environment_under_another_id_is_refused(tmp_path):
    path = Store(tmp_path).append(coordinates(), "a")
    table = pq.read_table(path)
    at = table.column_names.index("environment_id")
    ids = pa.array(["0" * 16] * len(table))
    path.write_bytes(written(table.set_column(at, "environment_id", ids)))
    with pytest.raises(UserError, match="has an environment_json that is not that of 0000"):
        read_records(path)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_part_cannot_be_older_than_its_columns(tmp_path, version):
    path = Store(tmp_path).append(small_study(), "a")
    path.write_bytes(written(of_version(pq.read_table(path), str(version).encode())))
    with pytest.raises(UserError, match=f"which its schema version {version} has not"):
        read_records(path)


def test_one_column_of_an_old_part_can_be_read():
    table = part.read(Path(FOLDER / "v1_small.parquet"), ["cell_id", "check"])
    assert table.column_names == ["cell_id", "check"]


def test_an_environment_that_the_part_lacks_is_refused(tmp_path):
    path = Store(tmp_path).append(coordinates(), "a")
    table = pq.read_table(path)
    at = table.column_names.index("environment_json")
    nothing = pa.nulls(len(table), pa.string())
    path.write_bytes(written(table.set_column(at, "environment_json", nothing)))
    with pytest.raises(UserError, match="has no environment_json of the environment_id"):
        read_records(path)
