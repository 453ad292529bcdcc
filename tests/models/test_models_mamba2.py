"""Mamba-2: its equation, its start, its costs, and a gate that sees a term go missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import build, kernels_of, on_meta, relative, tiny, tokens
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS, short_conv, ssd
from retnet_bench.models import agreement, cost, match
from retnet_bench.models.config import Size
from retnet_bench.models.mixers.base import Context
from retnet_bench.models.mixers.mamba2 import Mamba2

NAME = "mamba2"
NOTHING = Context(None)


def config(family="paper", heads=4, groups=1, **changes):
    """32 channels for x, states of 8 rows."""
    shape = {"n_heads": heads, "d_key": 8 * heads, "d_value": 32, "d_ffn": 32}
    return tiny(NAME, family, Size(16, 2, 8, 8), **{**shape, "groups": groups, **changes})


@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_it_is_the_papers_equation(groups):
    """Written token by token from section 7 and the authors' code, with nn.Conv1d's convolution."""
    mixer = build(config(groups=groups)).double().blocks[0].mixer
    mixer.move()
    T, H, G, N, P = 9, 4, groups, 8, 8
    u = torch.randn(1, T, 16).double()
    z, xBC, dt = mixer.project(u)[0].split([32, 32 + 2 * G * N, H], -1)
    weight, bias = mixer.conv.weight[:, None], mixer.conv.bias
    xBC = F.conv1d(F.pad(xBC.T[None], (3, 0)), weight, bias, groups=len(weight))[0].T
    xBC = xBC * xBC.sigmoid()
    x, B, C = xBC.split([32, G * N, G * N], -1)
    x, B, C = x.view(T, H, P), B.view(T, G, N), C.view(T, G, N)
    B, C = (y.repeat_interleave(H // G, 1) for y in (B, C))  # (T, H, N)
    dt = torch.log1p((dt + mixer.dt_bias).exp())
    A = -mixer.A_log.exp()
    S, rows = torch.zeros(H, P, N).double(), []
    for t in range(T):
        update = (dt[t, :, None] * x[t])[:, :, None] * B[t][:, None]
        S = (dt[t] * A).exp()[:, None, None] * S + update
        rows.append(torch.einsum("hpn,hn->hp", S, C[t]) + mixer.D[:, None] * x[t])
    y = torch.stack(rows).flatten(1) * z * z.sigmoid()  # the gate comes before the norm
    y = y.view(T, G, -1)
    y = (y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(1) * mixer.norm
    assert relative(mixer(u, NOTHING)[0], mixer.out(y)) < 1e-12


@pytest.mark.parametrize("family", ["paper", "modern"])
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16", "fp16"])
def test_all_forms_agree(family, dtype):
    assert all(a.ok for a in agreement.check(config(family), "cpu", dtype))


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": 2},
        {"groups": 4},
        {"heads": 1},
        {"chunk": 1},
        {"chunk": 5},
        {"conv_width": 1},
        {"conv_width": 2},
        {"conv_width": 7},  # longer than the first prompt
        {"d_ffn": 0},  # as published models
    ],
)
def test_all_forms_agree_whatever_the_options(changes):
    (found,) = agreement.check(config(**changes), "cpu", "fp64")
    assert found.ok
    assert found.error < 1e-13


def red(where="") -> bool:
    (found,) = agreement.check(config(groups=2), "cpu", "fp64")
    return not found.ok and where in found.where


def break_kernel(monkeypatch, name, **functions):
    monkeypatch.setitem(KERNELS._items, name, replace(KERNELS[name], **functions))


def test_the_gate_is_red_for_a_time_step_given_once(monkeypatch):
    """Decay by dt A, but x not scaled by dt, in one form."""

    def broken(x, dt, A, B, C, chunk, state=None):
        return ssd.chunkwise(x / dt[..., None], dt, A, B, C, chunk, state)

    break_kernel(monkeypatch, "ssd_chunkwise", run=broken)
    assert red("ssd_chunkwise ")


def test_the_gate_is_red_for_groups_in_another_order(monkeypatch):
    """Head h with group h mod G, not h div (H / G)."""

    def broken(x, dt, A, B, C, chunk, state=None):
        B, C = (y.repeat(1, 1, 2, 1) for y in (B, C))
        return ssd.chunkwise(x, dt, A, B, C, chunk, state)

    break_kernel(monkeypatch, "ssd_chunkwise", run=broken)
    assert red("ssd_chunkwise ")


def test_the_gate_is_red_for_a_state_that_is_not_decayed_between_chunks(monkeypatch):
    """Each chunk adds to the state what it would with the decay of the last token only."""

    def broken(x, dt, A, B, C, chunk, state=None):
        out, new = ssd.chunkwise(x, dt, A, B, C, chunk, state)
        return out, new if state is None else new + 1e-6 * state

    break_kernel(monkeypatch, "ssd_parallel", run=broken)
    assert red("ssd_parallel prefill")


def test_the_gate_is_red_for_a_step_without_the_skip(monkeypatch):
    real = Mamba2._finish

    def broken(self, x, y, z):
        return real(self, 0 * x if x.dim() == 3 else x, y, z)  # a step's x has no T

    monkeypatch.setattr(Mamba2, "_finish", broken)
    assert red()


def test_the_gate_is_red_for_the_norm_before_the_gate_in_the_step(monkeypatch):
    real = Mamba2._finish

    def broken(self, x, y, z):
        if x.dim() == 4:
            return real(self, x, y, z)
        y = (y + self.D[:, None] * x).flatten(-2).unflatten(-1, (2, -1))
        y = F.rms_norm(y, y.shape[-1:], eps=self.cfg.norm_eps).flatten(-2)
        return self.out(y * self.norm * F.silu(z))

    monkeypatch.setattr(Mamba2, "_finish", broken)
    assert red()


def test_the_gate_is_red_for_a_convolution_that_forgets_its_inputs(monkeypatch):
    def broken(x, weight, bias=None, state=None, silu=False):
        return short_conv.run(x, weight, bias, None, silu)

    break_kernel(monkeypatch, "short_conv", run=broken)
    assert red("prefill")


def test_the_gate_is_red_for_a_second_softplus(monkeypatch):
    def broken(x, dt, A, B, C, state):
        return ssd.recurrent_step(x, F.softplus(dt), A, B, C, state)

    break_kernel(monkeypatch, "ssd_chunkwise", step=broken)
    assert red("ssd_chunkwise prefill")


def test_it_starts_as_the_authors_do():
    cfg = tiny(NAME, "paper", Size(256, 9, 64, 64))
    mixer = build(cfg).blocks[1].mixer
    assert mixer.A_log.exp().min() >= 1 - 1e-6
    assert mixer.A_log.exp().max() <= 16 + 1e-5
    steps = F.softplus(mixer.dt_bias)
    assert 1e-3 - 1e-6 <= steps.min() < steps.max() <= 0.1 + 1e-6
    assert (mixer.D == 1).all()
    assert (mixer.norm == 1).all()
    bound = 256**-0.5
    assert mixer.project.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert mixer.out.weight.abs().max().item() == pytest.approx(512**-0.5 / 3, rel=1e-3)
    assert mixer.conv.weight.abs().max().item() == pytest.approx(0.5, rel=1e-2)


def test_what_is_adversarial_spans_more_than_fp32_can_hold():
    mixer = build(config()).blocks[0].mixer
    mixer.adversarial()
    decay = mixer._split(torch.zeros(1, 1, 16))[2][0, 0] * -mixer.A_log.exp()
    assert decay.max() > -1e-8
    assert decay.min() < -90


def test_decays_stay_in_fp32_and_are_not_decayed():
    model = build(config())
    own = model.blocks[0].mixer.A_log.clone()
    model = model.bfloat16()
    dtypes = {n.split(".")[-1]: p.dtype for n, p in model.blocks[0].mixer.named_parameters()}
    fp32 = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert fp32 == {"A_log", "dt_bias", "D"}
    assert torch.equal(model.blocks[0].mixer.A_log, own)
    parameters = dict(model.named_parameters())
    left = {parameters[name].dim() for name in model.undecayed()}
    assert model.undecayed() <= parameters.keys()
    assert left == {1, 2}
    decayed = parameters.keys() - model.undecayed()
    assert {n for n in decayed if "mixer." in n} == {
        f"layers.{i}.mixer.{name}.weight" for i in range(2) for name in ("project", "out")
    }


def test_strong_decays_leave_all_gradients_finite():
    model = build(config(chunk=64))
    for block in model.blocks:
        block.mixer.adversarial()
    ids = tokens(model.cfg, 2, 150)
    model.loss(ids, ids).backward()
    exact = build(model.cfg).double()
    exact.load_state_dict(model.state_dict())
    exact.loss(ids, ids).backward()
    for (name, p), wanted in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert relative(p.grad, wanted.grad) < 1e-4, name


@settings(max_examples=10)
@given(
    kernel=st.sampled_from(kernels_of(NAME)),
    chunk=st.integers(1, 20),
    groups=st.sampled_from([1, 2, 4]),
    length=st.integers(1, 45),
)
@example(kernel="ssd_chunkwise", chunk=8, groups=1, length=8)
@example(kernel="ssd_chunkwise", chunk=8, groups=2, length=21)
@example(kernel="ssd_parallel", chunk=8, groups=2, length=21)
def test_flops_equal_flop_counter_mode(kernel, chunk, groups, length):
    cfg = config(kernel=kernel, chunk=chunk, groups=groups)
    model, ids = on_meta(cfg), torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        model(ids)
    with FlopCounterMode(display=False) as both:
        model(ids).sum().backward()
    assert forward.get_total_flops() == cost.forward_flops(cfg, length, masked=True)
    assert both.get_total_flops() == cost.executed_train_flops(cfg, length)


@pytest.mark.parametrize("kernel", kernels_of(NAME))
def test_prefill_and_step_flops_equal_flop_counter_mode(kernel):
    model = build(config(kernel=kernel))
    state = model.new_state(1, 30)
    with torch.no_grad(), FlopCounterMode(display=False) as prompt:
        model.prefill(torch.zeros(1, 21, dtype=torch.long), state)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.step(torch.zeros(1, 1, dtype=torch.long), state)
    assert prompt.get_total_flops() == cost.prefill_flops(model.cfg, 21, masked=True)
    assert step.get_total_flops() == cost.step_flops(model.cfg, 21)


def test_the_papers_shape_at_200M():
    """N 128, P 64, 32 heads; 262,144 numbers of state and 6,912 of the convolution a layer."""
    cfg = match("200M", NAME, kernel="ssd_chunkwise").config
    assert (cfg.n_heads, cfg.key_dim, cfg.value_dim) == (32, 128, 64)
    d, N, h = 1024, 128, 32
    expected = d * (4 * d + 2 * N + h) + 5 * (2 * d + 2 * N) + 3 * h + 2 * d + 2 * d**2
    mixer = on_meta(replace(cfg, n_layers=1)).blocks[0].mixer
    assert sum(p.numel() for p in mixer.parameters()) == expected
    assert cost.state_bytes(cfg, 1, 2048, 2) == 16 * (262_144 * 4 + 6_912 * 2)


def test_match_state_finds_a_state_of_retnets_size():
    found = match("3M", NAME, kernel="ssd_chunkwise", by="state")
    assert abs(found.mismatch) < 0.06
    assert found.config.key_dim < 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "groups 3 does not divide the 4 heads; choose one of 1, 2, 4"),
        ({"state_dim": 16}, "state_dim is 16, but the model's widths make it 8"),
        ({"head_dim": 16}, "head_dim is 16, but the model's widths make it 8"),
        ({"expand": 3}, "expand is 3, but the model's widths make it 2"),
        ({"conv_width": 0}, "conv_width"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 128, 64, 512)),
        ({"state_dim": 64, "head_dim": 32, "expand": 1}, (8, 64, 32, 256)),
        ({"expand": 3}, (12, 128, 64, 768)),
    ],
)
def test_options_make_the_shape(options, shape):
    cfg = match("3M", NAME, kernel="ssd_chunkwise", options=Mamba2.Options(**options)).config
    assert (cfg.n_heads, cfg.key_dim, cfg.value_dim, cfg.d_value) == shape
    assert set(cfg.options.given()) == {"chunk", "conv_width", "groups"}
