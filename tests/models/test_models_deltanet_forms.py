"""The check of forms on the mixers with a delta rule: green for their options, red for twins with
one term broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny

from retnet_bench.kernels import KERNELS, delta
from retnet_bench.models.agreement import check
from retnet_bench.models.config import Size
from retnet_bench.models.mixers import deltanet

EACH = ("deltanet", "gated_deltanet", "kda")
NARROW = Size(32, 2, 8, 8)


@pytest.mark.parametrize("mixer", EACH)
@pytest.mark.parametrize(
    "changes",
    [
        {"allow_neg_eigval": True},
        {"conv_width": 0},
        {"conv_width": 1},
        {"conv_width": 9},
        {"chunk": 1},
        {"chunk": 5},
        {"gate": True},
        {"gate": False},
        {"n_heads": 1, "d_key": 12, "d_value": 7},
    ],
)
def test_green_for_the_options(mixer, changes):
    found = check(tiny(mixer, size=NARROW, **changes), "cpu", "fp32")
    assert all(a.ok for a in found), [a.line() for a in found]


def plain(*inputs, state, chunk=64):
    return delta.chunkwise(*inputs, chunk, state)


def without_beta(q, k, v, beta, g, chunk, state=None):
    return plain(q, k, v, torch.ones_like(beta), g, state=state)


def without_decay(q, k, v, beta, g, chunk, state=None):
    return plain(q, k, v, beta, None, state=state)


def scale_in_the_state(q, k, v, beta, g, chunk, state=None):
    out, state = plain(q, k, v, beta, g, state=state)
    return out, state * q.shape[-1] ** -0.5


def decay_after_the_token(q, k, v, beta, g, chunk, state=None):
    """The write decays, too: S <- e^g (S + k u^T)."""
    later = torch.cat([torch.zeros_like(g[:, :1]), g[:, :-1]], 1)
    out, state = plain(q, k, v, beta, later, state=state)
    return out, state * torch.exp(g[:, -1])[..., None, None]


def forgets(q, k, v, beta, g, chunk, state=None):
    return plain(q, k, v, beta, g, state=None)


@pytest.mark.parametrize(
    ("mixer", "broken"),
    [
        ("deltanet", without_beta),
        ("deltanet", scale_in_the_state),
        ("deltanet", forgets),
        ("gated_deltanet", without_decay),
        ("kda", without_decay),
        ("kda", without_beta),
        ("kda", forgets),
        ("gated_deltanet", decay_after_the_token),
    ],
)
def test_red_for_a_broken_kernel(monkeypatch, mixer, broken):
    twin = replace(KERNELS["delta_chunkwise"], run=broken)
    monkeypatch.setitem(KERNELS._items, "delta_chunkwise", twin)
    found = check(tiny(mixer, size=NARROW), "cpu", "fp64")[0]
    assert not found.ok
    assert found.where.startswith("delta_chunkwise ")


def _stale_inputs(monkeypatch):
    """The convolution of a step that never takes its token in."""
    step = deltanet.ShortConvolution.step
    monkeypatch.setattr(
        deltanet.ShortConvolution, "step", lambda conv, x, state: step(conv, x, state.clone())
    )


def _half_of_beta(monkeypatch):
    """A step that knows nothing of allow_neg_eigval."""

    def step(q, k, v, beta, g, state):
        return delta.recurrent_step(q, k, v, beta / 2, g, state)

    for name in ("delta_recurrent", "delta_chunkwise"):
        monkeypatch.setitem(KERNELS._items, name, replace(KERNELS[name], step=step))


@pytest.mark.parametrize("broken", [_stale_inputs, _half_of_beta])
@pytest.mark.parametrize("mixer", EACH)
def test_red_for_a_broken_step(monkeypatch, mixer, broken):
    broken(monkeypatch)
    assert not check(tiny(mixer, size=NARROW), "cpu", "fp64")[0].ok


def test_equal_keys_reach_the_kernel_where_one_token_repeats(monkeypatch):
    """What the adversarial setting of the check is for."""
    seen = []
    run = KERNELS["delta_chunkwise"].run
    twin = replace(
        KERNELS["delta_chunkwise"],
        run=lambda q, k, *rest, **options: seen.append(k) or run(q, k, *rest, **options),
    )
    monkeypatch.setitem(KERNELS._items, "delta_chunkwise", twin)
    check(tiny("deltanet", size=NARROW), "cpu", "fp64")
    repeated = [k for k in seen if k.shape[1] > 8 and (k[0, 4:] - k[0, 4:5]).abs().max() < 1e-12]
    assert repeated
