"""Inputs, oracles and hypothesis strategies that the kernel tests share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Sizes of one retention call, and whether it starts from a state."""

    batch: int
    length: int
    heads: int
    d_k: int
    d_v: int
    chunk: int
    stateful: bool
    seed: int

    def tensors(self, dtype: torch.dtype = torch.float64):
        """q, k, v, log_decay, state (or None), reproducible."""
        make = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=make, dtype=torch.float64)

        q, k = (normal(self.batch, self.length, self.heads, self.d_k).to(dtype) for _ in range(2))
        v = normal(self.batch, self.length, self.heads, self.d_v).to(dtype)
        # From fast forgetting (gamma 0.3) to none at all (gamma 1).
        decay = torch.log(torch.linspace(0.3, 1.0, self.heads, dtype=torch.float64))
        state = normal(self.batch, self.heads, self.d_k, self.d_v) if self.stateful else None
        return q, k, v, decay, state


cases = st.builds(
    Case,
    batch=st.integers(1, 2),
    length=st.integers(1, 70),
    heads=st.integers(1, 3),
    d_k=st.integers(1, 6),
    d_v=st.integers(1, 7),
    chunk=st.integers(1, 40),
    stateful=st.booleans(),
    seed=st.integers(0, 2**16),
)


def relative(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|; NaN anywhere gives NaN, which no limit passes."""
    assert a.shape == b.shape
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def by_eq5(q, k, v, log_decay, state):
    """Eq. 5 as written, one score at a time in numpy; Eq. 6 unrolled for the initial state."""
    q, k, v = (x.double().numpy() for x in (q, k, v))
    gamma = np.exp(log_decay.double().numpy())
    B, T, H, d_k = q.shape
    past = np.zeros((B, H, d_k, v.shape[-1])) if state is None else state.double().numpy()
    out = np.zeros(v.shape)
    new = gamma[:, None, None] ** T * past
    for n in range(T):
        for h in range(H):
            scaled = q[:, n, h] / np.sqrt(d_k)
            out[:, n, h] = gamma[h] ** (n + 1) * np.einsum("bi,bij->bj", scaled, past[:, h])
            for m in range(n + 1):
                score = (q[:, n, h] * k[:, m, h]).sum(-1) / np.sqrt(d_k)
                out[:, n, h] += gamma[h] ** (n - m) * score[:, None] * v[:, m, h]
    for m in range(T):
        weight = gamma[:, None, None] ** (T - 1 - m)
        new = new + weight * k[:, m, :, :, None] * v[:, m, :, None, :]
    return torch.from_numpy(out), torch.from_numpy(new)
