"""A pattern of mixers over the layers: what is built, what it costs, and how it is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from fakes import causal_mean
from fakes.options import options_of
from tiny_models import on_meta, tiny, tokens
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS
from retnet_bench.kernels.flops import ADDED
from retnet_bench.models import LanguageModel, ModelConfig, agreement, checkpoint, cost, match
from retnet_bench.models.config import OF_LAYER, LayerConfig, Size
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.pattern import LayerChoice

RETENTION = LayerChoice(mixer="retention", kernel="chunkwise", options=options_of("retention"))
ATTENTION = LayerChoice(
    mixer="attention", kernel="math", options=options_of("attention", head_dim=16)
)
PATTERN = (RETENTION, RETENTION, RETENTION, ATTENTION)


def layer(mixer: str, **changes: object) -> LayerConfig:
    cfg = tiny(mixer, size=Size(32, 4, 16, 8), **changes)
    return LayerConfig(**{name: getattr(cfg, name) for name in OF_LAYER})


def hybrid(*entries: LayerConfig, n_layers: int = 4, **changes: object) -> ModelConfig:
    """Of heads of different widths: 16 for keys of retention, 8 for those of attention."""
    layers = entries or (layer("retention", chunk=8), layer("attention"))
    base = tiny("attention", size=Size(32, n_layers, 16, 8), d_ffn=24)
    return replace(base, layers=layers, **changes)


@pytest.fixture
def matched() -> ModelConfig:
    return match("0.4M", "hybrid", layers=PATTERN).config


def test_the_pattern_repeats_over_the_depth(matched):
    assert [matched.at(i).mixer for i in range(6)] == [c.mixer for c in PATTERN] + ["retention"] * 2
    assert [*matched.kinds.values()] == [3, 1]
    deep = replace(matched, n_layers=7)
    assert Counter(deep.at(i).mixer for i in range(7)) == {"retention": 6, "attention": 1}
    assert matched.at(3).n_heads == 6
    assert not matched.at(3).layers


def test_what_stands_for_the_mixer_is_the_first_entrys():
    cfg = hybrid(layer("attention"), layer("retention"))
    assert (cfg.mixer, cfg.kernel, cfg.d_value) == ("attention", "math", 32)
    assert cfg.options == cfg.at(0).options


def test_a_pattern_longer_than_the_depth_is_refused():
    with pytest.raises(UserError, match="the pattern has 3 entries, the model 2 layers"):
        hybrid(*[layer("attention")] * 3, n_layers=2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("d_ffn", [24, 0])
def test_costs_are_the_sums_over_the_layers(bias, d_ffn):
    cfg = hybrid(layer("retention", chunk=8), layer("attention"), layer("mean"), n_layers=5)
    cfg = replace(cfg, bias=bias, d_ffn=d_ffn)
    model, ids = on_meta(cfg), torch.zeros(1, 21, dtype=torch.long, device="meta")
    assert cost.parameters(cfg) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False, custom_mapping=ADDED) as forward:
        model(ids)
    with FlopCounterMode(display=False, custom_mapping=ADDED) as both:
        model(ids).sum().backward()
    assert forward.get_total_flops() == cost.forward_flops(cfg, 21, masked=True)
    assert both.get_total_flops() == cost.executed_train_flops(cfg, 21)


def test_its_state_is_that_of_its_layers(matched):
    pure = {m: match("0.4M", m, options=options_of(m)).config for m in ("retention", "attention")}
    one = {m: cost.state_bytes(cfg, 2, 100, 4) // 4 for m, cfg in pure.items()}
    assert cost.state_bytes(matched, 2, 100, 4) == 3 * one["retention"] + one["attention"]
    assert cost.state_grows(matched)
    assert not cost.state_grows(pure["retention"])
    weights = cost.parameters(matched) * 4
    assert cost.step_bytes(matched, 2, 100, 4) == weights + 6 * one["retention"] + one["attention"]


def test_it_is_matched_by_its_feed_forward(matched):
    reference = match("0.4M", "attention").config
    assert abs(cost.body_parameters(matched) / cost.body_parameters(reference) - 1) < 0.01
    assert matched.d_ffn not in (reference.d_ffn, match("0.4M", "retention").config.d_ffn)


@pytest.mark.parametrize("family", ["paper", "modern"])
def test_every_form_agrees(family):
    entries = (layer("retention", chunk=8), layer("attention"), layer("mean"))
    cfg = replace(hybrid(*entries), family=family)
    for found in agreement.check(cfg, "cpu", "bf16"):
        assert found.ok, found.line()


def test_every_kernel_of_every_entry_is_checked():
    cfg = hybrid(layer("retention"), layer("attention"))
    tried = [set(kernels.values()) for kernels in agreement._assignments(cfg, "cpu", "fp64")]
    assert set().union(*tried) == {"chunkwise", "parallel", "recurrent", "sdpa", "math"}


@pytest.mark.parametrize("name", ["parallel", "math"])
def test_a_broken_kernel_of_any_entry_is_red(monkeypatch, name):
    whole = KERNELS[name]

    def shifted(q, k, v, *rest, **more):
        return whole.run(q, k, v * 1.001, *rest, **more)

    monkeypatch.setitem(KERNELS._items, name, replace(whole, run=shifted))
    (found,) = agreement.check(hybrid(), "cpu", "fp64")
    assert not found.ok
    assert name in found.where


def test_a_checkpoint_keeps_the_pattern(tmp_path):
    torch.manual_seed(0)
    model = LanguageModel(hybrid(layer("retention", decay="eq8"), layer("attention")))
    checkpoint.save(model, tmp_path, {})
    loaded, _ = checkpoint.load(tmp_path)
    ids = tokens(model.cfg, 2, 9)
    assert loaded.cfg.layers == model.cfg.layers
    assert torch.equal(loaded(ids), model(ids))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mixer": "retenton"}, 'unknown mixer "retenton"; did you mean "retention"?'),
        ({"decay": "fast"}, 'decay: "fast" is unknown'),
        ({"window": [3]}, 'unknown key "window"'),
        ({"n_heads": 0}, "layers.0.n_heads is 0"),
        ({"d_key": 48}, r"weight layers.0.mixer.query.weight has shape \(32, 32\)"),
    ],
)
def test_a_wrong_entry_of_a_header_is_one_line(tmp_path, change, words):
    checkpoint.save(LanguageModel(hybrid()), tmp_path, {})
    path = tmp_path / "model.safetensors"
    tensors, header = checkpoint.load_tensors(path)
    header["config"]["layers"][0] |= change
    checkpoint.save_tensors(tensors, path, header)
    with pytest.raises(UserError, match=words) as caught:
        checkpoint.load(tmp_path)
    assert str(path) in str(caught.value)


def test_without_a_feed_forward_a_block_is_its_mixer():
    model = LanguageModel(tiny("attention", d_ffn=0))
    assert not [name for name, _ in model.named_parameters() if "ffn" in name]
    assert agreement.check(tiny("retention", d_ffn=0), "cpu", "fp64")[0].ok


# --- what crosses layers -------------------------------------------------------------------------


class FirstValues(causal_mean.CausalMean):
    """Later layers add the first one's values, as RWKV-7's do."""

    def forward(self, x, context):
        return super().forward(x, context) + self._first(x, context)

    def prefill(self, x, context, state, start):
        return super().prefill(x, context, state, start) + self._first(x, context)

    def step(self, x, context, state, position):
        return super().step(x, context, state, position) + self._first(x, context)

    def _first(self, x, context):
        if self.layer == 0:
            context.shared["value"] = self.value(x)
        return context.shared["value"]


@pytest.fixture
def crossing(monkeypatch) -> ModelConfig:
    monkeypatch.setitem(MIXERS._items, causal_mean.NAME, FirstValues)
    return tiny(causal_mean.NAME, n_layers=3)


def test_tensors_cross_layers_in_every_form(crossing):
    (found,) = agreement.check(crossing, "cpu", "fp64")
    assert found.ok, found.line()
    torch.manual_seed(0)
    model, ids = LanguageModel(crossing), tokens(crossing, 1, 5)
    before = model(ids)
    with torch.no_grad():
        model.blocks[0].mixer.out.weight.zero_()
        model.blocks[0].mixer.value.weight.mul_(2)
    assert not torch.allclose(model(ids), before)


def test_recomputed_blocks_give_the_same_gradients_across_layers(crossing):
    torch.manual_seed(0)
    model, ids = LanguageModel(crossing).double(), tokens(crossing, 2, 9)
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        model.recompute = recompute
        model.loss(ids, ids).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)
