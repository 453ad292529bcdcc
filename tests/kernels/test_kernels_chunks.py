"""What chunkwise forms share: cutting, ordering, and the scan along the chunks."""

from __future__ import annotations

import pytest
import torch
from kernel_inputs import relative

from retnet_bench.kernels import chunks


@pytest.mark.parametrize(("length", "pieces"), [(3, [3]), (4, [4]), (8, [8]), (11, [8, 3])])
def test_whole_chunks_go_together_and_the_rest_as_one_shorter(length, pieces):
    seen = []

    def run(x, C, state):
        seen.append((x.shape[1], C))
        return x, state + x.sum()

    x = torch.arange(1.0, length + 1)[None]
    out, state = chunks.over_chunks(run, (x,), 4, torch.zeros(()))
    assert torch.equal(out, x)
    assert state == length * (length + 1) / 2
    assert seen == [(n, min(n, 4)) for n in pieces]
    costs = chunks.flops_over_chunks(length, 4, lambda c: 10.0**c)
    assert costs == sum(n // min(n, 4) * 10.0 ** min(n, 4) for n in pieces)


def test_by_chunk_and_back():
    x = torch.randn(2, 12, 3, 5)
    cut = chunks.by_chunk(x, 4)
    assert cut.shape == (2, 3, 3, 4, 5)
    assert torch.equal(cut[1, 2, 1, 3], x[1, 4 + 3, 2])
    assert torch.equal(chunks.in_order(cut), x)


def by_hand(increments, state, decay, dim):
    before = []
    for n in range(increments.shape[dim]):
        before.append(state)
        state = decay.select(dim, n) * state + increments.select(dim, n)
    return torch.stack(before, dim), state


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("wide", [(1, 5, 6, 4, 1), (2, 5, 6, 4, 3), (2, 5, 6, 1, 1)])
@pytest.mark.parametrize("learned", [True, False])
def test_the_scan_and_its_gradients(dim, wide, learned):
    increments = torch.randn(2, 5, 6, 4, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn_like(increments.select(dim, 0)).detach().requires_grad_()
    decay = torch.rand(wide, dtype=torch.float64, requires_grad=learned)
    found = chunks.scan(increments, state, decay, dim)
    expected = by_hand(increments, state, decay, dim)
    leaves = [increments, state] + [decay] * learned
    grads = []
    for before, last in (found, expected):
        loss = (before * torch.linspace(-1, 1, 5 * 6 * 24).view_as(before)).sum()
        grads.append(torch.autograd.grad(loss + last.square().sum(), leaves))
    for a, b in zip((*found, *grads[0]), (*expected, *grads[1]), strict=True):
        assert relative(a, b) < 1e-13


def test_a_scan_of_one_returns_the_state_it_was_given():
    """So that no gradient is made for an empty state."""
    state = torch.zeros(1, 1, 2, 2)
    before, _ = chunks.scan(
        torch.ones(1, 1, 1, 2, 2, requires_grad=True), state, torch.ones(1, 1, 1, 1, 1)
    )
    assert not before.requires_grad
