"""Stand-ins for fla-core's delta rules on a machine without a GPU.

Signatures, checks and conventions are those of fla-core 0.6.0; the maths is plain torch, written
apart from ours.
"""

from __future__ import annotations

import torch
from fake_packages import install


def install_fla_delta(monkeypatch) -> None:
    install(
        monkeypatch,
        "fla.ops.delta_rule",
        chunk_delta_rule=chunk_delta_rule,
        fused_recurrent_delta_rule=fused_recurrent_delta_rule,
    )
    install(
        monkeypatch,
        "fla.ops.gated_delta_rule",
        chunk_gated_delta_rule=chunk_gated_delta_rule,
        fused_recurrent_gated_delta_rule=fused_recurrent_gated_delta_rule,
    )
    install(
        monkeypatch, "fla.ops.kda", chunk_kda=chunk_kda, fused_recurrent_kda=fused_recurrent_kda
    )


def chunk_delta_rule(
    q,
    k,
    v,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    **kwargs,
):
    _check_chunk(q, k, v, kwargs)
    assert not use_qk_l2norm_in_kernel
    return _delta(q, k, v, None, beta, scale, initial_state, output_final_state)


def chunk_gated_delta_rule(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    chunk_indices=None,
    cp_context=None,
    **kwargs,
):
    _check_chunk(q, k, v, kwargs)
    assert g.shape == beta.shape
    assert not any((use_qk_l2norm_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval))
    state = _keys_first(initial_state, state_v_first)
    out, state = _delta(q, k, v, g, beta, scale, state, output_final_state)
    return out, _keys_first(state, state_v_first)


def fused_recurrent_delta_rule(
    q,
    k,
    v,
    beta=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    cu_seqlens=None,
):
    assert not use_qk_l2norm_in_kernel
    assert scale is None or scale > 0
    return _delta(q, k, v, None, beta, scale, initial_state, output_final_state)


def fused_recurrent_gated_delta_rule(
    q,
    k,
    v,
    g=None,
    gk=None,
    gv=None,
    beta=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False,
    A_log=None,
    dt_bias=None,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    state_v_first=False,
    cu_seqlens=None,
    **kwargs,
):
    assert not kwargs, f"fla 0.6.0 would drop {kwargs} silently"
    assert g.shape == beta.shape
    assert gk is None
    assert gv is None
    assert not any((use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel))
    state = _keys_first(initial_state, state_v_first)
    out, state = _delta(q, k, v, g, beta, scale, state, output_final_state)
    return out, _keys_first(state, state_v_first)


def chunk_kda(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    safe_gate=False,
    lower_bound=None,
    disable_recompute=False,
    return_intermediate_states=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    cp_context=None,
    use_graph=False,
    max_num_seqs=None,
    **kwargs,
):
    if kwargs.get("chunk_size", 64) == 16:
        raise ValueError("`chunk_size` must be either 32 or 64 for KDA, got 16.")
    _check_chunk(q, k, v, kwargs)
    assert g.shape == k.shape
    assert not any((use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel))
    state = _keys_first(initial_state, state_v_first)
    out, state = _delta(q, k, v, g, beta, scale, state, output_final_state)
    return out, _keys_first(state, state_v_first)


def fused_recurrent_kda(
    q,
    k,
    v,
    g,
    beta,
    A_log=None,
    dt_bias=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    lower_bound=None,
    state_v_first=False,
    cu_seqlens=None,
    **kwargs,
):
    assert not kwargs, f"fla 0.6.0 would drop {kwargs} silently"
    assert g.shape == k.shape
    assert not any((use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel))
    state = _keys_first(initial_state, state_v_first)
    out, state = _delta(q, k, v, g, beta, scale, state, output_final_state)
    return out, _keys_first(state, state_v_first)


def _check_chunk(q, k, v, kwargs):
    assert q.dtype == k.dtype == v.dtype
    assert q.dtype != torch.float32, "does not support float32. Please use bfloat16."
    assert q.shape[-1] <= 256
    chunk_size = kwargs.pop("chunk_size", 64)
    if chunk_size not in (16, 32, 64):
        raise ValueError(f"`chunk_size` must be 16, 32, or 64, got {chunk_size}.")
    assert not kwargs, f"fla 0.6.0 would drop {kwargs} silently"


def _keys_first(state, v_first: bool):
    return state.transpose(-1, -2) if v_first and state is not None else state


def _delta(q, k, v, g, beta, scale, state, output_final_state):
    """The state without the scale; fp32 inside."""
    B, T, H, K = q.shape
    assert k.shape == (B, T, H, K)
    assert v.shape[:3] == beta.shape == (B, T, H)
    scale = K**-0.5 if scale is None else scale
    h = torch.zeros(B, H, K, v.shape[-1])
    if state is not None:
        assert state.shape == h.shape
        assert state.dtype == torch.float32
        h = state.clone()
    out = []
    for n in range(T):
        if g is not None:
            factor = g[:, n].float().exp()
            h = h * (factor[..., None] if g.dim() == 4 else factor[..., None, None])
        key = k[:, n].float()
        miss = v[:, n].float() - torch.einsum("bhk,bhkv->bhv", key, h)
        h = h + torch.einsum("bhk,bh,bhv->bhkv", key, beta[:, n].float(), miss)
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, n].float() * scale, h))
    return torch.stack(out, 1).to(q.dtype), h if output_final_state else None
