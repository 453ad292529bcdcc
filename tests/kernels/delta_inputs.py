"""Inputs, the oracle and hypothesis strategies of the delta rule's tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class DeltaCase:
    """Sizes of one call of the delta rule; does it start from a state, and what decays."""

    batch: int = 2
    length: int = 23
    heads: int = 2
    d_k: int = 4
    d_v: int = 6
    chunk: int = 8
    stateful: bool = True
    gate: str = "head"
    """Of each head, of each `channel`, or `none`."""
    seed: int = 0

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
        """q, k, v in dtype; beta in [0, 2], log_decay (or None) and state (or None) in fp64 or, for
        narrower inputs, fp32. Keys of length 1."""
        make = torch.Generator().manual_seed(self.seed)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        B, T, H = self.batch, self.length, self.heads

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=make, dtype=torch.float64)

        q, k = (F.normalize(normal(B, T, H, self.d_k), dim=-1).to(dtype) for _ in range(2))
        v = normal(B, T, H, self.d_v).to(dtype)
        beta = 2 * torch.rand(B, T, H, generator=make, dtype=torch.float64)
        # From none (one in six) to e^-20 in one step.
        shape = (B, T, H, self.d_k) if self.gate == "channel" else (B, T, H)
        fall = torch.rand(*shape, generator=make, dtype=torch.float64)
        decay = -20 * (1.2 * fall - 0.2).clamp(0) ** 4
        state = normal(B, H, self.d_k, self.d_v).to(wide) if self.stateful else None
        return [q, k, v, beta.to(wide), None if self.gate == "none" else decay.to(wide), state]


cases = st.builds(
    DeltaCase,
    batch=st.integers(1, 2),
    length=st.integers(1, 50),
    heads=st.integers(1, 3),
    d_k=st.integers(1, 6),
    d_v=st.integers(1, 7),
    chunk=st.integers(1, 40),
    stateful=st.booleans(),
    gate=st.sampled_from(["none", "head", "channel"]),
    seed=st.integers(0, 2**16),
)


def by_transitions(q, k, v, beta, log_decay, state):
    """S_t = (I - beta k k^T) diag(e^g) S_(t-1) + beta k v^T, each transition written out as a
    matrix."""
    q, k, v, beta = (x.double().numpy() for x in (q, k, v, beta))
    B, T, H, K = q.shape
    g = np.zeros((B, T, H)) if log_decay is None else log_decay.double().numpy()
    g = np.broadcast_to(g if g.ndim == 4 else g[..., None], (B, T, H, K))
    S = np.zeros((B, H, K, v.shape[-1])) if state is None else state.double().numpy().copy()
    out = np.zeros(v.shape)
    for t in range(T):
        for b in range(B):
            for h in range(H):
                erase = np.eye(K) - beta[b, t, h] * np.outer(k[b, t, h], k[b, t, h])
                S[b, h] = erase @ np.diag(np.exp(g[b, t, h])) @ S[b, h]
                S[b, h] += beta[b, t, h] * np.outer(k[b, t, h], v[b, t, h])
                out[b, t, h] = S[b, h].T @ q[b, t, h] / np.sqrt(K)
    return torch.from_numpy(out), torch.from_numpy(S)
