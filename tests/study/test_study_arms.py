"""An arm of every mixer, said in one line; the study `exact_mixers`, which has one of each so that
none is forgotten."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fakes import cells
from fakes.causal_mean import CausalMean

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS
from retnet_bench.models import MIXERS
from retnet_bench.results import store
from retnet_bench.study import plan
from retnet_bench.study import study as studies
from retnet_bench.workloads import Cell

RECORDED = Path(__file__).parents[2] / "results" / "exact_mixers"
OURS = [name for name, mixer in MIXERS.items() if mixer.__module__.startswith("retnet_bench.")]


def parsed(**arms) -> studies.Study:
    text = yaml.safe_dump(cells.study(arms=arms), sort_keys=False)
    return studies.parse(studies.Source(Path("s.yaml"), text))


def test_every_is_an_arm_of_each_mixer_with_the_same_settings(monkeypatch):
    monkeypatch.setitem(MIXERS._items, "mean", CausalMean)
    study = parsed(first={"mixer": "attention"}, each={"mixer": "every", "family": "modern"})
    assert list(study.arms) == ["first", *MIXERS]
    assert study.arms["mean"].mixer == "mean"
    each = [arm for name, arm in study.arms.items() if name != "first"]
    assert [arm.mixer for arm in each] == list(MIXERS)
    assert {arm.family for arm in each} == {"modern"}
    assert study.n_cells == 2 * (1 + len(MIXERS))


def test_an_arm_that_stands_beside_it_is_left_as_it_is():
    study = parsed(each={"mixer": "every"}, gla={"mixer": "attention"})
    assert study.arms["gla"].mixer == "attention"
    assert sorted(study.arms) == sorted(MIXERS)


@pytest.mark.parametrize(
    "setting", [{"chunk": 16}, {"kernel": "sdpa"}, {"layers": ["gla"]}, {"checkpoint": "x"}]
)
def test_a_setting_of_one_mixer_is_refused_where_the_file_says_it(setting):
    (key,) = setting
    with pytest.raises(UserError, match=rf"arms\.each\.{key}: mixer every takes family alone"):
        parsed(each={"mixer": "every", **setting})


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"mixer": "retentoin"}, 'arms.odd: unknown mixer "retentoin"; did you mean "retention"?'),
        (
            {"mixer": "retention", "kernel": "chunkwize"},
            'arms.odd.kernel: unknown kernel "chunkwize"; did you mean "chunkwise"?',
        ),
        (
            {"mixer": "retention", "kernel": "AUTO"},
            'arms.odd.kernel: unknown kernel "AUTO"; did you mean "auto"?',
        ),
        (
            {"mixer": "attention", "kernel": "flash_atn"},
            'arms.odd.kernel: unknown kernel "flash_atn"; did you mean "flash_attn"?',
        ),
        (
            {"mixer": "retention", "kernel": "flash_atn"},
            'arms.odd.kernel: unknown kernel "flash_atn"; choose from auto, chunkwise, fla, '
            "parallel, recurrent",
        ),
        (
            {"mixer": "retention", "kernel": "flash_attn"},
            "arms.odd.kernel: kernel flash_attn computes attention, not retention; choose from "
            "chunkwise, parallel, recurrent, fla, auto",
        ),
        (
            {"mixer": "gla", "kernel": "sdpa"},
            "arms.odd.kernel: kernel sdpa computes attention, not channel_decay; choose from",
        ),
        ({"layers": ["gla", "atention"]}, 'arms.odd.layers.1: unknown mixer "atention"; did you'),
        ({"layers": ["gla", {"mixer": "every"}]}, "arms.odd.layers.1: mixer every stands for arms"),
        (
            {"layers": ["gla", {"mixer": "attention", "kernel": "chunkwise"}]},
            "arms.odd.layers.1.kernel: kernel chunkwise computes retention, not attention; choose",
        ),
        (
            {"layers": ["gla", {"mixer": "attention", "kv_heads": 3}]},
            "arms.odd: layers.1: kv_heads 3 does not divide the 2 heads; choose one of 1, 2",
        ),
        ({"mixer": "gla", "checkpoint": "x"}, "arms.odd.checkpoint: workload decode, train does n"),
    ],
)
def test_a_fault_of_an_arm_is_said_with_its_place(arm, message):
    with pytest.raises(UserError, match=re.escape(message)):
        plan.make(parsed(odd=arm))


def test_every_is_said_once():
    with pytest.raises(UserError, match=r"arms\.b: mixer every is said in arms\.a, too"):
        parsed(a={"mixer": "every"}, b={"mixer": "every", "family": "modern"})


def test_every_mixer_can_run_in_the_study_of_exact_figures():
    pairs = plan.make(studies.load("exact_mixers")[0])
    for pair in pairs:
        assert {p.cell.mixer for p in pair} >= {*OURS, "hybrid"}
        assert [(p.cell.arm, p.unsupported) for p in pair if p.unsupported] == []


def test_every_mixer_is_recorded():
    pairs = plan.make(studies.load("exact_mixers")[0])
    kept = store.read_records(RECORDED)[["workload", "arm"]].drop_duplicates()
    recorded = set(kept.itertuples(index=False, name=None))
    wanted = {(p.cell.workload, p.cell.arm) for pair in pairs for p in pair}
    lacking = sorted({arm for workload, arm in wanted - recorded})
    words = "record all anew: rm -r results/exact_mixers && "
    words += "retnet-bench run exact_mixers --no-plot --out results/exact_mixers"
    assert not lacking, f"results/exact_mixers has no cell of {', '.join(lacking)}; {words}"


# --- kernels and chunks that are left open -------------------------------------------------------


def train_cell(**arm):
    return plan.make(parsed(a=arm))[0][0].cell


def test_auto_leaves_it_open_and_nothing_said_is_as_it_was():
    plain = train_cell(mixer="retention", chunk=16)
    assert not plain.is_open
    assert '"kernel":"chunkwise"' in plain.canonical()
    left = train_cell(mixer="retention", chunk=16, kernel="auto")
    assert left.open == ("kernel",)
    assert (left.kernel, left.asked_kernel) == ("chunkwise", "auto")
    assert left.cell_id != plain.cell_id
    assert left.pair_id == plain.pair_id
    both = train_cell(mixer="retention", chunk="auto", kernel="auto")
    assert both.open == ("kernel", "chunk")
    assert both.options.chunk == 128
    assert '"chunk":"auto"' in both.canonical()
    for one in (plain, left, both):
        assert Cell.read(json.loads(one.canonical())) == one


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"mixer": "attention", "chunk": "auto"}, "arms.a.chunk: mixer attention does not read it"),
        (
            {"mixer": "retention", "kernel": "parallel", "chunk": "auto"},
            "arms.a.chunk: kernel parallel does not read it",
        ),
        (
            {"mixer": "retention", "chunk": "atuo"},
            "arms.a.chunk: must be a number or auto, is atuo",
        ),
        (
            {"mixer": "retention", "chunk": ["auto"]},
            "arms.a.chunk: must be a number or auto, is ['auto']",
        ),
        ({"mixer": "retention", "chunk": True}, "arms.a.chunk: must be a number or auto, is True"),
        ({"mixer": "retention", "open": ["kernel"]}, "arms.a.open: mixer retention does not read"),
    ],
)
def test_what_can_t_be_left_open_is_one_line(arm, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        plan.make(parsed(a=arm))
    assert "\n" not in str(caught.value)


def test_where_no_kernel_runs_the_cell_says_why_each_does_not(monkeypatch):
    for name in ("sdpa", "math"):
        only = replace(KERNELS[name], devices=("cuda",))
        monkeypatch.setitem(KERNELS._items, name, only)
    (planned,) = plan.make(parsed(a={"mixer": "attention", "kernel": "auto"}))[0]
    assert planned.unsupported.startswith(
        "kernel auto: none runs here: sdpa needs a CUDA device; math needs a CUDA device; "
    )
