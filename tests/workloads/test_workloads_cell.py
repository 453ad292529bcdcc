"""Identity of cells: stable over time, equal inside a pair, different elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes.cells import cell
from fakes.options import options_of

from retnet_bench.models.pattern import LayerChoice
from retnet_bench.workloads import Cell

CANONICAL = (
    '{"arm":"retnet","batch":2,"chunk":16,"corpus":"random","device":"cpu","dtype":"fp32",'
    '"family":"paper","kernel":"chunkwise","length":32,"match":"params",'
    '"measure":["time","memory"],"mixer":"retention","mode":"eager","seed":0,"size":"0.1M",'
    '"threads":1,"tokenizer":"random:64","vocab_size":64,"workload":"train"}'
)


def test_canonical_json_and_ids_stay_as_they_are():
    """Records written by earlier versions are found again by these ids."""
    assert cell().canonical() == CANONICAL
    assert cell().cell_id == "d441fb81a2753695"
    assert cell().pair_id == "62c85d822f864140"


def test_a_new_optional_field_leaves_old_ids_alone():
    @dataclass(frozen=True, kw_only=True)
    class Later(Cell):
        temperature: float | None = None

    same = Later(**vars(cell()))
    assert (same.cell_id, same.pair_id) == (cell().cell_id, cell().pair_id)
    assert replace(same, temperature=0.1).cell_id != cell().cell_id


@pytest.mark.parametrize("field", [f.name for f in fields(Cell)])
def test_every_field_is_part_of_the_cell_and_the_contract_of_the_pair(field):
    old: Any = getattr(cell(), field)
    new = replace(old, chunk=17) if field == "options" else f"{old}-other"
    if isinstance(old, int | None):
        new = (old or 0) + 1
    if isinstance(old, tuple):
        new = (*old, "x")[-1:]
    if field == "open":
        new = ("kernel",)
    if field == "tuned":
        new = "learning_rate"
    if field == "layers":
        new = (LayerChoice(mixer="attention", kernel="math", options=options_of("attention")),)
    other = replace(cell(), **{field: new})
    assert other.cell_id != cell().cell_id
    assert (other.pair_id == cell().pair_id) == (field in Cell.ARM_FIELDS)


def test_what_each_arm_has_from_its_own_sweep_is_no_part_of_the_contract():
    tuned = {"tuned": "batch, learning_rate"}
    pair = [cell(learning_rate=rate, batch=n, **tuned) for rate, n in ((1e-3, 4), (2e-3, 8))]
    assert pair[0].pair_id == pair[1].pair_id
    assert pair[0].cell_id != pair[1].cell_id
    assert pair[0].pair_id != cell(learning_rate=1e-3, batch=4, length=64, **tuned).pair_id
    said = {"learning_rate": 1e-3}
    assert cell(batch=4, **said).pair_id != cell(batch=8, **said).pair_id


def test_arms_of_a_pair_share_the_pair_only():
    arms = cell(), cell(mixer="attention", head_dim=16)
    assert arms[0].pair_id == arms[1].pair_id
    assert arms[0].cell_id != arms[1].cell_id


def test_matched_gives_equal_parameters():
    for family in ("paper", "modern"):
        configs = [cell(mixer=m, family=family).matched() for m in ("retention", "attention")]
        assert all(abs(found.mismatch) <= 0.01 for found in configs)
        assert [found.config.mixer for found in configs] == ["retention", "attention"]


def test_an_arm_with_a_family_of_its_own_stays_in_the_pair():
    modern = cell(arm_family="modern")
    assert modern.pair_id == cell().pair_id
    assert modern.matched().config.family == modern.block_family == "modern"
    assert cell().block_family == "paper"


RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("study", sorted(path.name for path in RESULTS.iterdir()))
def test_cells_of_shipped_records_are_read_as_they_were(study):
    parts = [*(RESULTS / study).rglob("records/*.parquet")]
    assert parts
    columns = ["cell_json", "cell_id", "pair_id"]
    rows = pd.concat(pd.read_parquet(part, columns=columns) for part in parts).drop_duplicates()
    for text, cell_id, pair_id in rows.itertuples(index=False):
        found = Cell.read(json.loads(text))
        assert (found.canonical(), found.cell_id, found.pair_id) == (text, cell_id, pair_id)
