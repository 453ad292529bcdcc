"""Closed forms against the models themselves: parameters, FLOPs and state bytes, exactly."""

from __future__ import annotations

import pytest
import torch
from fakes.options import options_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import ARMS, build, kernel_of, on_meta, tiny
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels.flops import ADDED
from retnet_bench.models import SIZES, ModelConfig, cost, match

KERNELS = [
    ("retention", "chunkwise"),
    ("retention", "parallel"),
    ("retention", "recurrent"),
    ("attention", "math"),
]

OTHER_BACKWARD = ("deltanet", "gated_deltanet", "kda", "hyena")
TWICE_BACKWARD = [arm for arm in ARMS if arm[0] not in OTHER_BACKWARD]


@pytest.mark.parametrize(("mixer", "family"), ARMS)
@pytest.mark.parametrize("name", list(SIZES)[::3])
def test_parameters_equal_the_models(name, mixer, family):
    cfg = match(name, mixer, family=family, vocab_size=1000, kernel=kernel_of(mixer)).config
    model = on_meta(cfg)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters(cfg)
    body = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("embedding"))
    assert body == cost.body_parameters(cfg)


@pytest.mark.parametrize("mixer", ["retention", "attention"])
@pytest.mark.parametrize("name", SIZES)
def test_the_papers_body_is_12_d_squared_a_layer(name, mixer):
    """Matrices only: the LayerNorms are the few that 12 d^2 L leaves out."""
    cfg = match(name, mixer, kernel=kernel_of(mixer)).config
    matrices = sum(p.numel() for n, p in on_meta(cfg).named_parameters() if p.dim() == 2)
    assert matrices - cfg.vocab_size * cfg.d_model == 12 * cfg.d_model**2 * cfg.n_layers


@pytest.mark.parametrize(
    ("name", "body", "with_vocabulary"),
    [("1.3B", 1.2080e9, 1.339e9), ("2.7B", 2.5166e9, 2.680e9), ("6.7B", 6.4425e9, 6.705e9)],
)
def test_the_papers_parameter_counts(name, body, with_vocabulary):
    cfg = match(name, "retention", vocab_size=64000, kernel="chunkwise").config
    assert cost.body_parameters(cfg) == pytest.approx(body, rel=3e-4)
    assert cost.parameters(cfg) == pytest.approx(with_vocabulary, rel=5e-4)


def test_the_papers_state_and_cache_bytes_at_6_7B():
    """134.2 MB of fp16 numbers, kept in fp32: 268 MB. The cache takes 512 KiB a token in fp16."""
    retention = match("6.7B", "retention", kernel="chunkwise").config
    attention = match("6.7B", "attention").config
    for length in (1, 8192):
        assert cost.state_bytes(retention, 1, length, 2) == 32 * 16 * 256 * 512 * 4
        assert cost.state_bytes(attention, 1, length, 2) == 512 * 1024 * length
    assert cost.state_bytes(retention, 3, 1, 8) == 3 * 32 * 16 * 256 * 512 * 8


def counted(cfg: ModelConfig, length: int, backward: bool) -> int:
    model = on_meta(cfg)
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.zeros(1, length, dtype=torch.long, device="meta"))
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@st.composite
def shapes(draw):
    """A small config, and a length."""
    mixer, kernel = draw(st.sampled_from(KERNELS))
    heads, key_dim = draw(st.integers(1, 3)), 2 * draw(st.integers(1, 4))
    value_dim = draw(st.integers(1, 9)) if mixer == "retention" else key_dim
    cfg = ModelConfig(
        mixer=mixer,
        family=draw(st.sampled_from(["paper", "modern"])),
        d_model=draw(st.integers(2, 20)),
        n_layers=draw(st.integers(1, 3)),
        n_heads=heads,
        d_key=heads * key_dim,
        d_value=heads * value_dim,
        d_ffn=draw(st.integers(1, 30)),
        vocab_size=draw(st.integers(1, 40)),
        kernel=kernel,
        options=options_of(mixer, chunk=draw(st.integers(1, 20)), gate=draw(st.booleans())),
    )
    return cfg, draw(st.integers(1, 50))


@settings(max_examples=40)
@given(shapes())
@example((tiny("retention"), 24))
@example((tiny("retention"), 21))
@example((tiny("retention"), 5))
def test_forward_flops_equal_flop_counter_mode(shape):
    cfg, length = shape
    assert counted(cfg, length, backward=False) == cost.forward_flops(cfg, length, masked=True)


@pytest.mark.parametrize(("mixer", "family"), TWICE_BACKWARD)
def test_forward_and_backward_are_three_forwards(mixer, family):
    """Of whole chunks, more than one: a lone chunk's state reaches no output, so it needs none.
    (The delta rule's triangular inverses have one product in their gradient and none before;
    Hyena's filter begins with a product by constants, its positions. Retention computes its scores
    again.)"""
    cfg = tiny(mixer, family)
    scores = 2 * 32 * 8 * cfg.d_key * cfg.n_layers if mixer == "retention" else 0  # chunks of 8
    assert counted(cfg, 32, backward=True) == 3 * cost.forward_flops(cfg, 32, masked=True) + scores


@settings(max_examples=40)
@given(shapes())
@example((tiny("retention"), 8))  # one whole chunk
@example((tiny("retention"), 5))  # less than one
@example((tiny("retention"), 21))  # a rest
@example((tiny("retention", kernel="parallel"), 21))
def test_training_flops_equal_flop_counter_mode(shape):
    cfg, length = shape
    assert counted(cfg, length, backward=True) == cost.executed_train_flops(cfg, length)


def test_fused_attention_on_cpu_is_counted_and_computes_its_scores_twice():
    cfg = tiny("attention", kernel="sdpa")
    model, ids = build(cfg), torch.zeros(1, 24, dtype=torch.long)
    with FlopCounterMode(display=False) as blind:
        model(ids)
    with FlopCounterMode(display=False, custom_mapping=ADDED) as forward:
        model(ids)
    with FlopCounterMode(display=False, custom_mapping=ADDED) as both:
        model(ids).sum().backward()
    scores = cfg.n_layers * 4 * 24**2 * cfg.d_key
    assert forward.get_total_flops() - blind.get_total_flops() == scores
    assert forward.get_total_flops() == cost.forward_flops(cfg, 24, masked=True)
    assert both.get_total_flops() == cost.executed_train_flops(cfg, 24)
    assert both.get_total_flops() == 3 * forward.get_total_flops() + scores / 2


@pytest.mark.parametrize(("mixer", "kernel"), KERNELS)
def test_prefill_and_step_flops_equal_flop_counter_mode(mixer, kernel):
    model = build(tiny(mixer, kernel=kernel))
    state = model.new_state(1, 30)
    with torch.no_grad(), FlopCounterMode(display=False) as prompt:
        model.prefill(torch.zeros(1, 21, dtype=torch.long), state)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.step(torch.zeros(1, 1, dtype=torch.long), state)
    extra = 0.0
    if kernel == "parallel":  # it meets a state, which from the start is empty: Q R for each token
        extra = model.cfg.n_layers * 2 * 21 * model.cfg.d_key * model.cfg.value_dim
    assert prompt.get_total_flops() == cost.prefill_flops(model.cfg, 21, masked=True) + extra
    assert step.get_total_flops() == cost.step_flops(model.cfg, 21)


def test_training_moves_ten_copies_of_the_weights_and_each_blocks_input_twice():
    cfg = tiny("attention")
    inputs = cfg.n_layers * 2 * 3 * 10 * cfg.d_model
    assert cost.train_bytes(cfg, 3, 10, 2) == 40 * cost.parameters(cfg) + inputs * 2
    assert cost.train_bytes(cfg, 3, 10, 8) == 80 * cost.parameters(cfg) + inputs * 8


@pytest.mark.parametrize("family", ["paper", "modern"])
@pytest.mark.parametrize("masked", [True, False])
def test_retention_has_no_quadratic_term_and_attention_has(family, masked):
    retention, attention = tiny("retention", family), tiny("attention", family)
    once, twice = (cost.forward_flops(retention, n, masked=masked) for n in (1024, 2048))
    assert twice == 2 * once
    once, twice = (cost.forward_flops(attention, n, masked=masked) for n in (1024, 2048))
    pairs = {True: 2 * 1024**2, False: 1024**2}[masked]  # what is more than double
    assert twice - 2 * once == pairs * 4 * attention.d_key * attention.n_layers


@pytest.mark.parametrize(("mixer", "kernel"), KERNELS)
def test_unmasked_flops_leave_out_the_future_only(mixer, kernel):
    """D4: utilisation by each architecture's own formula.

    16 tokens in chunks of 8: 2 x 28 future pairs a head, or 120 without chunks.
    """
    cfg = tiny(mixer, kernel=kernel)
    future = {"chunkwise": 56, "parallel": 120, "math": 120, "recurrent": 0}[kernel]
    spared = cost.forward_flops(cfg, 16, masked=True) - cost.forward_flops(cfg, 16)
    assert spared == cfg.n_layers * 2 * future * (cfg.d_key + cfg.d_value)


def test_train_flops_per_token():
    cfg = tiny("attention")
    assert cost.train_flops_per_token(cfg, 10) == 3 * cost.forward_flops(cfg, 10) / 10


@pytest.mark.parametrize(("mixer", "family"), ARMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_state_bytes_equal_the_tensors(mixer, family, dtype):
    model = build(tiny(mixer, family)).to(dtype)
    state = model.new_state(3, 17)
    tensors = [t for s in state.layers for t in ([s] if torch.is_tensor(s) else vars(s).values())]
    held = sum(t.nbytes for t in tensors if torch.is_tensor(t))
    assert held == cost.state_bytes(model.cfg, 3, 17, dtype.itemsize)


def test_step_bytes_read_a_cache_once_and_rewrite_a_state():
    for mixer, passes in (("attention", 1), ("retention", 2)):
        cfg = tiny(mixer)
        weights = cost.parameters(cfg) * 2
        expected = weights + passes * cost.state_bytes(cfg, 2, 9, 2)
        assert cost.step_bytes(cfg, 2, 9, 2) == expected
