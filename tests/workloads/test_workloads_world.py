"""Worlds of two and of four processes: they train what one process trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import worlds
from fakes.cells import cell, texts
from workloads.worlds_tasks import learned, logits, three_steps

from retnet_bench.models import MIXERS
from retnet_bench.workloads import Cell
from retnet_bench.workloads.settings import Parallel

CLAIMED = [name for name, mixer in MIXERS.items() if mixer.columns]
TWO = [Parallel(data=2), Parallel(data=2, shard="fsdp"), Parallel(tensor=2)]
FOUR = [Parallel(data=2, shard="fsdp", tensor=2), Parallel(data=2, tensor=2)]
LIMIT = 1e-6
"""Relative, of losses and gradient norms."""
PARAMETERS = 1e-5
"""Relative, of all parameters together. AdamW's first steps are of one length however small a
gradient is, and so turn the rounding of those near 0 into more than rounding."""


CHECKPOINT = 1e-4
"""Relative, of each tensor of a checkpoint by itself."""


def trained(mixer: str, **changes: Any) -> Cell:
    return cell(mixer=mixer, batch=4, **changes)


@cache
def alone(found: Cell) -> dict[str, Any]:
    return three_steps(0, None, found)


def agrees(found: Cell, parallel: Parallel, folder: Path, norms: float = LIMIT) -> None:
    """`norms`: relative limit of the gradient norms."""
    expected = alone(found)
    ranks = worlds.run(three_steps, parallel.ranks, folder, replace(found, parallel=parallel))
    for rank in ranks:
        assert rank["losses"] == pytest.approx(expected["losses"], rel=LIMIT)
        assert rank["norms"] == pytest.approx(expected["norms"], rel=norms)
        assert rank["weights"].keys() == expected["weights"].keys()
        off = _norm([rank["weights"][name] - w for name, w in expected["weights"].items()])
        assert off <= PARAMETERS * _norm(expected["weights"].values())
    held = {rank["held"] for rank in ranks}
    whole = expected["held"]
    if parallel.shard == "fsdp" and parallel.tensor == 1:
        assert sum(rank["held"] for rank in ranks) == whole
    if parallel.shard == "none" and parallel.tensor == 1:
        assert held == {whole}


def _norm(tensors: Iterable[torch.Tensor]) -> float:
    return torch.stack([tensor.norm() for tensor in tensors]).norm().item()


@pytest.mark.parametrize("parallel", TWO, ids=str)
@pytest.mark.parametrize("mixer", ["retention", "attention"])
def test_two_ranks_train_what_one_process_trains(mixer, parallel, tmp_path):
    agrees(trained(mixer), parallel, tmp_path / "world")


def rounding(found: Cell) -> float:
    """How far fp32 alone moves one process's gradient norms from those of fp64, in the step that
    it moves most: 8e-5 at most (gated_retention's first step). One step's is a draw that may be
    next to nothing."""
    wanted = alone(replace(found, dtype="fp64"))["norms"]
    return max(abs(g / exact - 1) for g, exact in zip(alone(found)["norms"], wanted, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [*TWO, *FOUR], ids=str)
@pytest.mark.parametrize("mixer", CLAIMED)
def test_every_mixer_that_claims_a_split_trains_so(mixer, parallel, tmp_path):
    """In fp64 to the limits; in fp32 gradient norms to the rounding of both sides, if that is
    more: each side's may be twice that of the one process, as draws of one spread go."""
    for family in ("paper", "modern"):
        found = trained(mixer, family=family)
        agrees(found, parallel, tmp_path / f"{family}-fp32", max(LIMIT, 4 * rounding(found)))
        agrees(replace(found, dtype="fp64"), parallel, tmp_path / f"{family}-fp64")


def test_gradients_of_micro_batches_are_exchanged_once(tmp_path):
    for parallel in TWO[:2]:
        agrees(trained("retention", micro_batch=1), parallel, tmp_path / str(parallel))


def test_recomputation_in_a_world_changes_nothing(tmp_path):
    agrees(trained("attention", recompute=True), FOUR[0], tmp_path / "four")


def test_grouped_heads_are_split_with_their_keys(tmp_path):
    agrees(trained("attention", head_dim=16, kv_heads=2), Parallel(tensor=2), tmp_path / "two")


@pytest.mark.parametrize("workload", ["prefill", "decode"])
@pytest.mark.parametrize("mixer", ["retention", "attention"])
def test_two_ranks_answer_what_one_process_answers(mixer, workload, tmp_path):
    """The whole vocabulary's logits, on both."""
    found = cell(workload, mixer, length=40, dtype="fp64", vocab_size=63, tokenizer="random:63")
    expected = logits(0, None, found)
    for got in worlds.run(logits, 2, tmp_path, replace(found, parallel=Parallel(tensor=2))):
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()


# --- checkpoints -------------------------------------------------------------------------------


def learning(folder: Path) -> Cell:
    text = {"corpus": str(texts(folder)), "tokenizer": "byte", "vocab_size": 257}
    return cell(
        "perplexity",
        length=32,
        batch=4,
        token_budget=8 * 4 * 32,
        documents=2,
        checkpoint_every=4,
        context="carried",
        measure=("time",),
        **text,
    )


LAYOUTS = [
    None,
    Parallel(data=2, shard="fsdp"),
    Parallel(tensor=2),
    Parallel(data=2),
]


def run(found: Cell, parallel: Parallel | None, folder: Path, at: Path, stop: int | None) -> Any:
    """What the first rank finds out."""
    if parallel is None:
        return learned(0, None, found, folder, stop)
    world = replace(found, parallel=parallel)
    return worlds.run(learned, parallel.ranks, at, world, folder, stop)[0]


@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 2), (2, 0)])
def test_a_training_goes_on_in_another_world(first, then, tmp_path):
    """From the same safetensors, to the same losses and scores."""
    found = learning(tmp_path / "texts")
    expected = learned(0, None, found, tmp_path / "whole", None)
    kept = tmp_path / "kept"
    run(found, LAYOUTS[first], kept, tmp_path / "one", 6)
    assert [path.name for path in kept.iterdir()] == ["step-000000004"]
    resumed = run(found, LAYOUTS[then], kept, tmp_path / "two", None)
    assert any("goes on from" in words for words in resumed["said"])
    for got, wanted in zip(resumed["curve"], expected["curve"], strict=True):
        assert got == pytest.approx(wanted, rel=1e-6)
    assert resumed["nats"] == pytest.approx(expected["nats"], rel=1e-6)


@pytest.mark.parametrize("parallel", LAYOUTS[1:], ids=str)
def test_a_world_writes_the_checkpoint_that_one_process_writes(parallel, tmp_path):
    from safetensors.torch import load_file

    found = learning(tmp_path / "texts")
    learned(0, None, found, tmp_path / "alone", 6)
    run(found, parallel, tmp_path / "world", tmp_path / "ranks", 6)
    for name in ("model.safetensors", "training.safetensors"):
        one, other = (
            load_file(tmp_path / folder / "step-000000004" / name) for folder in ("alone", "world")
        )
        assert one.keys() == other.keys()
        for key in one.keys() - {"rng.cpu"}:
            assert one[key].dtype == other[key].dtype
            # Of a tensor together: where a gradient is near 0 AdamW makes its rounding a step of
            # another size, in a weight or two of thousands (3e-6 of 1e-3 was seen).
            assert _norm([other[key] - one[key]]) <= CHECKPOINT * _norm([one[key]])
