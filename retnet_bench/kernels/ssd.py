"""The state-space dual of Mamba-2 (arXiv:2405.21060): scalar decay in continuous time.

Shapes, in the paper's names: x (B, T, H, P); dt (B, T, H) > 0 and A (H,) < 0 in fp32 or fp64; B and
C (B, T, G, N), one for each group of heads; state (B, H, N, P) in fp32 (fp64 for fp64 input):

    S_t = e^{dt_t A} S_{t-1} + B_t (dt_t x_t)^T,    y_t = S_t^T C_t

The forms are those of `scalar_decay` with q = C, k = B, v = dt x and log decay dt A: whole
sequences f(x, dt, A, B, C, chunk, state) -> (y (B, T, H, P), state), and one token f(x (B, H, P),
dt (B, H), A, B, C (B, G, N), state) -> y (B, H, P) with the state updated in place. The skip D x
and the gate are left to the mixer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from retnet_bench.kernels import scalar_decay


def _in_continuous_time(form: Callable[..., Any]) -> Callable[..., Any]:
    """A form of `scalar_decay` as one of x, dt, A, B and C."""

    def run(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any, **settings: Any
    ) -> Any:
        return form(C, B, (x * dt[..., None]).to(x.dtype), dt * A, *rest, **settings)

    return run


chunkwise = _in_continuous_time(scalar_decay.chunkwise)
parallel = _in_continuous_time(scalar_decay.parallel)
recurrent = _in_continuous_time(scalar_decay.recurrent)
recurrent_step = _in_continuous_time(scalar_decay.recurrent_step)
fla_chunkwise = _in_continuous_time(scalar_decay.fla_chunkwise)
fla_step = _in_continuous_time(scalar_decay.fla_step)


def mamba_chunkwise(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk: int = 256,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """By mamba-ssm's own Triton kernels, whose states are (B, H, P, N). dt is given as it is, so
    their bias and softplus are off."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    y, new = mamba_chunk_scan_combined(
        x,
        dt,
        A,
        B,
        C,
        chunk_size=chunk,
        initial_states=None if state is None else state.transpose(-1, -2).contiguous(),
        return_final_states=True,
    )
    return y, new.transpose(-1, -2)


def mamba_step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> Tensor:
    """One token by mamba-ssm's kernel, which updates a view of `state` in place; it takes dt and A
    for every channel, expanded here without memory."""
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    N, P = state.shape[-2:]
    return selective_state_update(
        state.transpose(-1, -2),
        x,
        dt[..., None].expand(*dt.shape, P),
        A[:, None, None].expand(len(A), P, N),
        B,
        C,
    )
