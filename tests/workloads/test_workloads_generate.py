"""Generation: what a request yields, and that its tokens are those of the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from fakes.cells import cell
from fakes.clock import FakeClock

from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS, cost
from retnet_bench.predict.footprint import footprint
from retnet_bench.predict.rooflines import least_bytes, model_flops, step_of
from retnet_bench.results.schema import METRICS, TIMES
from retnet_bench.run.stopping import block_value
from retnet_bench.study import plan
from retnet_bench.workloads import WORKLOADS, NotFinite
from retnet_bench.workloads.generate import NEW_TOKENS, Generate, new_tokens


def ready(mixer: str = "retention", **changes: Any) -> Generate:
    found = WORKLOADS["generate"](cell("generate", mixer, **({"new_tokens": 5} | changes)))
    assert isinstance(found, Generate)
    found.prepare()
    return found


def slowed(workload: Generate, clock: FakeClock, first_s: float, further_s: float) -> None:
    """Let the parts of a request take so long on the fake clock."""
    for name, seconds in (("first", first_s), ("further", further_s)):
        setattr(workload, name, partial(_slow, getattr(workload, name), clock, seconds))


def _slow(part: Callable[[], None], clock: FakeClock, seconds: float) -> None:
    part()
    clock.work(seconds)


def test_a_block_is_requests_of_which_the_first_token_and_the_rest_are_told_apart():
    clock, workload = FakeClock(), ready()
    slowed(workload, clock, 0.5, 2.0)
    protocol = Protocol(block_s=7.5, min_samples=2, max_samples=9)
    samples = {s.metric: s for s in workload.block(clock, protocol, step_s=2.5)}
    assert samples["request_s"].values == (2.5,) * 3
    assert samples["first_token_s"].values == (0.5,) * 3
    assert samples["output_token_s"].values == (0.5,) * 3  # 2 s by the four tokens after the first
    assert {s.unit for s in samples.values()} == {"s"}
    assert set(samples) <= set(METRICS)
    assert block_value(list(samples.values())) == 2.5  # its parts do not count again
    assert TIMES["generate"] == "request_s"
    workload.check()


def test_one_new_token_has_no_time_after_it():
    clock, workload = FakeClock(), ready(new_tokens=1)
    slowed(workload, clock, 0.5, 0.0)
    samples = {s.metric for s in workload.block(clock, Protocol(block_s=1.0), 0.5)}
    assert samples == {"request_s", "first_token_s"}


@pytest.mark.parametrize("mixer", MIXERS)
def test_its_tokens_are_those_that_the_whole_sequence_makes_most_probable(mixer):
    workload = ready(mixer, dtype="fp64", length=20)
    for _ in range(2):  # the second request begins from an empty state, too
        workload.step()
        made = torch.cat(workload.tokens, dim=1)  # (B, N)
        assert made.shape == (2, 5)
        sequence = workload.prompt
        with torch.no_grad():
            for token in made.T:
                expected = workload.model(sequence)[:, -1].argmax(-1)
                assert torch.equal(token, expected)
                sequence = torch.cat([sequence, token[:, None]], dim=1)


def test_the_prompt_is_the_cell_s_and_the_same_for_all_arms():
    assert ready().prompt.shape == (2, 32)
    assert torch.equal(ready().prompt, ready("attention").prompt)


@pytest.mark.parametrize("mixer", ["retention", "attention", "mamba2"])
def test_memory_is_that_of_the_whole_request(mixer):
    workload = ready(mixer, length=40)
    found = {s.metric: s for s in workload.memory()}
    held = cost.state_bytes(workload.model.cfg, 2, 44, 4)
    assert found["state_bytes"].values == (float(held),)
    assert found["peak_tensor_bytes"].values[0] > held + found["weight_bytes"].values[0]


@pytest.mark.parametrize(
    ("mixer", "changes"),
    [
        ("retention", {}),
        ("attention", {}),
        ("attention", {"length": 200, "new_tokens": 2}),
        ("retention", {"length": 130, "size": "0.4M", "dtype": "bf16"}),
        ("mamba2", {"length": 64}),
        ("attention", {"length": 8, "new_tokens": 60, "batch": 3}),
        ("retention", {"length": 2, "new_tokens": 60, "batch": 3}),
    ],
)
def test_the_predicted_peak_is_the_measured_one(mixer, changes):
    workload = ready(mixer, **changes)
    measured = {s.metric: s for s in workload.memory()}["peak_tensor_bytes"].values[0]
    config = workload.cell.matched().config
    assert footprint(step_of(workload.cell, config, "cpu")).peak_bytes == measured


def test_a_request_is_predicted_as_its_prefill_and_its_steps():
    one = cell("generate", "attention", length=100, new_tokens=11)
    config = one.matched().config
    steps = sum(cost.step_flops(config, at) for at in range(100, 110))
    assert model_flops(one, config) == 2 * (cost.prefill_flops(config, 100) + steps)
    moved = sum(cost.step_bytes(config, 2, at + 1, 4) for at in range(100, 110))
    assert least_bytes(one, config) == cost.prefill_bytes(config, 2, 100, 4) + moved
    whole = footprint(step_of(one, config, "cpu"))
    alone = footprint(step_of(cell("prefill", "attention", length=100), config, "cpu"))
    assert whole.launches > alone.launches + 10 * config.n_layers
    assert whole.flops > alone.flops


def test_new_tokens_are_64_unless_said_and_then_not_part_of_the_cell():
    assert "new_tokens" not in cell("generate").canonical()
    assert new_tokens(cell("generate")) == NEW_TOKENS == 64
    assert cell("generate", new_tokens=8).cell_id != cell("generate").cell_id


def test_cuda_graphs_and_too_long_sequences_are_no_cells():
    graphs = plan._why_not(cell("generate", mode="cudagraph"))
    assert graphs is not None
    assert "CUDA graphs" in graphs
    assert plan._why_not(cell("generate")) is None


def test_logits_that_are_not_finite_are_no_speed():
    workload = ready()
    with torch.no_grad():
        next(workload.model.parameters()).fill_(float("nan"))
    workload.step()
    with pytest.raises(NotFinite):
        workload.check()


def test_a_compiled_request_is_held_against_an_eager_one():
    workload = ready(dtype="fp64")
    assert workload.mode_error() == 0.0
