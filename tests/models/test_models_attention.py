"""Grouped heads and sliding windows: the same function, a smaller cache, and what each costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build, on_meta, relative, rotary, tiny, tokens
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS, attention
from retnet_bench.kernels.flops import ADDED
from retnet_bench.models import checkpoint, cost, match
from retnet_bench.models.agreement import check
from retnet_bench.models.config import Size
from retnet_bench.models.layers import rotate
from retnet_bench.models.mixers.attention import AttentionOptions, KVCache
from retnet_bench.models.mixers.base import Context

EXACT = 1e-11
FOUR_HEADS = Size(32, 2, 8, 8)
LOCAL = {"kv_heads": 2, "window": 12}


def grouped(size=FOUR_HEADS, **changes):
    return tiny("attention", size=size, **changes)


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("window", [None, 1, 5])
@torch.no_grad()
def test_it_is_a_masked_softmax_over_shared_keys(kv_heads, window):
    """Query head h reads head h // group of the keys; token i sees i - window + 1 ... i."""
    model = build(grouped(kv_heads=kv_heads, window=window)).double()
    mixer, angles = model.blocks[0].mixer, rotary(model).at(0, 9)
    x = torch.randn(1, 9, 32).double()
    q = rotate(mixer.query(x).view(1, 9, 4, 8), angles)[0]
    k = rotate(mixer.key(x).view(1, 9, -1, 8), angles)[0]
    v = mixer.value(x).view(9, -1, 8)
    group = 4 // (kv_heads or 4)
    out = torch.zeros(9, 4, 8, dtype=torch.float64)
    for n in range(9):
        seen = slice(max(0, n + 1 - (window or 9)), n + 1)
        for h in range(4):
            scores = k[seen, h // group] @ q[n, h] / 8**0.5
            out[n, h] = scores.softmax(0) @ v[seen, h // group]
    assert relative(mixer(x, Context(angles)), mixer.out(out.view(1, 9, 32))) < EXACT


@settings(max_examples=40)
@given(data=st.data(), kernel=st.sampled_from(["math", "sdpa"]))
@torch.no_grad()
def test_forward_equals_prefill_in_parts_and_steps(data, kernel):
    length = data.draw(st.integers(2, 120))
    window = data.draw(st.none() | st.integers(1, length + 3))
    model = build(
        grouped(kernel=kernel, kv_heads=data.draw(st.sampled_from([1, 2])), window=window)
    )
    model = model.double()
    ids, state = tokens(model.cfg, 2, length), model.new_state(2, length)
    parts = []
    for _ in range(data.draw(st.integers(0, 3))):
        end = data.draw(st.integers(state.position, length))
        if end > state.position:
            parts.append(model.prefill(ids[:, state.position : end], state, every=True))
    parts += [model.step(ids[:, n : n + 1], state) for n in range(state.position, length)]
    assert relative(torch.cat(parts, 1), model(ids)) < EXACT


@pytest.mark.parametrize("first", [1, 11, 12, 13, 40])
@pytest.mark.parametrize("second", [1, 11, 12, 13, 40])
@torch.no_grad()
def test_a_prefill_around_the_window_leaves_a_ring_to_go_on_from(first, second):
    model = build(grouped(**LOCAL)).double()
    ids, state = tokens(model.cfg, 2, 90), model.new_state(2, 90)
    for part in (first, second):
        model.prefill(ids[:, state.position :][:, :part], state)
    found = [model.step(ids[:, n : n + 1], state) for n in range(first + second, 90)]
    assert relative(torch.cat(found, 1), model(ids)[:, first + second :]) < EXACT


def caches(model, capacity) -> list[KVCache]:
    return model.new_state(3, capacity).layers


@pytest.mark.parametrize(("capacity", "rows"), [(5, 5), (12, 12), (40, 12)])
def test_the_ring_has_the_windows_rows_and_never_more_than_the_capacity(capacity, rows):
    for cache in caches(build(grouped(**LOCAL)), capacity):
        assert cache.keys.shape == cache.values.shape == (3, 2, rows, 8)


@torch.no_grad()
def test_a_tensor_position_gives_the_same_step_past_the_rings_end():
    """What a captured graph runs: the slot is the position modulo the window."""
    model = build(grouped(**LOCAL)).double()
    ids, state = tokens(model.cfg, 2, 40), model.new_state(2, 40)
    found = [model.step_at(ids[:, n : n + 1], state.layers, torch.tensor([n])) for n in range(40)]
    assert relative(torch.cat(found, 1), model(ids)) < EXACT


@torch.no_grad()
def test_a_fork_of_a_full_ring_disturbs_nothing():
    """A step writes over the oldest row, which the other state still reads."""
    model = build(grouped(**LOCAL)).double()
    ids, others = tokens(model.cfg, 2, 40), tokens(model.cfg, 2, 40, seed=9)
    state = model.new_state(2, 40)
    model.prefill(ids[:, :20], state)
    fork = model.fork(state)
    for n in range(20, 30):
        model.step(others[:, n : n + 1], fork)
    found = torch.cat([model.step(ids[:, n : n + 1], state) for n in range(20, 40)], 1)
    assert relative(found, model(ids)[:, 20:]) < EXACT


@torch.no_grad()
def test_selected_rows_go_on_each_in_its_own_ring():
    model = build(grouped(**LOCAL)).double()
    ids = tokens(model.cfg, 3, 30)
    state = model.new_state(3, 30)
    model.prefill(ids[:, :20], state)
    rows = torch.tensor([2, 0, 2])
    chosen = model.select(state, rows)
    found = torch.cat([model.step(ids[rows, n : n + 1], chosen) for n in range(20, 30)], 1)
    assert relative(found, model(ids[rows])[:, 20:]) < EXACT


@torch.no_grad()
def test_a_window_longer_than_the_cache_does_not_hide_that_it_is_full():
    model = build(grouped(window=12))
    state = model.new_state(1, 4)
    model.prefill(tokens(model.cfg, 1, 4), state)
    with pytest.raises(AssertionError, match="full"):
        model.step(tokens(model.cfg, 1, 1), state)


# --- costs ---------------------------------------------------------------------------------------

SETTINGS = [{"kv_heads": 2}, {"kv_heads": 1, "window": 7}, {"window": 40}, {"window": 1}]


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("bias", [False, True])
def test_parameters_equal_the_models(options, bias):
    cfg = grouped(bias=bias, **options)
    model = on_meta(cfg)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters(cfg)
    maps = {n: len(getattr(model.blocks[0].mixer, n).weight) for n in ("query", "key", "value")}
    assert type(model.blocks[0].mixer).widths(cfg) == maps


def test_grouping_by_four_leaves_two_and_a_half_d_squared():
    cfg = match("3M", "attention", kernel="sdpa", options=AttentionOptions(kv_heads=1)).config
    d = cfg.d_model
    mixer = on_meta(cfg).blocks[0].mixer
    assert sum(p.numel() for p in mixer.parameters()) == 2.5 * d**2
    assert cfg.d_ffn == 4.75 * d  # matched in parameters
    assert cost.state_bytes(cfg, 1, 100, 4) * 4 == cost.state_bytes(
        match("3M", "attention").config, 1, 100, 4
    )


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("kernel", ["math", "sdpa"])
@pytest.mark.parametrize("length", [1, 41, 100])
def test_flops_equal_flop_counter_mode(options, kernel, length):
    cfg = grouped(kernel=kernel, **options)
    model, ids = build(cfg), torch.zeros(1, length, dtype=torch.long)
    with FlopCounterMode(display=False, custom_mapping=ADDED) as forward:
        model(ids)
    with FlopCounterMode(display=False, custom_mapping=ADDED) as both:
        model(ids).sum().backward()
    state = model.new_state(1, length)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.step_at(ids[:, :1], state.layers, length - 1)
    assert forward.get_total_flops() == cost.forward_flops(cfg, length, masked=True)
    assert both.get_total_flops() == cost.executed_train_flops(cfg, length)
    assert step.get_total_flops() == cost.step_flops(cfg, length - 1)


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("capacity", [5, 60])
def test_state_bytes_equal_the_tensors(options, capacity):
    model = build(grouped(**options))
    held = sum(c.keys.nbytes + c.values.nbytes for c in caches(model, capacity))
    assert held == cost.state_bytes(model.cfg, 3, capacity, 4)


def test_matching_by_training_flops_gives_what_a_window_spares_to_the_feed_forward():
    options = AttentionOptions(window=64)
    full, local = (
        match("0.8M", "attention", by="train_flops", length=2048, options=o, kernel="sdpa")
        for o in (AttentionOptions(), options)
    )
    assert local.config.d_ffn > full.config.d_ffn
    assert abs(local.mismatch) <= 0.005


# --- options -------------------------------------------------------------------------------------


def test_a_group_that_does_not_divide_the_heads_is_refused_in_one_line():
    line = "kv_heads 3 does not divide the 4 heads; choose one of 1, 2"
    with pytest.raises(UserError, match=line):
        grouped(kv_heads=3)
    many = {"n_heads": 10**9, "d_key": 2 * 10**9, "d_value": 2 * 10**9}  # at once, too
    with pytest.raises(UserError, match="kv_heads 3 does not divide the 1000000000 heads"):
        grouped(kv_heads=3, **many)


@pytest.mark.parametrize("option", ["kv_heads", "window"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4"])
def test_neither_is_below_one(option, value):
    with pytest.raises(UserError, match=f"{option}: input should be"):
        grouped(**{option: value})


def test_as_many_as_heads_is_the_same_model_as_nothing_said():
    assert grouped(kv_heads=4) == grouped()
    assert grouped(kv_heads=2) != grouped()


def test_a_checkpoint_keeps_both(tmp_path):
    model = build(grouped(**LOCAL))
    checkpoint.save(model, tmp_path, {})
    found, _ = checkpoint.load(tmp_path)
    assert found.cfg == model.cfg
    ids = tokens(model.cfg, 1, 20)
    assert torch.equal(found(ids), model(ids))


# --- the check of forms --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("options", [LOCAL, {"window": 1}, {"kv_heads": 1, "window": 40}])
def test_the_check_is_green(options, dtype):
    found = check(grouped(**options), "cpu", dtype)
    assert all(a.ok for a in found), [a.line() for a in found]


def test_a_long_window_is_checked_as_a_short_one():
    assert grouped(window=4096).options.checked().window == 128
    assert grouped(window=9).options.checked().window == 9
    assert grouped().options.checked() == grouped().options


def break_kernel(monkeypatch, **functions):
    monkeypatch.setitem(KERNELS._items, "sdpa", replace(KERNELS["sdpa"], **functions))


def one_more(q, k, v, window=None):
    return attention.sdpa(q, k, v, window and window + 1)


def no_window(q, k, v, window=None):
    return attention.sdpa(q, k, v)


def heads_in_turn(q, k, v, window=None):
    """Head h reads head h modulo the groups: another order than that of the steps."""
    k, v = (x.repeat(1, 1, q.shape[2] // x.shape[2], 1) for x in (k, v))
    return attention.sdpa(q, k, v, window)


def blocks_without_what_is_before(q, k, v, window=None):
    own = [x[:, -q.shape[1] :].split(12, 1) for x in (q, k, v)]
    return torch.cat([attention.sdpa(*block) for block in zip(*own, strict=True)], 1)


@pytest.mark.parametrize(
    "broken", [one_more, no_window, heads_in_turn, blocks_without_what_is_before]
)
def test_the_check_is_red_for_a_broken_kernel(monkeypatch, broken):
    break_kernel(monkeypatch, run=broken)
    found = check(grouped(**LOCAL), "cpu", "fp64")
    assert not found[0].ok
    assert found[0].where.startswith("sdpa ")


def test_the_check_is_red_for_a_broken_ring(monkeypatch):
    turn = KVCache._turn

    def shifted(self, k, v, start):
        found = turn(self, k, v, start)
        self.keys.copy_(self.keys.roll(1, 2))
        return found

    monkeypatch.setattr(KVCache, "_turn", shifted)
    assert not check(grouped(**LOCAL), "cpu", "fp64")[0].ok
