"""Worlds of two and of four processes: they train what one process trains."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fakes import worlds
from fakes.cells import cell
from workloads.worlds_tasks import three_steps

from retnet_bench.models import MIXERS
from retnet_bench.workloads import Cell
from retnet_bench.workloads.settings import Parallel

CLAIMED = [name for name, mixer in MIXERS.items() if mixer.columns]
TWO = [Parallel(data=2), Parallel(data=2, shard="fsdp"), Parallel(tensor=2)]
FOUR = [Parallel(data=2, shard="fsdp", tensor=2), Parallel(data=2, tensor=2)]
LIMIT = 1e-6
"""Relative, in fp32."""


def trained(mixer: str, **changes: Any) -> Cell:
    return cell(mixer=mixer, batch=4, **changes)


@cache
def alone(found: Cell) -> dict[str, Any]:
    return three_steps(0, None, found)


def agrees(found: Cell, parallel: Parallel, folder: Path) -> None:
    expected = alone(found)
    ranks = worlds.run(three_steps, parallel.ranks, folder, replace(found, parallel=parallel))
    for rank in ranks:
        assert rank["losses"] == pytest.approx(expected["losses"], rel=LIMIT)
        assert rank["norms"] == pytest.approx(expected["norms"], rel=LIMIT)
        assert rank["weights"].keys() == expected["weights"].keys()
        for name, weight in expected["weights"].items():
            off = (rank["weights"][name] - weight).norm() / weight.norm()
            assert off <= LIMIT, (name, off)
    held = {rank["held"] for rank in ranks}
    whole = expected["held"]
    if parallel.shard == "fsdp" and parallel.tensor == 1:
        assert sum(rank["held"] for rank in ranks) == whole
    if parallel.shard == "none" and parallel.tensor == 1:
        assert held == {whole}


@pytest.mark.parametrize("parallel", TWO, ids=str)
@pytest.mark.parametrize("mixer", ["retention", "attention"])
def test_two_ranks_train_what_one_process_trains(mixer, parallel, tmp_path):
    agrees(trained(mixer), parallel, tmp_path / "world")
