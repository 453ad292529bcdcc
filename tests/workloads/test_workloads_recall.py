"""Recall: what is asked, what is counted, and that a training of it repeats and goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fakes.cells import cell
from fakes.clock import FakeClock

from retnet_bench.base import UserError
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS, cost
from retnet_bench.models.mixers.base import HeadOptions
from retnet_bench.workloads import Cell, Diverged, NotFinite, Sample
from retnet_bench.workloads.recall import Recall, task_of

TASK: dict[str, Any] = {
    "match": "none",
    "length": 16,
    "vocab_size": 40,
    "batch": 8,
    "steps": 6,
    "train_pairs": (1, 2, 4),
    "test_sequences": 20,
    "rounds": 1,
}


def of(mixer: str = "retention", **changes: Any) -> Cell:
    return cell("recall", mixer, **(TASK | changes))


def ready(mixer: str = "retention", **changes: Any) -> Recall:
    found = Recall(of(mixer, **changes))
    found.prepare()
    return found


def samples(found: Recall) -> list[Sample]:
    return list(found.block(FakeClock(), Protocol(), 0.0))


def run(mixer: str = "retention", **changes: Any) -> list[Sample]:
    return samples(ready(mixer, **changes))


# --- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", MIXERS)
def test_each_mixer_stands_behind_a_gated_convolution_and_nothing_else_does_anything(mixer):
    model = ready(mixer, rounds=None).model
    assert [block.cfg.mixer for block in model.blocks] == ["gated_conv", mixer] * 2
    assert all(block.ffn is None for block in model.blocks)
    assert not model.rotaries
    assert model.positions is None
    assert cost.parameters(model.cfg) == sum(p.numel() for p in model.parameters())
    assert len(ready(mixer).model.blocks) == 2


def test_key_dim_is_every_arm_s_head_dim():
    state = {
        key_dim: cost.state_bytes(of(key_dim=key_dim).matched().config, 1, 16, 4)
        for key_dim in (None, 8, 16, 32)
    }
    assert state[None] == state[32]  # the size's own
    convolution = 2 * 64 * 4
    assert [state[k] - convolution for k in (8, 16, 32)] == [64 * k * 2 * 4 for k in (8, 16, 32)]
    assert of(key_dim=16).pair_id != of(key_dim=32).pair_id
    with pytest.raises(UserError, match="key_dim is 16, but the arm says head_dim 32"):
        of(key_dim=16, head_dim=32).matched()
    with pytest.raises(UserError, match="mixer gated_conv has no option head_dim, which key_dim"):
        of("gated_conv", key_dim=16).matched()


@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_the_state_that_is_held_is_the_one_in_closed_form(mixer, dtype):
    found = ready(mixer, dtype=dtype, rounds=2)
    size = {"fp64": 8, "fp32": 4, "bf16": 2}[dtype]
    assert found._state_bytes() == cost.state_bytes(found.model.cfg, 1, 16, size)


# --- what is asked and counted -----------------------------------------------------------------


def test_only_what_is_asked_is_trained_on():
    """The loss is that of whole logits with every other target ignored."""
    found = ready("attention")
    inputs, positions, targets = next(found.batches)
    labels = torch.full_like(inputs, -100).scatter(1, positions, targets)
    logits = found.model(inputs)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert found.eager_loss(inputs, positions, targets).item() == pytest.approx(expected.item())


def test_right_answers_are_counted_by_number_of_pairs_on_sequences_never_trained_on():
    found = ready("attention", test_pairs=(2, 4), steps=30, learning_rate=0.01)
    rows = [s for s in samples(found) if s.metric.startswith("recall_")]
    keys = [(s.phase, s.coordinates["pairs"], s.metric) for s in rows]
    values = dict(zip(keys, (s.values[0] for s in rows), strict=True))
    assert len(values) == 2 * 2 * 3
    found.model.eval()
    for phase, split in (("validate", "valid"), ("score", "test")):
        for pairs in (2, 4):
            queries = task_of(found.cell).held_out(split, 20, pairs)
            inputs, positions, targets = map(torch.from_numpy, queries)
            with torch.no_grad():
                logits = found.model(inputs)
            right, nats = 0, 0.0
            for row, at, answers in zip(logits, positions, targets, strict=True):
                for p, answer in zip(at.tolist(), answers.tolist(), strict=True):
                    right += int(row[p].argmax() == answer)
                    nats -= row[p].log_softmax(-1)[answer].item()
            assert values[phase, pairs, "recall_correct"] == right
            assert values[phase, pairs, "recall_queries"] == 20 * pairs
            assert values[phase, pairs, "recall_nll_nat"] == pytest.approx(nats, rel=1e-5)
    assert {s.unit for s in rows} == {"count", "nat"}


def test_one_pair_is_learned_at_once():
    rows = run("attention", train_pairs=(1,), steps=120, learning_rate=0.01, batch=16)
    (right,) = (s.values[0] for s in rows if (s.metric, s.phase) == ("recall_correct", "score"))
    assert right == 20
    losses = [s.values[0] for s in rows if s.metric == "train_loss_nat"]
    assert losses[0] == pytest.approx(math.log(40), rel=0.3)
    assert losses[-1] < 0.3


def test_every_other_fact_of_a_run():
    rows = {s.metric: s for s in run()}
    assert rows["sequence_state_bytes"].unit == "bytes"
    assert (rows["training_s"].unit, rows["training_s"].phase) == ("s", "train")
    assert [s.coordinates["tokens_seen"] for s in run() if s.metric == "train_loss_nat"] == [
        8 * 16 * i for i in range(1, 7)
    ]


def test_peaks_are_those_of_the_most_pairs_whatever_the_seed():
    def peak(**changes: Any) -> float:
        found = ready("attention", batch=32, vocab_size=4000, **changes)  # the head has the peak
        found.step()
        return {s.metric: s.values for s in found.memory()}["peak_tensor_bytes"][0]

    assert peak(seed=0) == peak(seed=1) == peak(train_pairs=(4,))
    assert peak(train_pairs=(1,)) < peak()


# --- repeatable, and going on ------------------------------------------------------------------


@pytest.mark.parametrize("mixer", ["retention", "attention"])
def test_a_seed_fixes_every_bit_and_the_test_is_the_same_for_all(mixer):
    assert run(mixer) == run(mixer)
    found, other = ready(mixer), ready(mixer, seed=1)
    assert not torch.equal(next(found.batches)[0], next(other.batches)[0])
    assert not torch.equal(found.model.embedding.weight, other.model.embedding.weight)


def test_every_arm_learns_from_the_same_sequences():
    batches = [next(ready(mixer).batches) for mixer in ("retention", "attention")]
    assert all(map(torch.equal, *batches))


def test_micro_batches_add_up_to_the_batch():
    def losses(**changes: Any) -> list[float]:
        return [s.values[0] for s in run(**changes) if s.metric == "train_loss_nat"]

    assert losses(micro_batch=2) == pytest.approx(losses(), rel=2e-5)


def test_it_goes_on_from_its_last_checkpoint_as_if_nothing_had_happened(tmp_path: Path):
    found = ready("attention", checkpoint_every=2)
    found.checkpoints = tmp_path
    step, clock = found.step, FakeClock()

    def failing() -> None:
        clock.idle(1.0)
        if found.done == 5:
            raise KeyboardInterrupt
        step()

    found.step = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        list(found.block(clock, Protocol(), 0.0))
    again = ready("attention", checkpoint_every=2)
    again.checkpoints, taken, go_on = tmp_path, [], again.step
    again.step = lambda: (taken.append(1), go_on())  # type: ignore[method-assign, assignment]
    rows = samples(again)
    assert len(taken) == 2
    (seconds,) = (s.values[0] for s in rows if s.metric == "training_s")
    assert seconds == 4.0, "those of the process that was stopped count, up to its checkpoint"
    plain = [s for s in rows if s.metric != "training_s"]
    assert plain == [s for s in run("attention") if s.metric != "training_s"]


def test_a_training_that_diverges_is_a_result():
    with pytest.raises(Diverged, match="training loss became"):
        run(learning_rate=1e30)


def test_scores_that_are_no_numbers_are_none():
    found = ready()
    found.done = found.steps
    with torch.no_grad():
        found.model.embedding.weight.fill_(math.nan)
    with pytest.raises(NotFinite, match="logits after training are not finite"):
        samples(found)


def test_its_recipe():
    recipe = of().training_recipe
    assert (recipe.weight_decay, recipe.clip, recipe.warmup(2500)) == (0.1, 1.0, 250)
    assert recipe.rate_factor(249, 2500) == 1.0
    assert recipe.rate_factor(250 + 1125, 2500) == pytest.approx(0.5)
    assert recipe.rate_factor(250 + 562, 2500) == pytest.approx(0.854, abs=1e-3)  # a cosine
    assert recipe.rate_factor(2500, 2500) == 0.0
    assert of().peak_learning_rate() == 3e-3
    assert of(learning_rate=0.01).peak_learning_rate() == 0.01


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_pairs": (2, 5)}, "5 pairs don't fit in length 16"),
        ({"test_pairs": (8,)}, "8 pairs don't fit in length 16"),
        ({"vocab_size": 16}, "vocabulary 16 is too small for length 16"),
        ({"length": 17}, "length 17 is odd"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        ready(**changes)
    assert "\n" not in str(caught.value)


def test_head_options_are_what_key_dim_asks_for():
    """So that a study over key_dim says of each arm whether it can be part of it."""
    with_heads = {name for name, kind in MIXERS.items() if issubclass(kind.Options, HeadOptions)}
    assert {"retention", "attention"} <= with_heads
    for mixer in with_heads:
        assert of(mixer, key_dim=16).matched().config.at(1).key_dim == 16
