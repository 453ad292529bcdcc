"""The setting `parallel`: what is refused in one line, and what becomes a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fakes.cells import study as tiny

from retnet_bench.base import UserError
from retnet_bench.measure import cores
from retnet_bench.measure.reading import Reading
from retnet_bench.study import plan
from retnet_bench.study.study import Source, parse


def reasons(parallel: Any, workload: str = "train", **changes: Any) -> dict[str, str | None]:
    """Why each arm's cell can't be run."""
    own = {"workload": workload, "fixed": {"length": 64, "batch": 4, "parallel": parallel}}
    own["fixed"] |= changes.pop("fixed", {})
    text = yaml.safe_dump(tiny(workloads=[own], **changes))
    pairs = plan.make(parse(Source(Path("mine.yaml"), text)))
    return {p.cell.arm: p.unsupported for pair in pairs for p in pair}


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(cores, "allowed", lambda: Reading(list(range(8))))


@pytest.mark.parametrize(
    ("parallel", "words"),
    [
        (2, "workloads.0.fixed.parallel must be a mapping, is 2"),
        ({}, "workloads.0.fixed.parallel: is empty; say its ranks, such as {data: 2}"),
        ({"data": 0}, "parallel.data: input should be greater than 0, not 0"),
        ({"date": 2}, 'parallel: unknown key "date"; did you mean "data"'),
        ({"data": 2, "shard": "fdsp"}, 'parallel.shard: "fdsp" is unknown; did you mean "fsdp"'),
        ({"tensor": 2.0}, "parallel.tensor: "),
    ],
)
def test_what_is_no_layout_is_one_line(parallel, words):
    with pytest.raises(UserError) as error:
        reasons(parallel)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_workload_without_worlds_refuses_the_setting():
    own = {"steps": 1, "train_pairs": [2], "length": 64, "parallel": {"data": 2}}
    whole = tiny(
        fixed={"size": "0.1M", "threads": 1}, workloads=[{"workload": "recall", "fixed": own}]
    )
    with pytest.raises(UserError, match=r"parallel: workload recall does not read it; "):
        plan.make(parse(Source(Path("mine.yaml"), yaml.safe_dump(whole))))


@pytest.mark.parametrize(
    ("parallel", "changes", "words"),
    [
        ({"tensor": 3}, {}, "parallel: tensor 3 does not divide the 2 heads of retention; it can "),
        ({"data": 3}, {}, "parallel.data 3 does not divide batch 4"),
        ({"data": 2, "shard": "none", "tensor": 8}, {}, "tensor 8 does not divide the 2 heads"),
        ({"shard": "fsdp"}, {}, "shard fsdp shares weights over data ranks, of which there is one"),
        (
            {"data": 2},
            {"micro_batch": 4},
            "micro_batch 4 does not divide the 2 sequences of a rank",
        ),
        ({"data": 2}, {"mode": "compile"}, "parallel runs in mode eager, not compile"),
        ({"data": 2}, {"dtype": "fp16"}, "parallel takes no fp16"),
    ],
)
def test_what_a_model_can_t_do_is_a_record_with_the_reason(parallel, changes, words):
    found = reasons(parallel, fixed=changes)["retnet"]
    assert found is not None
    assert words in found


def test_a_world_larger_than_the_machine_says_both_numbers():
    found = reasons({"data": 4, "tensor": 1}, fixed={"batch": 4})
    assert found == {"retnet": None, "transformer": None}
    found = reasons({"data": 16}, fixed={"batch": 16})
    assert found["retnet"] == (
        "parallel asks for 16 ranks, 16 x 1, each on one of the cores of this machine, of which "
        "there are 8; more machines: run --on slurm --slurm nodes=N"
    )


def test_nccl_that_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    found = reasons({"data": 2}, fixed={"device": "cuda"})
    assert found["retnet"] == "this build of torch has no NCCL, which parallel needs on CUDA"


def test_a_mixer_that_says_no_split_refuses_in_one_line():
    arms = {"hyena": {"mixer": "hyena"}, "retnet": {"mixer": "retention"}}
    found = reasons({"tensor": 2}, arms=arms)
    assert found["retnet"] is None
    assert found["hyena"] == (
        "parallel: mixer hyena does not say how it is split; leave out tensor"
    )


def test_a_kernel_that_would_be_timed_is_named_instead():
    arms = {"open": {"mixer": "retention", "kernel": "auto"}, "retnet": {"mixer": "retention"}}
    found = reasons({"data": 2}, arms=arms)
    assert found == {
        "open": "parallel takes no kernel or chunk auto, which one process times; name one",
        "retnet": None,
    }


def test_inference_is_split_by_tensor_alone():
    assert reasons({"tensor": 2}, "prefill") == {"retnet": None, "transformer": None}
    found = reasons({"data": 2}, "decode")
    assert found["retnet"] == "parallel.data is 2: decode is split by tensor alone"
