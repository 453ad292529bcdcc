"""Convolutions as long as the sequence: every form is the sum written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import relative
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import long_conv

FORMS = (long_conv.fft, long_conv.toeplitz)
EXACT = 1e-12


def inputs(S, d=3, batch=2, dtype=torch.float64, seed=0, longer=5):
    """z (B, S, d) and a filter that has more taps than there are tokens."""
    make = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, S, d, generator=make, dtype=torch.float64)
    h = torch.randn(d, S + longer, generator=make, dtype=torch.float64)
    return z.to(dtype), h if dtype == torch.float64 else h.float()


def by_hand(z, h):
    """y_t = sum over s <= t of h_(t-s) z_s, one product at a time."""
    rows = [sum(h[:, t - s] * z[:, s] for s in range(t + 1)) for t in range(z.shape[1])]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30)
@given(S=st.integers(1, 40), rows=st.integers(1, 40), d=st.integers(1, 4), longer=st.integers(0, 9))
@example(S=1, rows=1, d=1, longer=0)
def test_each_form_is_the_sum_written_out(form, S, rows, d, longer):
    z, h = inputs(S, d, seed=S, longer=longer)
    expected = by_hand(z, h)
    assert relative(form(z, h), expected) < EXACT
    rows = min(rows, S)
    assert relative(form(z, h, rows), expected[:, S - rows :]) < EXACT


@pytest.mark.parametrize("form", FORMS)
def test_nothing_comes_round_from_the_end(form):
    """In transforms of less than twice the length the last inputs reach the first outputs."""
    z, h = inputs(32)
    other = z.clone()
    other[:, 20:] += 1e6
    assert relative(form(other, h)[:, :20], by_hand(z, h)[:, :20]) < 1e-8


@pytest.mark.parametrize("S", [1, 7, 16])
def test_gradients_of_both_forms_agree(S):
    found = []
    for form in (*FORMS, by_hand):
        leaves = [x.requires_grad_() for x in inputs(S)]
        out = form(*leaves)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        found.append([x.grad for x in leaves])
    for grads in found[:2]:
        for a, b in zip(grads, found[2], strict=True):
            assert relative(a, b) < EXACT


@pytest.mark.parametrize("taps", [3, 9, 12])
def test_the_gradient_of_a_convolution_is_that_of_its_definition(taps):
    """Filters shorter and longer than the input, shared between channels or not."""
    u = torch.randn(2, 4, 9, dtype=torch.float64, requires_grad=True)
    for sizes in ((1, 4), (2, 4), (1, 1)):
        h = torch.randn(*sizes, taps, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(long_conv.convolve, (u, h))


def test_the_compiler_takes_it_whole():
    compiled = torch.compile(long_conv.fft, fullgraph=True, backend="aot_eager")
    leaves = [x.requires_grad_() for x in inputs(20)]
    compiled(*leaves).square().sum().backward()
    wanted = [x.requires_grad_() for x in inputs(20)]
    by_hand(*wanted).square().sum().backward()
    for a, b in zip(leaves, wanted, strict=True):
        assert relative(a.grad, b.grad) < EXACT


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_fp32(form, dtype):
    z, h = inputs(300, dtype=dtype)
    out = form(z, h)
    assert out.dtype == dtype
    assert relative(out, by_hand(z.double(), h.double())) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("form", FORMS)
def test_autocast_does_not_reach_it(form):
    z, h = inputs(64, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(form(z, h), by_hand(z.double(), h.double())) < 1e-5


# --- steps ---------------------------------------------------------------------------------------


def cache(z, capacity):
    """(B, d, capacity), with what no step may read behind."""
    held = torch.full((*z.transpose(1, 2).shape[:2], capacity), 1e9, dtype=z.dtype)
    held[..., : z.shape[1]] = z.transpose(1, 2)
    return held


@settings(max_examples=30)
@given(S=st.integers(1, 30), position=st.integers(0, 29), batch=st.integers(1, 3))
def test_a_step_is_a_row_of_the_whole(S, position, batch):
    position = min(position, S - 1)
    z, h = inputs(S, batch=batch, seed=S)
    held, expected = cache(z, S + 4), by_hand(z, h)[:, position]
    taps = long_conv.backward_taps(h.flip(1), position + 1, position)
    assert relative(long_conv.cached_step(held[..., : position + 1], taps), expected) < EXACT
    taps = long_conv.backward_taps(h.flip(1), S + 4, torch.tensor([position]))
    assert (taps[:, position + 1 :] == 0).all()
    assert relative(long_conv.cached_step(held, taps), expected) < EXACT


def test_a_large_cache_is_taken_in_tiles(monkeypatch):
    z, h = inputs(30, d=5, batch=2)
    whole = long_conv.cached_step(cache(z, 30), h[:, :30].flip(1))
    for tile in (1, 60, 130, 250, 1000):
        monkeypatch.setattr(long_conv, "TILE", tile)
        assert relative(long_conv.cached_step(cache(z, 30), h[:, :30].flip(1)), whole) < EXACT
    assert relative(whole, by_hand(z, h)[:, -1]) < EXACT


# --- costs ---------------------------------------------------------------------------------------


def test_flops_of_the_matrix_equal_flop_counter_mode_and_transforms_are_not_seen():
    z, h = inputs(30, d=5, batch=1)
    with FlopCounterMode(display=False) as counter:
        long_conv.toeplitz(z, h)
    assert counter.get_total_flops() == 5 * long_conv.toeplitz_flops(30, masked=True)
    with FlopCounterMode(display=False) as counter:
        long_conv.fft(z, h)
        long_conv.cached_step(cache(z, 30), h[:, :30])
    assert counter.get_total_flops() == 0


def test_flops_by_hand():
    """T 2048: two transforms of 4096 = 2^12 numbers, 2.5 x 4096 x 12 each, and 2048 products."""
    assert long_conv.fft_flops(2048) == 2 * 2.5 * 4096 * 12 + 6 * 2048
    assert long_conv.fft_flops(1) == 10 + 6
    assert long_conv.toeplitz_flops(3, masked=False) == 2 * (1 + 2 + 3)
    assert long_conv.cached_step_flops(9) == 20
