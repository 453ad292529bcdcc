"""Pairs are matched: by what, how closely, and when a pair is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import build, kernel_of, tokens

from retnet_bench.base import UserError
from retnet_bench.models import MIXERS, SIZES, cost, match, matching
from retnet_bench.models.matching import reference
from retnet_bench.models.mixers.retention import RetentionOptions


def quantity(cfg, by, length):
    if by == "params":
        return cost.body_parameters(cfg)
    return cost.train_flops_per_token(cfg, length)


@pytest.mark.parametrize("family", ["paper", "modern"])
@pytest.mark.parametrize("by", ["params", "train_flops"])
@pytest.mark.parametrize("name", SIZES)
def test_both_arms_match_to_one_percent(name, by, family):
    for mixer, kernel in (("retention", "chunkwise"), ("attention", "math")):
        for length in (512, 2048, 8192):
            found = match(name, mixer, family=family, by=by, length=length, kernel=kernel)
            base = quantity(reference(name, family, 257), by, length)
            actual = quantity(found.config, by, length) / base - 1
            assert found.mismatch == pytest.approx(actual, abs=1e-12)
            assert abs(actual) <= 0.01
            assert found.config.d_ffn >= 1


@pytest.mark.parametrize("family", ["paper", "modern"])
@pytest.mark.parametrize("name", SIZES)
def test_the_transformer_is_its_own_reference(name, family):
    found = match(name, "attention", family=family)
    assert found.config == reference(name, family, 257)
    assert found.mismatch == 0.0


@pytest.mark.parametrize("name", SIZES)
def test_the_papers_allocation(name):
    """Section 3.1: d_v = 2 d and d_ffn = 2 d; head dimensions 256 and 512 where the paper's."""
    found = match(name, "retention", kernel="chunkwise")
    cfg, d = found.config, SIZES[name].d_model
    assert (cfg.d_key, cfg.d_value, cfg.d_ffn) == (d, 2 * d, 2 * d)
    assert cfg.value_dim == 2 * cfg.key_dim
    assert found.mismatch == 0.0
    assert cfg.options == RetentionOptions(head_norm="group", gate=True, decay="experiments")


@pytest.mark.parametrize("name", ["200M", "1.3B", "6.7B"])
def test_without_the_gate_the_transformers_allocation(name):
    """Table 6: "- swish gate" has d_v = d and d_ffn = 4 d."""
    cfg = match(name, "retention", kernel="chunkwise", options=RetentionOptions(gate=False)).config
    d = SIZES[name].d_model
    assert (cfg.options.gate, cfg.d_value, cfg.d_ffn) == (False, d, 4 * d)


@pytest.mark.parametrize("name", SIZES)
def test_the_modern_allocation(name):
    """d_v near 5/3 d with whole heads of a multiple of 8; RMS head norm; SwiGLU of 8/3 d beside."""
    cfg = match(name, "retention", family="modern", kernel="chunkwise").config
    d = SIZES[name].d_model
    assert cfg.options.head_norm == "rms"
    assert cfg.value_dim % 8 == 0
    assert cfg.d_value == pytest.approx(5 / 3 * d, abs=4 * cfg.n_heads)
    assert reference(name, "modern", 257).d_ffn == pytest.approx(8 / 3 * d, abs=4)


DERIVED = {
    "paper": {"gate": True, "decay": "experiments", "head_norm": "group", "head_dim": 256},
    "modern": {"gate": True, "decay": "experiments", "head_norm": "rms", "head_dim": 256},
}


@pytest.mark.parametrize("family", ["paper", "modern"])
@pytest.mark.parametrize("option", DERIVED["paper"])
def test_an_option_that_is_not_said_is_derived(family, option):
    plain = match("1.3B", "retention", family=family, kernel="chunkwise")
    said = RetentionOptions(**{option: DERIVED[family][option]})
    assert match("1.3B", "retention", family=family, kernel="chunkwise", options=said) == plain


def test_options_reach_the_config():
    said = RetentionOptions(head_dim=64, decay="eq8", head_norm="rms", chunk=32)
    cfg = match("200M", "retention", kernel="parallel", options=said).config
    assert cfg.kernel == "parallel"
    assert cfg.options == replace(said, head_dim=None, gate=True), "n_heads says head_dim"
    assert (cfg.n_heads, cfg.key_dim, cfg.value_dim) == (16, 64, 128)


@pytest.mark.parametrize("family", ["paper", "modern"])
def test_only_the_mixer_and_the_feed_forward_differ(family):
    a, b = (
        match("25M", mixer, family=family, kernel=kernel, vocab_size=500).config
        for mixer, kernel in (("retention", "chunkwise"), ("attention", "math"))
    )
    shared = ("family", "d_model", "n_layers", "vocab_size", "norm_eps", "dropout")
    assert all(getattr(a, field) == getattr(b, field) for field in shared)


def test_matching_by_flops_counts_the_length():
    """Attention's cost grows with length, so RetNet's feed-forward gets wider."""
    widths = [
        match("85M", "retention", by="train_flops", length=n, kernel="chunkwise").config.d_ffn
        for n in (512, 2048, 8192)
    ]
    assert widths[0] < widths[1] < widths[2]


def test_a_width_is_a_multiple_of_64_where_that_is_close_enough():
    cfg = match("1.3B", "retention", by="train_flops", kernel="chunkwise").config
    assert cfg.d_ffn % 64 == 0


def test_a_pair_that_cannot_match_is_refused():
    """Values 16 times the model's width: the mixer alone has more than the whole Transformer."""
    with pytest.raises(UserError, match=r"retention at size 0.1M can't be matched by params: \+"):
        match("0.1M", "retention", kernel="chunkwise", d_value=1024)


@pytest.mark.parametrize(("limit", "refused"), [(1e-4, True), (1.0, False)])
def test_the_limit_decides(monkeypatch, limit, refused):
    found = match("0.1M", "retention", family="modern", kernel="chunkwise")
    assert 1e-4 < abs(found.mismatch) < 0.01
    monkeypatch.setattr(matching, "TOLERANCE", limit)
    if refused:
        with pytest.raises(UserError, match="remains at d_ffn"):
            match("0.1M", "retention", family="modern", kernel="chunkwise")
    else:
        assert match("0.1M", "retention", family="modern", kernel="chunkwise") == found


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("25M", "retentoin"), 'unknown mixer "retentoin"; did you mean "retention"'),
        (("25", "retention"), 'unknown size "25"; did you mean "25M"'),
    ],
)
def test_unknown_names(arguments, line):
    with pytest.raises(UserError, match=line):
        match(*arguments)


def test_an_unknown_match_is_refused():
    with pytest.raises(UserError, match='match "param" is unknown; did you mean "params"'):
        match("25M", "retention", by="param")


def test_an_unknown_family_is_refused():
    with pytest.raises(UserError, match='family "papre" is unknown; did you mean "paper"'):
        match("25M", "retention", family="papre")


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_matched_model_runs(mixer):
    cfg = match("0.1M", mixer, family="modern", kernel=kernel_of(mixer)).config
    logits = build(cfg)(tokens(cfg, 1, 9))
    assert logits.shape == (1, 9, 257)
    assert torch.isfinite(logits).all()
