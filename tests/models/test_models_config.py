"""What a config refuses, the sizes, and the decays of the paper."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tiny_models import build, tiny, tokens

from retnet_bench.base import UserError
from retnet_bench.models import MIXERS, SIZES
from retnet_bench.models.config import size
from retnet_bench.models.mixers.base import head_count
from retnet_bench.models.mixers.retention import log_decay


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"n_heads": 3}, "d_key 16 does not divide into 3 heads"),
        ({"d_value": 33}, "d_value 33 does not divide into 2 heads"),
        ({"n_heads": 16}, "key head dimension 1 is odd"),
        ({"family": "papr"}, 'family "papr" is unknown; did you mean "paper"'),
        ({"decay": "experiment"}, 'decay: "experiment" is unknown; did you mean "experiments"'),
        ({"head_norm": "grup"}, 'head_norm: "grup" is unknown; did you mean "group"'),
        ({"chunk": 0}, "chunk: input should be greater than 0, not 0"),
        ({"gate": 1}, "gate: input should be a valid boolean, not 1"),
        ({"head_dim": 6}, "head_dim is 6, but 2 heads of d_key 16 have 8"),
    ],
)
def test_refusals(changes, line):
    tiny("retention", gate=True)  # which gate=1 equals, and must not be taken for
    with pytest.raises(UserError, match=line):
        tiny("retention", **changes)


def test_unknown_names_come_with_a_suggestion():
    with pytest.raises(UserError, match=r'unknown size "1\.3b"; did you mean "1\.3B"'):
        size("1.3b")
    with pytest.raises(UserError, match='unknown mixer "retnetion"; did you mean "retention"'):
        MIXERS["retnetion"]
    with pytest.raises(UserError, match='unknown kernel "chunkwis"; did you mean "chunkwise"'):
        build(tiny("retention", kernel="chunkwis"))


def test_head_count():
    assert head_count(1024, 256) == 4
    for wrong in (100, 0, -4):
        with pytest.raises(UserError, match=f"head_dim {wrong} does not divide the width 64"):
            head_count(64, wrong)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny("retention").d_model = 8  # type: ignore[misc]


# Table 2 of the paper: hidden size, layers, heads.
@pytest.mark.parametrize(
    ("name", "d_model", "layers", "heads"),
    [("1.3B", 2048, 24, 8), ("2.7B", 2560, 32, 10), ("6.7B", 4096, 32, 16)],
)
def test_sizes_of_table_2(name, d_model, layers, heads):
    row = SIZES[name]
    assert (row.d_model, row.n_layers) == (d_model, layers)
    assert head_count(row.d_model, row.retention_head_dim) == heads


@pytest.mark.parametrize("name", SIZES)
def test_a_sizes_name_is_its_body(name):
    unit = {"M": 1e6, "B": 1e9}[name[-1]]
    assert SIZES[name].nominal_body / (float(name[:-1]) * unit) == pytest.approx(1, abs=0.11)


# Section 3.1: gamma = 1 - exp(linspace(ln 1/32, ln 1/512, h)).
EIGHT = (0.96875, 0.97897, 0.98585, 0.99048, 0.99359, 0.99569, 0.99710, 0.99805)
FOUR = (0.96875, 0.98760, 0.99508, 0.99805)


@pytest.mark.parametrize("gammas", [EIGHT, FOUR])
def test_decays_of_the_experiments(gammas):
    assert log_decay("experiments", len(gammas)).exp().tolist() == pytest.approx(gammas, abs=5e-6)


@pytest.mark.parametrize("heads", [2, 4, 8, 10, 16, 20])
def test_the_experiments_horizon_is_512_tokens_for_every_head_count(heads):
    gamma = log_decay("experiments", heads).exp()
    assert 1 / (1 - gamma[-1].item()) == pytest.approx(512)
    assert 1 / (1 - gamma[0].item()) == pytest.approx(32)


@pytest.mark.parametrize(
    ("heads", "largest", "digits"),
    [(4, 0.99609, 5e-6), (8, 0.999756, 5e-7), (10, 0.999939, 5e-7), (16, 0.99999905, 5e-9)],
)
def test_decays_of_equation_8(heads, largest, digits):
    gamma = log_decay("eq8", heads).exp()
    assert gamma[0].item() == pytest.approx(31 / 32, abs=1e-15)
    assert gamma[-1].item() == pytest.approx(largest, abs=digits)


def test_equation_8_keeps_its_slowest_heads_apart_in_fp32():
    """gamma itself would round to 1 in fp32 from head 20 on; ln gamma does not."""
    decay = log_decay("eq8", 24).float()
    assert (decay < 0).all()
    assert decay[-1].item() == pytest.approx(-(2.0**-28), rel=1e-6)
    assert decay.unique().numel() == 24


def test_decays_of_the_ablations():
    assert log_decay("single", 4).tolist() == [math.log1p(-1 / 128)] * 4
    assert log_decay("none", 4).tolist() == [0.0] * 4


@pytest.mark.parametrize("schedule", ["experiments", "eq8", "single", "none"])
def test_the_decay_of_the_config_reaches_the_model(schedule):
    model = build(tiny("retention", decay=schedule))
    for block in model.blocks:
        assert torch.equal(block.mixer.log_decay, log_decay(schedule, 2).float())
    assert torch.isfinite(model(tokens(model.cfg, 1, 20))).all()


def test_a_kernel_of_the_other_mixer_is_refused():
    with pytest.raises(UserError):
        build(tiny("retention", kernel="math"))
