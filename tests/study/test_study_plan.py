"""Cells of a study in the order they run, and the time a whole cell is charged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.cells import QUICK, cell

from retnet_bench.measure.protocol import Protocol
from retnet_bench.study import plan
from retnet_bench.study.plan import Planned


def test_time_and_memory_are_charged_only_where_they_are_taken():
    def seconds(protocol: Protocol = QUICK, measure: tuple[str, ...] = ("time", "memory")) -> float:
        return plan.cell_seconds(Planned(cell(measure=measure), protocol, None), 1e-3)

    assert seconds(measure=("memory",)) < seconds(measure=("time",)) < seconds()
    more = replace(QUICK, blocks=QUICK.blocks + 3)
    assert seconds(more) - seconds() == pytest.approx(3 * QUICK.block_s)
    twice = replace(QUICK, processes=2)
    assert seconds(twice) - seconds() == pytest.approx(
        seconds(measure=("time",)) - plan.START_S + plan.FURTHER_START_S
    )
    assert seconds(twice, ("memory",)) == seconds(measure=("memory",))


def test_only_what_is_timed_has_several_processes():
    several = replace(QUICK, processes=3)
    assert Planned(cell(), several, None).processes == 3
    assert Planned(cell("perplexity"), several, None).processes == 1
    assert Planned(cell(measure=("memory",)), several, None).processes == 1


def test_a_self_test_pairs_each_timed_cell_with_its_twin():
    able = Planned(cell(), QUICK, None)
    lost = Planned(cell(mixer="attention"), QUICK, "no such GPU")
    untimed = Planned(cell("decode", measure=("memory",)), QUICK, None)
    ((first, again),) = plan.against_itself([[able, lost], [untimed]])
    assert (first.cell.arm, again.cell.arm) == ("retnet", "retnet~again")
    assert first.cell.pair_id == again.cell.pair_id
    assert first.cell.measure == ("time",)
    assert replace(again.cell, arm="retnet") == first.cell
