"""Operators on the meta device that keep in memory what a device's own keep."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DeviceOperators(TorchFunctionMode):
    """Attention, norms and autocast as on CPU or CUDA: the meta device has none of its own.

    `low` is what torch.autocast would cast to, if it is on: among the calls of our models, products
    down, and on CUDA norms up. A weight is cast once a step, as each is used in one product only.
    """

    DOWN = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)

    def __init__(self, cuda: bool, low: torch.dtype | None) -> None:
        super().__init__()
        self.cuda, self.low = cuda, low

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return (_cuda_attention if self.cuda else _cpu_attention)(*args, **kwargs)
        if self.cuda and func is F.rms_norm:
            return _fused_rms_norm(*args, **kwargs, up=self.low is not None)
        if self.low is not None and func in self.DOWN:
            args = tuple(a.to(self.low) if isinstance(a, Tensor) else a for a in args)
        elif self.low is not None and self.cuda and func is F.layer_norm:
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def _cpu_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, **kwargs: Any) -> Tensor:
    bias = _bias(attn_mask, q)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(q, k, v, 0.0, bias is None, attn_mask=bias)[0]


def _cuda_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Any = None,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> Tensor:
    """flash in half precision, memory-efficient in fp32 and under a mask: as SDPA chooses on CUDA,
    unless it may not take flash. cuDNN's is taken to keep what flash keeps: q, k, v, the output and
    its logsumexp. What reads grouped heads as they are is flash (`kernels.attention.takes_groups`).
    """
    bias = _bias(attn_mask, q)
    flash = torch.backends.cuda.flash_sdp_enabled() or torch.backends.cuda.cudnn_sdp_enabled()
    if bias is None and flash and q.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    training = torch.is_grad_enabled() and q.requires_grad
    if bias is not None:
        bias = bias.expand(*q.shape[:2], *bias.shape)
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, training, 0.0, is_causal
    )[0]


def _bias(mask: Any, q: Tensor) -> Tensor | None:
    """What is added to the scores in place of a mask of True and False; a causal mask is none."""
    if mask is None:
        return None
    # Imported late: it brings torch's compiler with it, as long to import as torch itself.
    from torch.nn.attention.bias import CausalBias

    if isinstance(mask, CausalBias):
        return None
    return torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, float("-inf"))


def _fused_rms_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, eps: Any = None, *, up: bool
) -> Tensor:
    return _FusedRMSNorm.apply(x.float() if up else x, weight)


class _FusedRMSNorm(torch.autograd.Function):
    """aten._fused_rms_norm keeps x and one number a row; elsewhere rms_norm keeps fp32 copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)
