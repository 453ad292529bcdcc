"""Stand-ins for flash-attn (2 and 4), fla-core, causal-conv1d and mamba-ssm, without a GPU.

Signatures, checks and conventions are those of flash-attn 2.8, flash-attn-4 4.0.0b36,
fla-core 0.6.0, causal-conv1d 1.6 and mamba-ssm 2.3; the maths is plain torch, written apart from
ours.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
from torch import Tensor


def install(monkeypatch, package: str, **functions) -> None:
    """Put a module `package` with `functions` into sys.modules, and its parents."""
    names = package.split(".")
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, origin=__file__, is_package=True)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    for name, function in functions.items():
        setattr(module, name, function)


def install_fla(monkeypatch) -> None:
    install(
        monkeypatch,
        "fla.ops.simple_gla",
        chunk_simple_gla=chunk_simple_gla,
        fused_recurrent_simple_gla=fused_recurrent_simple_gla,
    )


def install_flash_attn(monkeypatch) -> None:
    install(
        monkeypatch,
        "flash_attn",
        flash_attn_func=flash_attn_func,
        flash_attn_with_kvcache=flash_attn_with_kvcache,
    )


def install_flash_attn_4(monkeypatch, arch: int = 90) -> None:
    """As on a GPU of that architecture (90: Hopper, 100: Blackwell). As in its wheel, `flash_attn`
    itself is a folder without code."""
    functions = (flash_attn_4_func, flash_attn_4_varlen_func)
    install(
        monkeypatch,
        "flash_attn.cute",
        flash_attn_func=partial(functions[0], _arch=arch),
        flash_attn_varlen_func=partial(functions[1], _arch=arch),
    )
    folder = ModuleSpec("flash_attn", None, is_package=True)
    monkeypatch.setattr(sys.modules["flash_attn"], "__spec__", folder)
    capability = divmod(arch, 10)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


def install_causal_conv1d(monkeypatch) -> None:
    install(
        monkeypatch,
        "causal_conv1d",
        causal_conv1d_fn=causal_conv1d_fn,
        causal_conv1d_update=causal_conv1d_update,
    )


def causal_conv1d_fn(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):
    """x (B, D, T), weight (D, k); the asserts are its CUDA source's."""
    B, D, T = x.shape
    k = weight.shape[1]
    assert activation in (None, "silu", "swish")
    assert x.stride(1) == 1, "states need channels last"
    assert D % 8 == 0
    assert x.stride(2) % 8 == 0
    assert x.stride(0) % 8 == 0
    assert 2 <= k <= 4
    assert bias is None or bias.dtype == weight.dtype
    if initial_states is None:
        initial_states = x.new_zeros(B, k - 1, D).transpose(1, 2)
    assert initial_states.shape == (B, D, k - 1)
    assert initial_states.dtype == x.dtype
    assert initial_states.stride(1) == 1
    seen = torch.cat([initial_states, x], -1)
    out = _depthwise(seen, weight, bias, activation)
    return (out, seen[..., T:]) if return_final_states else out


def causal_conv1d_update(
    x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None
):
    """x (B, D), conv_state (B, D, at least k - 1), changed in place."""
    B, D = x.shape
    assert conv_state.shape[:2] == (B, D)
    assert conv_state.shape[2] >= weight.shape[1] - 1
    assert conv_state.dtype == x.dtype
    seen = torch.cat([conv_state, x[..., None]], -1)
    conv_state.copy_(seen[..., 1:])
    return _depthwise(seen[..., -weight.shape[1] :], weight, bias, activation)[..., 0]


def _depthwise(seen, weight, bias, activation):
    bias = None if bias is None else bias.float()
    out = torch.nn.functional.conv1d(
        seen.float(), weight.float()[:, None], bias, groups=len(weight)
    )
    return (out if activation is None else torch.nn.functional.silu(out)).to(seen.dtype)


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
    if chunk_size is not None and chunk_size != 2 ** (chunk_size.bit_length() - 1):
        raise ValueError(f"`chunk_size` must be a power of 2, got {chunk_size}.")
    assert chunk_size is None or chunk_size >= 16, "tl.dot takes no fewer than 16 rows"
    return _simple_gla(q, k, v, g, g_gamma, scale, initial_state, output_final_state)


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
    assert not reverse
    return _simple_gla(q, k, v, g, g_gamma, scale, initial_state, output_final_state)


def _simple_gla(q, k, v, g, g_gamma, scale, state, output_final_state):
    """The scale falls on q, so the state is the plain sum of gamma^(n-m) k_m^T v_m; fp32 inside."""
    B, T, H, K = q.shape
    assert k.shape == (B, T, H, K)
    assert v.shape[:3] == (B, T, H)
    assert (g is None) != (g_gamma is None)
    assert g_gamma is None or g_gamma.shape == (H,)
    assert g is None or g.shape == (B, T, H)
    log_decay = g_gamma.expand(B, T, H) if g is None else g
    assert log_decay.dtype == torch.float32
    scale = K**-0.5 if scale is None else scale
    h = torch.zeros(B, H, K, v.shape[-1])
    if state is not None:
        assert state.shape == h.shape
        h = state.float().clone()
    out = []
    for n in range(T):
        h = h * log_decay[:, n].exp()[..., None, None] + torch.einsum(
            "bhk,bhv->bhkv", k[:, n].float(), v[:, n].float()
        )
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, n].float() * scale, h))
    return torch.stack(out, 1).to(q.dtype), h if output_final_state else None


def install_mamba_ssm(monkeypatch) -> None:
    package = "mamba_ssm.ops.triton"
    install(
        monkeypatch,
        f"{package}.ssd_combined",
        mamba_chunk_scan_combined=mamba_chunk_scan_combined,
    )
    selective = ModuleType(f"{package}.selective_state_update")
    selective.selective_state_update = selective_state_update
    monkeypatch.setitem(sys.modules, selective.__name__, selective)


def mamba_chunk_scan_combined(
    x,
    dt,
    A,
    B,
    C,
    chunk_size,
    D=None,
    z=None,
    dt_bias=None,
    initial_states=None,
    seq_idx=None,
    cu_seqlens=None,
    dt_softplus=False,
    dt_limit=(0.0, float("inf")),
    return_final_states=False,
    return_varlen_states=False,
):
    """x (B, T, h, P), dt (B, T, h), A (h,), B and C (B, T, G, N); states (B, h, P, N)."""
    batch, T, h, P = x.shape
    G, N = B.shape[2:]
    assert dt.shape == (batch, T, h)
    assert A.shape == (h,)
    assert B.shape == C.shape == (batch, T, G, N)
    assert h % G == 0
    assert D is None
    assert z is None
    assert dt_bias is None
    assert not dt_softplus
    state = x.new_zeros(batch, h, P, N, dtype=torch.float32)
    if initial_states is not None:
        assert initial_states.shape == state.shape
        state = initial_states.float().clone()
    rows = [
        selective_state_update(
            state,
            x[:, t],
            dt[:, t, :, None].expand(batch, h, P),
            A[:, None, None].expand(h, P, N),
            B[:, t],
            C[:, t],
        )
        for t in range(T)
    ]
    out = torch.stack(rows, 1)
    return (out, state) if return_final_states else out


def selective_state_update(
    state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None
):
    """state (B, h, P, N) in place, x and dt (B, h, P), A (h, P, N), B and C (B, G, N)."""
    batch, h, P, N = state.shape
    assert x.shape == dt.shape == (batch, h, P)
    assert A.shape == (h, P, N)
    assert A.stride(-1) == A.stride(-2) == dt.stride(-1) == 0, "else a slower kernel"
    assert B.shape == C.shape
    B, C = (y.float().repeat_interleave(h // y.shape[1], 1) for y in (B, C))  # (B, h, N)
    dt = dt[..., None].float()
    state.copy_(state * (dt * A).exp() + dt * B[:, :, None] * x[..., None].float())
    return (state * C[:, :, None]).sum(-1).to(x.dtype)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
    """q (B, T, H, D), k, v (B, S, G, D), G of which H is a multiple; a causal mask and the window
    (so many before, so many after; -1 for all) are aligned to the bottom right."""
    assert dropout_p == 0.0
    assert q.shape[0] == k.shape[0]
    assert q.shape[2] % k.shape[2] == 0
    assert k.shape[2:] == v.shape[2:]
    assert all(x.stride(-1) == 1 for x in (q, k, v)), "last dimension must be contiguous"
    T, S = q.shape[1], k.shape[1]
    before, after = (S if n < 0 else n for n in window_size)
    ahead = torch.arange(S)[None, :] - (torch.arange(T)[:, None] + S - T)
    seen = (ahead >= -before) & (ahead <= (0 if causal else after))
    return _softmax(q, k, v, seen, softmax_scale)


def flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, softmax_scale=None, causal=False
):
    """q (B, 1, H, D) against caches (B, S, G, D), of which the first cache_seqlens (B,) count."""
    assert k is None
    assert v is None
    assert q.shape[1] == 1
    assert q.shape[2] % k_cache.shape[2] == 0
    assert k_cache.shape[2:] == v_cache.shape[2:]
    B, S = k_cache.shape[:2]
    if cache_seqlens is None:
        cache_seqlens = torch.full((B,), S, dtype=torch.int32)
    assert cache_seqlens.shape == (B,)
    assert cache_seqlens.dtype == torch.int32
    assert cache_seqlens.is_contiguous()
    rows = [
        _softmax(
            q[i : i + 1],
            k_cache[i : i + 1],
            v_cache[i : i + 1],
            torch.arange(S)[None] < n,
            softmax_scale,
        )
        for i, n in enumerate(cache_seqlens.tolist())
    ]
    return torch.cat(rows)


def flash_attn_4_func(
    q,
    k,
    v,
    qv=None,
    gather_kv_indices=None,
    softmax_scale=None,
    causal=False,
    window_size=(None, None),
    learnable_sink=None,
    softcap=0.0,
    num_splits=1,
    pack_gqa=None,
    deterministic=False,
    score_mod=None,
    score_mod_bwd=None,
    mask_mod=None,
    aux_tensors=None,
    aux_scalars=None,
    block_sparse_tensors=None,
    block_sparse_tensors_bwd=None,
    return_lse=False,
    gather_bwd_recompute_p=False,
    gather_bwd_token_chunk=None,
    *,
    _arch,
):
    """Layouts of `flash_attn_func`; a window's None is all. Returns the output and, asked for or
    not, a place for the logarithms of the sums."""
    _check_flash_attn_4(q, k, v, num_splits, _arch)
    T, S = q.shape[1], k.shape[1]
    before, after = (S if n is None else n for n in window_size)
    after = 0 if causal else after
    ahead = torch.arange(S)[None, :] - (torch.arange(T)[:, None] + S - T)
    return _softmax(q, k, v, (ahead >= -before) & (ahead <= after), softmax_scale), None


def flash_attn_4_varlen_func(
    q,
    k,
    v,
    qv=None,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    max_seqlen_q=None,
    max_seqlen_k=None,
    min_seqlen_k=None,
    seqused_q=None,
    seqused_k=None,
    gather_kv_indices=None,
    page_table=None,
    softmax_scale=None,
    causal=False,
    window_size=(None, None),
    learnable_sink=None,
    softcap=0.0,
    num_splits=1,
    pack_gqa=None,
    deterministic=False,
    score_mod=None,
    score_mod_bwd=None,
    mask_mod=None,
    block_sparse_tensors=None,
    aux_tensors=None,
    aux_scalars=None,
    return_lse=False,
    scheduler_metadata=None,
    seqlen_k_per_split=None,
    disable_scheduler_metadata=False,
    gather_bwd_recompute_p=False,
    gather_bwd_token_chunk=None,
    *,
    _arch,
):
    """q (B, T, H, D) against k, v (B, S, G, D), of which the first seqused_k (B,) count."""
    _check_flash_attn_4(q, k, v, num_splits, _arch)
    assert cu_seqlens_q is None
    assert cu_seqlens_k is None
    assert not causal
    assert seqused_k.shape == (q.shape[0],)
    assert seqused_k.dtype == torch.int32
    assert seqused_k.stride(0) == 1
    rows = [
        _softmax(*(x[i : i + 1] for x in (q, k, v)), torch.arange(k.shape[1])[None] < n, None)
        for i, n in enumerate(seqused_k.tolist())
    ]
    return torch.cat(rows), None


def _check_flash_attn_4(q, k, v, num_splits, arch):
    """What its `_flash_attn_fwd` asserts."""
    assert arch // 10 in (9, 10), "Unsupported compute capability"
    assert q.dtype == k.dtype == v.dtype
    assert q.dtype in (torch.float16, torch.bfloat16)
    assert k.shape == (q.shape[0], k.shape[1], k.shape[2], q.shape[3])
    assert v.shape[:3] == k.shape[:3]
    assert q.shape[2] % k.shape[2] == 0
    assert 8 <= q.shape[3] <= (256 if arch // 10 == 9 else 128)
    assert q.shape[3] % 8 == 0, "divisible by 16 bytes"
    assert arch // 10 == 10 or num_splits == 1, "SplitKV not supported on SM 9.0"


def _softmax(q, k, v, seen: Tensor, scale: float | None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q.float() * scale, k.float())
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v.float()).to(q.dtype)
