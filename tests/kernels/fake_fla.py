"""Stand-ins for more of fla-core 0.6.0: GLA, undecayed linear attention, RWKV-4.

Signatures, checks and conventions are the package's; the maths is plain torch, written apart from
ours.
"""

from __future__ import annotations

import torch
from fake_packages import install


def install_gla(monkeypatch) -> None:
    install(
        monkeypatch, "fla.ops.gla", chunk_gla=chunk_gla, fused_recurrent_gla=fused_recurrent_gla
    )


def install_undecayed(monkeypatch) -> None:
    install(
        monkeypatch,
        "fla.ops.simple_gla",
        chunk_simple_gla=chunk_simple_gla,
        fused_recurrent_simple_gla=fused_recurrent_simple_gla,
    )


def install_rwkv4(monkeypatch) -> None:
    install(monkeypatch, "fla.ops.rwkv4", fused_recurrent_rwkv4=fused_recurrent_rwkv4)


def chunk_gla(
    q,
    k,
    v,
    g,
    scale=None,
    initial_state=None,
    output_final_state=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
):
    """Chunks are of 64 always; there is no `chunk_size`."""
    return _gla(q, k, v, g, scale, initial_state, output_final_state)


def fused_recurrent_gla(
    q,
    k,
    v,
    gk=None,
    gv=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    reverse=False,
    state_v_first=False,
    cu_seqlens=None,
    **kwargs,
):
    assert not kwargs, f"fla 0.6.0 would drop {kwargs} silently"
    assert gk is not None, "without gk nothing would decay"
    assert gv is None
    assert not reverse
    return _gla(q, k, v, gk, scale, initial_state, output_final_state)


def chunk_simple_gla(
    q,
    k,
    v,
    g=None,
    g_gamma=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    **kwargs,
):
    chunk_size = kwargs.pop("chunk_size", None)
    assert not kwargs, f"fla 0.6.0 would drop {kwargs} silently"
    assert g is None
    assert g_gamma is None
    if chunk_size is not None and chunk_size != 2 ** (chunk_size.bit_length() - 1):
        raise ValueError(f"`chunk_size` must be a power of 2, got {chunk_size}.")
    return _gla(q, k, v, torch.zeros(q.shape), scale, initial_state, output_final_state)


def fused_recurrent_simple_gla(
    q,
    k,
    v,
    g=None,
    g_gamma=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    reverse=False,
    state_v_first=False,
    cu_seqlens=None,
    **kwargs,
):
    assert not kwargs, f"fla 0.6.0 would drop {kwargs} silently"
    assert g is None
    assert g_gamma is None
    assert not reverse
    return _gla(q, k, v, torch.zeros(q.shape), scale, initial_state, output_final_state)


def _gla(q, k, v, g, scale, state, output_final_state):
    """The scale is K^-1/2 unless said, on the side of q; states are fp32 and must be."""
    B, T, H, K = q.shape
    assert k.shape == g.shape == q.shape
    assert v.shape[:3] == (B, T, H)
    scale = K**-0.5 if scale is None else scale
    h = torch.zeros(B, H, K, v.shape[-1])
    if state is not None:
        assert state.shape == h.shape
        assert state.dtype == torch.float32
        h = state.clone()
    out = []
    for n in range(T):
        key, value = k[:, n].float(), v[:, n].float()
        h = h * g[:, n].float().exp()[..., None] + torch.einsum("bhk,bhv->bhkv", key, value)
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, n].float() * scale, h))
    return torch.stack(out, 1).to(q.dtype), h if output_final_state else None


def fused_recurrent_rwkv4(w, u, k, v, state):
    """w is the raw time_decay; the state (B, 3, 1, d) is a must, and comes back in k's dtype."""
    B, _, d = k.shape
    assert w.shape == u.shape == (d,)
    assert v.shape == k.shape
    assert state.shape == (B, 3, 1, d)
    w = -w.float().exp()
    alpha, beta, eps = state[:, :, 0].float().unbind(1)
    out = []
    for kt, vt in zip(k.float().unbind(1), v.float().unbind(1), strict=True):
        tau = torch.maximum(u + kt, eps)
        past, now = torch.exp(eps - tau), torch.exp(u + kt - tau)
        out.append((past * alpha + now * vt) / (past * beta + now))
        new = torch.maximum(w + eps, kt)
        past, now = torch.exp(w + eps - new), torch.exp(kt - new)
        alpha, beta, eps = past * alpha + now * vt, past * beta + now, new
    states = torch.stack([alpha, beta, eps], 1)[:, :, None].to(k.dtype)
    return torch.stack(out, 1).to(k.dtype), torch.cat([state, states], 2)[:, :, -1:]
