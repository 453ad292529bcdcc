"""One model, three ways to run it: whole, prefilled in parts, and step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    ARMS,
    EVERY,
    build,
    kernels_of,
    moved,
    on_meta,
    relative,
    rotary,
    tiny,
    tokens,
)

from retnet_bench.models import MIXERS
from retnet_bench.models.config import Size
from retnet_bench.models.layers import Rotary, rotate
from retnet_bench.models.mixers.base import Context, Mixer

RUNS = [(*arm, kernel) for arm in ARMS for kernel in kernels_of(arm[0])]
EXACT = 1e-11


@pytest.mark.parametrize(("mixer", "family", "kernel"), RUNS)
@settings(max_examples=12)
@given(data=st.data())
@torch.no_grad()
def test_forward_equals_prefill_and_steps(mixer, family, kernel, data):
    length = data.draw(st.integers(2, 30))
    first = data.draw(st.integers(1, length))
    second = data.draw(st.integers(0, length - first))
    model = moved(tiny(mixer, family, kernel=kernel)).double()
    ids = tokens(model.cfg, 2, length)
    state = model.new_state(2, length)
    parts = [model.prefill(ids[:, :first], state, every=True)]
    if second:
        parts.append(model.prefill(ids[:, first : first + second], state, every=True))
    assert state.position == first + second
    parts += [model.step(ids[:, n : n + 1], state) for n in range(first + second, length)]
    assert state.position == length
    assert relative(torch.cat(parts, 1), model(ids)) < EXACT


@pytest.mark.parametrize(("mixer", "family"), ARMS)
@torch.no_grad()
def test_prefill_gives_the_last_logits_unless_asked_for_all(mixer, family):
    model = moved(tiny(mixer, family)).double()
    ids = tokens(model.cfg, 2, 11)
    last = model.prefill(ids, model.new_state(2, 11))
    assert last.shape == (2, 1, 31)
    assert relative(last, model(ids)[:, -1:]) < EXACT


REACH = {"gated_conv": 5}
"""Positions that see a token, itself among them, through two layers."""


@pytest.mark.parametrize(("mixer", "family", "kernel"), RUNS)
@pytest.mark.parametrize("changed", [0, 7, 8, 19])
@torch.no_grad()
def test_a_later_token_does_not_change_earlier_logits(mixer, family, kernel, changed):
    model = moved(tiny(mixer, family, kernel=kernel)).double()
    ids = tokens(model.cfg, 1, 20)
    other = ids.clone()
    other[0, changed] = (ids[0, changed] + 1) % model.cfg.vocab_size
    before, after = model(ids), model(other)
    assert torch.allclose(before[:, :changed], after[:, :changed], rtol=0, atol=1e-13)
    seen = slice(changed, changed + REACH.get(mixer, 20))
    differences = (before[:, seen] - after[:, seen]).abs().amax(-1)
    assert (differences > 1e-9).all(), "and every later position in reach sees it"


@pytest.mark.parametrize("mixer", EVERY)
@torch.no_grad()
def test_a_forked_state_decodes_on_without_disturbing_the_first(mixer):
    model = moved(tiny(mixer)).double()
    ids, others = tokens(model.cfg, 2, 12), tokens(model.cfg, 2, 12, seed=9)
    state = model.new_state(2, 12)
    model.prefill(ids[:, :6], state)
    fork = model.fork(state)
    for n in range(6, 10):
        model.step(others[:, n : n + 1], fork)
    assert (state.position, fork.position) == (6, 10)
    found = torch.cat([model.step(ids[:, n : n + 1], state) for n in range(6, 12)], 1)
    assert relative(found, model(ids)[:, 6:]) < EXACT


@pytest.mark.parametrize(("mixer", "family"), ARMS)
@torch.no_grad()
def test_a_tensor_position_gives_the_same_step(mixer, family):
    """What a captured graph runs: positions come in a tensor, masks instead of slices."""
    model = moved(tiny(mixer, family)).double()
    ids = tokens(model.cfg, 2, 14)
    state = model.new_state(2, 20)
    for layer in state.layers:
        if hasattr(layer, "window"):
            layer.window = 16
    found = [model.step_at(ids[:, n : n + 1], state.layers, torch.tensor([n])) for n in range(14)]
    assert relative(torch.cat(found, 1), model(ids)) < EXACT


@torch.no_grad()
def test_a_step_past_the_caches_end_is_refused():
    model = build(tiny("attention"))
    ids = tokens(model.cfg, 1, 5)
    state = model.new_state(1, 4)
    model.prefill(ids[:, :4], state)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        model.step(ids[:, 4:], state)


def test_the_loss_is_the_mean_nll_in_nats_and_fp32():
    model = build(tiny("retention")).bfloat16()
    ids = tokens(model.cfg, 2, 10)
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    logp = model(ids[:, :-1]).float().log_softmax(-1)
    expected = -logp.gather(-1, ids[:, 1:, None]).mean()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("mixer", "family"), ARMS)
def test_every_parameter_gets_a_gradient(mixer, family):
    model = moved(tiny(mixer, family))
    ids = tokens(model.cfg, 2, 20)
    model.loss(ids, ids).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_rotation_turns_by_position_and_keeps_relative_angles():
    """q at m against k at n depends on m - n only; at base 10000 the first pair turns by 1."""
    rotary = Rotary(8).double()
    q, k = torch.randn(8).double(), torch.randn(8).double()

    def score(m: int, n: int) -> float:
        a, b = (rotate(x.view(1, 1, 1, 8), rotary.at(at, 1)) for x, at in ((q, m), (k, n)))
        return (a * b).sum().item()

    assert score(3, 0) == pytest.approx(score(1003, 1000), abs=1e-10)
    assert abs(score(3, 0) - score(4, 0)) > 1e-4
    unit = torch.zeros(1, 1, 1, 8, dtype=torch.float64)
    unit[..., 0] = 1
    turned = rotate(unit, rotary.at(2, 1)).flatten()
    assert turned[0].item() == pytest.approx(torch.tensor(2.0).double().cos().item())
    assert turned[4].item() == pytest.approx(torch.tensor(2.0).double().sin().item())
    expected = [1.0, 0.1, 0.01, 0.001]
    assert rotary.frequency.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("family", ["paper", "modern"])
def test_both_arms_have_the_same_blocks_in_the_same_order(family):
    a, b = (build(tiny(mixer, family)) for mixer in ("retention", "attention"))
    assert [n for n, _ in a.named_children()] == [n for n, _ in b.named_children()]
    for block, twin in zip(a.blocks, b.blocks, strict=True):
        names = ["mixer_norm", "mixer", "ffn_norm", "ffn"]
        assert [n for n, _ in block.named_children()] == names
        for name in ("mixer_norm", "ffn_norm", "ffn"):
            assert type(getattr(block, name)) is type(getattr(twin, name))
    norm = nn.LayerNorm if family == "paper" else nn.RMSNorm
    assert type(a.norm) is type(a.blocks[0].mixer_norm) is norm


@pytest.mark.parametrize(("mixer", "family"), ARMS)
@torch.no_grad()
def test_a_block_is_equation_9(mixer, family):
    """Y = Mixer(norm(X)) + X; X' = FFN(norm(Y)) + Y, pre-norm on both."""
    model = build(tiny(mixer, family)).double()
    block, context = model.blocks[0], model._contexts(0, 9)[0]
    x = torch.randn(1, 9, 16).double()
    y = block.mixer(block.mixer_norm(x), context) + x
    assert torch.equal(block(x, context), block.ffn(block.ffn_norm(y)) + y)


@torch.no_grad()
def test_retention_is_equation_8():
    """(swish(X W_G) * GroupNorm_h(heads)) W_O, each head normalised on its own, no affine."""
    model = build(tiny("retention")).double()
    mixer, angles = model.blocks[0].mixer, rotary(model).at(0, 9)
    x = torch.randn(1, 9, 16).double()
    q, k = (rotate(f(x).view(1, 9, 2, 8), angles).transpose(1, 2) for f in (mixer.query, mixer.key))
    v = mixer.value(x).view(1, 9, 2, 16).transpose(1, 2)
    n = torch.arange(9)
    distance = n[:, None] - n[None]
    D = (mixer.log_decay.exp()[:, None, None] ** distance.clamp(min=0)).tril()
    heads = ((q @ k.mT) / 8**0.5 * D @ v).transpose(1, 2).reshape(9, 32)
    normal = nn.GroupNorm(2, 32, eps=1e-5, affine=False)(heads).view(1, 9, 32)
    gate = mixer.gate(x)
    expected = F.linear(gate * gate.sigmoid() * normal, mixer.out.weight)
    assert relative(mixer(x, Context(angles)), expected) < EXACT


ALWAYS = {
    "gla": {"decay_up"},
    "h3": {"query", "key", "value", "out"},
    "hyena": {"branches", "out"},
    "kda": {"gate.1"},
}
"""Maps of a mixer whose biases belong to its maths."""


def test_no_biases_and_no_affine_head_norm():
    """Only the pre-norms have vectors: 2 a block and a last one, weight and bias each."""
    model = build(tiny("retention"))
    vectors = [n for n, p in model.named_parameters() if p.dim() == 1]
    assert len(vectors) == 2 * (2 * 2 + 1)
    assert all("norm." in n for n in vectors)
    for mixer, family in ARMS:
        parts = build(tiny(mixer, family)).named_modules()
        linears = {name: part for name, part in parts if isinstance(part, nn.Linear)}
        biased = {
            name.split(".mixer.")[-1] for name, part in linears.items() if part.bias is not None
        }
        assert biased == ALWAYS.get(mixer, set())


def test_the_head_is_tied_to_the_embedding():
    model = on_meta(tiny("attention", vocab_size=5000))
    assert sum(p.shape[0] == 5000 for p in model.parameters()) == 1


OWN_START = [name for name, kind in MIXERS.items() if kind.initialise is not Mixer.initialise]


@pytest.mark.parametrize(("mixer", "family"), [a for a in ARMS if a[0] not in OWN_START])
def test_initialisation_is_deepnets_for_all_that_do_not_start_otherwise(mixer, family):
    """Xavier normal: std = gain sqrt(2 / (fan_in + fan_out)); gain (8 L)^-1/4 but for q and k."""
    d, layers = 192, 3
    cfg = tiny(mixer, family, Size(d, layers, d // 2, d // 2), d_ffn=160, vocab_size=300)
    model = build(cfg)
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            role = name.split(".", 2)[-1]
            gain = 1.0 if role in ("mixer.query", "mixer.key") else (8 * layers) ** -0.25
            std = gain * (2 / (module.in_features + module.out_features)) ** 0.5
            assert module.weight.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(module.weight.mean().item()) < 0.05 * std
            seen.add(role)
    ffn = {"ffn.up", "ffn.down"} | ({"ffn.gate"} if family == "modern" else set())
    assert ffn < seen
    assert model.embedding.weight.std().item() == pytest.approx(d**-0.5, rel=0.03)
    assert all((p == 1).all() for n, p in model.named_parameters() if n.endswith("norm.weight"))


def test_a_seed_fixes_the_weights():
    a, b, c = (build(tiny("retention"), seed).embedding.weight for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
