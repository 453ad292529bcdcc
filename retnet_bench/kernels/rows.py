"""The kernels that come with the package, one row each."""

from __future__ import annotations

from typing import Any

from retnet_bench.kernels import (
    attention,
    channel_decay,
    delta,
    h3,
    linear,
    long_conv,
    retention,
    scalar_decay,
    short_conv,
    ssd,
    wkv,
)
from retnet_bench.kernels.registry import KERNELS, LOW, Kernel

FLA: dict[str, Any] = {
    "package": "fla",
    "distribution": "fla-core",
    "devices": ("cuda",),
    "dtypes": ("fp32", *LOW),
    "modes": ("eager", "compile"),
    "rank": 3,
}
"""What flash-linear-attention's kernels have in common."""


def _add(**fields: Any) -> None:
    KERNELS.add(fields["name"], Kernel(**fields))


_add(
    name="chunkwise",
    mixer="retention",
    form="chunkwise",
    run=retention.chunkwise,
    step=retention.recurrent_step,
    meaning="Eq. 7 in plain torch; linear in length",
    rank=2,
)
_add(
    name="parallel",
    mixer="retention",
    form="parallel",
    run=retention.parallel,
    step=retention.recurrent_step,
    meaning="Eq. 5 in plain torch; quadratic in length",
    rank=1,
)
_add(
    name="recurrent",
    mixer="retention",
    form="recurrent",
    run=retention.recurrent,
    step=retention.recurrent_step,
    meaning="Eq. 6 token by token; the reference, slow on whole sequences",
)
_add(
    name="fla",
    mixer="retention",
    form="chunkwise",
    run=retention.fla_chunkwise,
    step=retention.fla_step,
    meaning="Eq. 7 by flash-linear-attention's Triton kernels",
    **FLA,
)
_add(
    name="sdpa",
    mixer="attention",
    form="flash",
    run=attention.sdpa,
    step=attention.sdpa_step,
    meaning="torch scaled_dot_product_attention, a fused backend forced",
    devices=("cpu", "cuda"),
    cuda_dtypes=("fp32", *LOW),
    rank=2,
)
_add(
    name="math",
    mixer="attention",
    form="quadratic",
    run=attention.math,
    step=attention.math_step,
    meaning="scores written out; the paper's vanilla Transformer",
    rank=1,
)
_add(
    name="flash_attn",
    mixer="attention",
    form="flash",
    run=attention.flash_attn,
    step=attention.flash_attn_step,
    meaning="the flash-attn package",
    package="flash_attn",
    distribution="flash-attn",
    devices=("cuda",),
    dtypes=LOW,
    max_key_dim=256,
    rank=3,
)
_add(
    name="flash_attn_4",
    mixer="attention",
    form="flash",
    run=attention.flash_attn_4,
    step=attention.flash_attn_4_step,
    meaning="FlashAttention-4, the flash-attn-4 package: Hopper and Blackwell; a pre-release",
    package="flash_attn.cute",
    distribution="flash-attn-4",
    devices=("cuda",),
    dtypes=LOW,
    modes=("eager", "cudagraph"),
    max_key_dim=256,
    key_dim_multiple=8,
    capability=(9, 0),
    checked_alone=True,
)
_SINCE_AMPERE: dict[str, Any] = {"dtypes": LOW, "max_key_dim": 256, "capability": (8, 0)}
for _backend, _limits in (
    ("flash", _SINCE_AMPERE | {"windows": False}),
    ("cudnn", _SINCE_AMPERE | {"key_dim_multiple": 8}),
    ("efficient", {"dtypes": ("fp32", *LOW)}),
):
    _add(
        name=f"sdpa_{_backend}",
        mixer="attention",
        form="flash",
        run=getattr(attention, f"sdpa_{_backend}"),
        step=getattr(attention, f"sdpa_{_backend}_step"),
        meaning=f"torch scaled_dot_product_attention by its backend {_backend} alone",
        devices=("cuda",),
        checked_alone=True,
        **_limits,
    )
for _prefix, _family, _forms, _what in (
    ("scalar", "scalar_decay", scalar_decay, "gated retention: a learned decay a head"),
    ("ssd", "ssd", ssd, "Mamba-2's state-space dual: a decay and a step size a head"),
):
    _add(
        name=f"{_prefix}_chunkwise",
        mixer=_family,
        form="chunkwise",
        run=_forms.chunkwise,
        step=_forms.recurrent_step,
        meaning=f"{_what}, in plain torch; linear in length",
        rank=2,
    )
    _add(
        name=f"{_prefix}_parallel",
        mixer=_family,
        form="parallel",
        run=_forms.parallel,
        step=_forms.recurrent_step,
        meaning="the same as one chunk; quadratic in length",
        rank=1,
    )
    _add(
        name=f"{_prefix}_recurrent",
        mixer=_family,
        form="recurrent",
        run=_forms.recurrent,
        step=_forms.recurrent_step,
        meaning="the same token by token; the reference, slow on whole sequences",
    )
    _add(
        name=f"{_prefix}_fla",
        mixer=_family,
        form="chunkwise",
        run=_forms.fla_chunkwise,
        step=_forms.fla_step,
        meaning="the same by flash-linear-attention's Triton kernels",
        package="fla",
        distribution="fla-core",
        devices=("cuda",),
        dtypes=("fp32", *LOW),
        modes=("eager", "compile"),
        rank=3,
    )
_add(
    name="mamba_ssm",
    mixer="ssd",
    form="chunkwise",
    run=ssd.mamba_chunkwise,
    step=ssd.mamba_step,
    meaning="Mamba-2's own Triton kernels",
    package="mamba_ssm",
    distribution="mamba-ssm",
    devices=("cuda",),
    dtypes=("fp32", *LOW),
    modes=("eager",),
    rank=4,
)
_add(
    name="delta_chunkwise",
    mixer="delta",
    form="chunkwise",
    run=delta.chunkwise,
    step=delta.recurrent_step,
    meaning="the delta rule by triangular inverses of chunks, in plain torch; linear in length",
    rank=2,
)
_add(
    name="delta_recurrent",
    mixer="delta",
    form="recurrent",
    run=delta.recurrent,
    step=delta.recurrent_step,
    meaning="the delta rule token by token; the reference, slow on whole sequences",
)
_add(
    name="delta_fla",
    mixer="delta",
    form="chunkwise",
    run=delta.fla_chunkwise,
    step=delta.fla_step,
    meaning="the delta rule by flash-linear-attention's Triton kernels",
    package="fla",
    distribution="fla-core",
    devices=("cuda",),
    dtypes=LOW,
    modes=("eager", "compile"),
    max_key_dim=256,
    rank=3,
)
_add(
    name="short_conv",
    mixer="short_conv",
    form="convolution",
    run=short_conv.run,
    step=short_conv.step,
    meaning="depthwise causal convolution in plain torch; oneDNN's on CPU",
)
_add(
    name="causal_conv1d",
    mixer="short_conv",
    form="convolution",
    run=short_conv.package_run,
    step=short_conv.package_step,
    meaning="the causal-conv1d package: widths 2 to 4, channels in multiples of 8",
    package="causal_conv1d",
    distribution="causal-conv1d",
    devices=("cuda",),
    dtypes=("fp32", *LOW),
    rank=1,
)
_add(
    name="channel_decay_chunkwise",
    mixer="channel_decay",
    form="chunkwise",
    run=channel_decay.chunkwise,
    step=channel_decay.recurrent_step,
    meaning="decay by channel, halves of chunks in plain torch; linear in length",
    rank=2,
)
_add(
    name="channel_decay_recurrent",
    mixer="channel_decay",
    form="recurrent",
    run=channel_decay.recurrent,
    step=channel_decay.recurrent_step,
    meaning="decay by channel, token by token; the reference, slow on whole sequences",
)
_add(
    name="channel_decay_fla",
    mixer="channel_decay",
    form="chunkwise",
    run=channel_decay.fla_chunkwise,
    step=channel_decay.fla_step,
    meaning="decay by channel by flash-linear-attention's Triton kernels, in chunks of 64",
    **FLA,
)
_add(
    name="linear_chunkwise",
    mixer="linear",
    form="chunkwise",
    run=linear.chunkwise,
    step=linear.recurrent_step,
    meaning="linear attention with a denominator in plain torch; linear in length",
    rank=2,
)
_add(
    name="linear_parallel",
    mixer="linear",
    form="parallel",
    run=linear.parallel,
    step=linear.recurrent_step,
    meaning="the same as one chunk; quadratic in length",
    rank=1,
)
_add(
    name="linear_recurrent",
    mixer="linear",
    form="recurrent",
    run=linear.recurrent,
    step=linear.recurrent_step,
    meaning="the same token by token; the reference, slow on whole sequences",
)
_add(
    name="linear_fla",
    mixer="linear",
    form="chunkwise",
    run=linear.fla_chunkwise,
    step=linear.fla_step,
    meaning="the same, its numerator by flash-linear-attention's Triton kernels",
    **FLA,
)
_add(
    name="wkv_chunkwise",
    mixer="wkv",
    form="chunkwise",
    run=wkv.chunkwise,
    step=wkv.recurrent_step,
    meaning="RWKV-4's average, all chunks row by row in plain torch; linear in length",
    rank=2,
)
_add(
    name="wkv_recurrent",
    mixer="wkv",
    form="recurrent",
    run=wkv.recurrent,
    step=wkv.recurrent_step,
    meaning="RWKV-4's average token by token; the reference, slow on whole sequences",
)
_add(
    name="wkv_fla",
    mixer="wkv",
    form="recurrent",
    run=wkv.fla_recurrent,
    step=wkv.fla_step,
    meaning="RWKV-4's average by flash-linear-attention's Triton kernel",
    **FLA,
)
_add(
    name="h3_fft",
    mixer="h3",
    form="fft",
    run=h3.fft,
    step=h3.recurrent_step,
    meaning="both state-space models by Fourier transforms in plain torch",
    rank=1,
)
_add(
    name="h3_recurrent",
    mixer="h3",
    form="recurrent",
    run=h3.recurrent,
    step=h3.recurrent_step,
    meaning="both state-space models token by token; the reference, slow on whole sequences",
)
_add(
    name="long_conv_fft",
    mixer="long_conv",
    form="fft",
    run=long_conv.fft,
    step=long_conv.cached_step,
    meaning="convolution as long as the sequence, by Fourier transforms in plain torch",
    rank=1,
)
_add(
    name="long_conv_toeplitz",
    mixer="long_conv",
    form="quadratic",
    run=long_conv.toeplitz,
    step=long_conv.cached_step,
    meaning="the same by a matrix for each channel; the reference, quadratic in length",
)
