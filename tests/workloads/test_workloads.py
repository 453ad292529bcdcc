"""Train, prefill and decode on the smallest cells: what they yield, and that it is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes.cells import cell
from fakes.clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS, cost
from retnet_bench.models.language_model import DecodeState
from retnet_bench.results import schema
from retnet_bench.workloads import WORKLOADS, NotFinite, Workload, decode, train
from retnet_bench.workloads.decode import MAX_STEPS, held_bytes, positions

CUDA_ONLY = ("cuda_peak_allocated_bytes", "cuda_peak_reserved_bytes", "nvml_used_bytes")


def ready(workload: str, mixer: str = "retention", **changes: Any) -> Workload:
    found = WORKLOADS[workload](cell(workload, mixer, **changes))
    found.prepare()
    return found


def timed(workload: Workload, clock: FakeClock, seconds: float, name: str = "step") -> None:
    """Let each step of `workload` take `seconds` of the fake clock."""
    step: Callable = getattr(workload, name)

    def slow(*args: object) -> None:
        step(*args)
        clock.work(seconds)

    setattr(workload, name, slow)


# --- what a block yields -----------------------------------------------------------------------


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize(("name", "metric"), [("train", "train_step_s"), ("prefill", "prefill_s")])
def test_a_block_is_one_row_of_consecutive_steps(name, metric, mixer):
    clock, workload = FakeClock(), ready(name, mixer)
    timed(workload, clock, 0.25)
    protocol = Protocol(block_s=1.0, min_samples=2, max_samples=9)
    (sample,) = workload.block(clock, protocol, step_s=0.25)
    assert (sample.metric, sample.unit, sample.phase) == (metric, "s", name)
    assert sample.values == (0.25,) * 4
    assert (sample.coordinates, sample.reason) == ({}, None)
    workload.check()


def test_a_decode_block_is_a_sweep_over_all_positions():
    clock, workload = FakeClock(), ready("decode", length=64, positions=3)
    timed(workload, clock, 0.5, "_step_from")
    protocol = Protocol(block_s=6.0, min_samples=2, max_samples=100)
    samples = list(workload.block(clock, protocol, step_s=0.5))
    assert [s.coordinates["position"] for s in samples] == [16, 32, 48]
    assert {(s.metric, s.unit, s.phase) for s in samples} == {("decode_step_s", "s", "decode")}
    assert [s.values for s in samples] == [(0.5,) * 4] * 3  # 6 s by 3 positions by 0.5 s


def test_drift_and_a_cold_start_tilt_no_decode_curve():
    clock, workload, taken = FakeClock(), ready("decode", length=64, positions=4), []

    def slower_every_time(start: int, offset: int) -> None:
        cold = not taken or taken[-1][0] != start
        clock.work(1.0 + 0.01 * len(taken) + (50.0 if cold else 0.0))
        taken.append((start, offset))

    workload._step_from = slower_every_time
    samples = list(workload.block(clock, Protocol(block_s=24.0, min_samples=6), step_s=1.0))
    means = [sum(s.values) / len(s.values) for s in samples]
    assert means == pytest.approx([means[0]] * 4)
    assert {len(s.values) for s in samples} == {6}
    assert set(taken) == {
        (s.coordinates["position"], offset) for s in samples for offset in range(6)
    }


def test_a_decode_block_never_runs_past_the_end():
    """However many samples are asked for, MAX_STEPS from the last position end at the length."""
    clock, workload = FakeClock(), ready("decode", "attention", length=40, positions=2)
    timed(workload, clock, 0.001, "_step_from")
    samples = list(workload.block(clock, Protocol(block_s=10.0, max_samples=500), 0.001))
    assert [len(s.values) for s in samples] == [MAX_STEPS, MAX_STEPS]


@given(st.integers(MAX_STEPS + 1, 20_000), st.integers(1, 64))
def test_positions_are_sorted_distinct_and_end_with_room_for_a_run(length, points):
    found = positions(length, points)
    assert found == sorted(set(found))
    assert found[0] >= 1
    assert found[-1] + MAX_STEPS == length
    assert len(found) <= points
    if length - MAX_STEPS >= 2 * points:
        assert len(found) == points


# --- what a step computes ----------------------------------------------------------------------


@pytest.mark.parametrize("mixer", MIXERS)
def test_decode_steps_give_the_logits_of_the_whole_sequence(mixer):
    workload = ready("decode", mixer, dtype="fp64", length=40, positions=2)
    assert isinstance(workload, decode.Decode)
    with torch.no_grad():
        whole = workload.model(workload.tokens)
    for start in workload.positions:
        for i in range(MAX_STEPS):
            workload._step_from(start, i)
            expected = whole[:, start + i]
            torch.testing.assert_close(workload.logits[:, -1], expected, rtol=1e-9, atol=1e-9)
            assert torch.equal(workload.next_token[:, 0], expected.argmax(-1))


@pytest.mark.parametrize("mixer", MIXERS)
def test_prefill_gives_the_logits_of_the_last_token_from_an_empty_state_every_time(mixer):
    workload = ready("prefill", mixer, dtype="fp64")
    with torch.no_grad():
        expected = workload.model(workload.tokens)[:, -1:]
    for _ in range(2):
        workload.step()
        torch.testing.assert_close(workload.logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["train", "prefill", "decode"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_tokens_are_the_same_for_both_arms_and_have_the_cell_s_shape(name, mixer):
    workload = ready(name, mixer, length=40)
    tokens = workload.first[0] if name == "train" else workload.tokens
    assert tokens.shape == (2, 40)
    reference = workload.sample_tokens(8 if name == "train" else 2, 40)[:2, :40]
    assert torch.equal(tokens, reference)


def test_training_steps_learn_and_targets_are_the_next_tokens():
    workload = ready("train")
    inputs, targets = workload.first
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    before = workload.eager_step().item()
    for _ in range(20):
        workload.step()
    assert workload.eager_step().item() < before - 0.01
    assert all(p.grad is None for p in workload.model.parameters())


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_low_precision_training_keeps_fp32_weights(dtype):
    workload = ready("train", dtype=dtype)
    workload.step()
    workload.check()
    assert {p.dtype for p in workload.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_inference_weights_have_the_cell_s_dtype(name):
    workload = ready(name, dtype="bf16", length=40, positions=1)
    workload.step()
    workload.check()
    assert {p.dtype for p in workload.model.parameters()} == {torch.bfloat16}


# --- memory ------------------------------------------------------------------------------------


def readings(workload: Workload) -> dict[str, Any]:
    return {(s.metric, s.coordinates.get("position")): s for s in workload.memory()}


@pytest.mark.parametrize("mixer", MIXERS)
def test_decode_state_bytes_are_those_of_the_tensors(mixer):
    found = {}
    for length in (40, 72):
        workload = ready("decode", mixer, length=length, positions=2)
        state: DecodeState = workload.states[workload.positions[-1]]
        layers = ([x] if torch.is_tensor(x) else vars(x).values() for x in state.layers)
        exact = sum(t.nbytes for layer in layers for t in layer if torch.is_tensor(t))
        assert held_bytes(state) == exact
        assert exact == cost.state_bytes(workload.model.cfg, 2, length, 4)
        by_position = {p: s.values for (m, p), s in readings(workload).items() if p}
        assert by_position[length] == (float(exact),)
        found |= by_position
    if mixer == "retention":
        assert set(found.values()) == {(2 * 2 * 2 * 32 * 64 * 4.0,)}  # layers B H d_k d_v fp32
    if mixer == "attention":
        assert found == {p: (p * 2 * 2 * 2 * 64 * 4.0,) for p in found}  # layers B 2 d fp32


@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize("mixer", MIXERS)
def test_training_memory_counts_weights_gradients_and_adamw(mixer, warm):
    """Also where memory alone is measured, and so nothing ran before."""
    workload = ready("train", mixer)
    for _ in range(warm):
        workload.step()
    found = readings(workload)
    weights = sum(p.nbytes for p in workload.model.parameters())
    assert found["weight_bytes", None].values[0] >= weights
    peak = found["peak_tensor_bytes", None].values[0]
    assert 4 * weights < peak < 8 * weights  # weights, gradients, two moments, some activations
    rss = found["peak_rss_bytes", None]
    assert rss.reason or rss.values[0] > 50e6


@pytest.mark.parametrize("name", ["train", "prefill", "decode"])
def test_counters_that_this_device_lacks_are_empty_with_a_reason(name):
    found = readings(ready(name, length=40, positions=1))
    for metric in CUDA_ONLY:
        sample = found[metric, None]
        assert sample.values == ()
        assert sample.reason == "device is cpu"
    assert all(s.phase == name and s.unit == "bytes" for s in found.values())
    assert found["peak_tensor_bytes", None].values[0] > found["weight_bytes", None].values[0]


def test_attention_s_peak_when_decoding_holds_the_whole_cache():
    peaks = [
        readings(ready("decode", "attention", length=n, positions=1))["peak_tensor_bytes", None]
        for n in (40, 1064)
    ]
    assert peaks[1].values[0] - peaks[0].values[0] >= 1024 * 2 * 2 * 2 * 64 * 4


# --- gates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "prefill", "decode"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_weights_that_are_not_finite_are_no_result(name, mixer):
    workload = ready(name, mixer, length=40, positions=1)
    with torch.no_grad():
        workload.model.embedding.weight.fill_(math.inf)
    workload.step()
    with pytest.raises(NotFinite):
        workload.check()


@pytest.mark.parametrize(
    ("workload", "mixer", "kernel", "expected"),
    [
        ("train", "attention", "sdpa", "sdpa / _scaled_dot_product_flash_attention_for_cpu"),
        ("prefill", "attention", "sdpa", "sdpa / _scaled_dot_product_flash_attention_for_cpu"),
        ("train", "attention", "math", "math / bmm"),
        ("train", "retention", "chunkwise", "chunkwise / baddbmm / bmm"),
        ("decode", "attention", "sdpa", "sdpa / bmm"),  # one query against the cache: no flash
    ],
)
def test_dispatched_names_the_op_that_ran(workload, mixer, kernel, expected):
    found = ready(workload, mixer, kernel=kernel, length=40, positions=1)
    assert found.dispatched() == expected


@pytest.mark.parametrize("name", ["train", "prefill", "decode"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_mode_error_is_nil_for_eager_and_leaves_the_workload_as_it_was(name, mixer):
    workload = ready(name, mixer, length=40, positions=1)
    before = [p.clone() for p in workload.model.parameters()]
    assert workload.mode_error() == 0.0
    assert workload.mode_error() == 0.0
    assert all(map(torch.equal, before, workload.model.parameters()))


@pytest.mark.parametrize("mixer", MIXERS)
def test_mode_error_sees_a_function_that_the_compiler_got_wrong(monkeypatch, mixer):
    for module in (train, decode):
        monkeypatch.setattr(module, "execute", lambda fn, mode: lambda *args: 1.01 * fn(*args))
    for name in ("train", "decode"):
        workload = ready(name, mixer, mode="compile", length=40, positions=1)
        assert workload.mode_error() == pytest.approx(0.01, rel=1e-3)


def test_the_records_know_every_workload():
    assert set(WORKLOADS) == set(schema.WORKLOADS)
