"""Layers both arms share: exact constants, rotation, norms, feed-forward, initialisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from retnet_bench.models.config import ModelConfig
from retnet_bench.models.joined import Joined
from retnet_bench.models.linear import Linear


class Exact(nn.Module):
    """A module whose constants, and those parameters it names, stay in fp32 (fp64 in an fp64 model)
    through `.to(bfloat16)`.

    Decay and angles cast to bf16 are wrong from position 257 on; so after every move the constants
    are made again from the fp64 originals, and the parameters from what they were.
    """

    fp32_parameters: ClassVar[tuple[str, ...]] = ()
    """Parameters of its own, not of parts of it, that the maths needs in fp32 at least."""

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def register_exact(self, name: str, value: Tensor) -> None:
        """`value` must be made on the CPU (`device="cpu"`): a model may be built on meta."""
        self._exact[name] = value.double().cpu()
        start = self._exact[name].to(torch.get_default_device(), torch.float32)
        self.register_buffer(name, start, persistent=False)

    def keep_part(self, name: str, start: int, end: int) -> None:
        """Keep entries start .. end - 1 of a constant, and drop the others."""
        self._exact[name] = self._exact[name][start:end].clone()
        setattr(self, name, getattr(self, name)[start:end].clone())

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        before = {name: getattr(self, name).detach() for name in self.fp32_parameters}
        super()._apply(fn, recurse)
        for name, value in before.items():
            parameter = getattr(self, name)
            if parameter.dtype.itemsize < 4:
                parameter.data = _moved(value, parameter.device)
        for name, exact in self._exact.items():
            converted = getattr(self, name)
            dtype = torch.float64 if converted.dtype == torch.float64 else torch.float32
            setattr(self, name, exact.to(converted.device, dtype))
        return self


def _moved(value: Tensor, device: torch.device) -> Tensor:
    """`value` on `device` in fp32; without data where it has none yet."""
    if value.is_meta:
        return torch.empty_like(value, dtype=torch.float32, device=device)
    return value.to(device, torch.float32)


class Rotary(Exact):
    """Theta of Eq. 5: rotates pairs (i, i + d/2) of a head by position times 10000^(-2i/d)."""

    frequency: Tensor

    def __init__(self, d_head: int, rotation: str = "rope", base: float = 10000.0) -> None:
        super().__init__()
        pairs = torch.arange(0, d_head, 2, dtype=torch.float64, device="cpu")
        last = d_head if rotation == "rope" else max(1, d_head - 2)
        self.register_exact("frequency", base ** (-pairs / last) * (rotation != "none"))

    def at(self, start: int | Tensor, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin for positions start .. start + length - 1, each (length, 1, d/2).

        `start` may be a tensor of one position, so that a captured graph can move along.
        """
        steps = torch.arange(length, device=self.frequency.device, dtype=self.frequency.dtype)
        angle = ((steps + start)[:, None] * self.frequency)[:, None, :]
        return angle.cos(), angle.sin()

    def at_one(self, position: int | Tensor) -> tuple[Tensor, Tensor]:
        """The same for one position, as a decode step takes it in fewer operators: cos (d/2,), and
        sin (2, d/2) with the sign it has in front of either half."""
        angle = self.frequency * position
        sin = angle.sin()
        return angle.cos(), torch.stack((-sin, sin))


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x (B, T, H, d); the product is taken in the angles' precision."""
    if angles[0].dim() == 1:
        return _turned_at_one(x, *angles)
    if torch.compiler.is_compiling():
        cos, sin = angles
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
    return _Rotation.apply(x, *angles) if torch.is_grad_enabled() else _turned(x, *angles)


class _Rotation(torch.autograd.Function):
    """`rotate` with fewer passes over memory; its gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each half of x written twice, in place: no parts that are joined afterwards."""
    out = torch.empty(x.shape, dtype=cos.dtype, device=x.device)
    (a, b), (u, w) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(a, cos, out=u).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=w).addcmul_(a, sin)
    return out.to(x.dtype)


def _turned_at_one(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """By the angles of `Rotary.at_one`: of few numbers, so that operators count, not passes."""
    halves = x.unflatten(-1, (2, -1))
    return (halves * cos).addcmul_(halves.flip(-2), sin).flatten(-2).to(x.dtype)


def make_norm(cfg: ModelConfig, width: int) -> nn.Module:
    """Pre-norm of a block: LayerNorm (paper) or RMSNorm (modern), both with weights."""
    if cfg.family == "paper":
        return nn.LayerNorm(width, eps=cfg.norm_eps)
    return nn.RMSNorm(width, eps=cfg.norm_eps)


def norm_heads(
    y: Tensor, eps: float, subtract_mean: bool = False, weight: Tensor | None = None
) -> Tensor:
    """Each head of y (B, T, H, d) normalised on its own, without affine weights (Eq. 8), or with
    those of `weight` (d,), shared by the heads."""
    norm = F.layer_norm if subtract_mean else F.rms_norm
    if weight is not None:
        weight = weight.to(y.dtype)  # under autocast y is narrower, and no fused norm takes both
    if y.is_contiguous():
        return norm(y, y.shape[-1:], weight, eps=eps)
    y = y.transpose(1, 2)  # as chunkwise leaves it, head by head: normed there, not copied
    return norm(y, y.shape[-1:], weight, eps=eps).transpose(1, 2)


def drop(x: Tensor, module: nn.Module, cfg: ModelConfig) -> Tensor:
    """Dropout while `module` is training; no work at all where none is asked for."""
    return F.dropout(x, cfg.dropout) if cfg.dropout and module.training else x


def norm_parameters(cfg: ModelConfig) -> int:
    return cfg.d_model * (2 if cfg.family == "paper" else 1)


ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """gelu(x W1) W2 (section 2.3), or SwiGLU (modern)."""

    def initialise(self, gain: float) -> None:
        """Xavier normal; biases 0."""
        for map_ in (self.up, self.down, self.gate):
            if map_ is not None:
                nn.init.xavier_normal_(map_.weight, gain=gain)
                if map_.bias is not None:
                    nn.init.zeros_(map_.bias)

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        modern = cfg.family == "modern"
        self.activation = ACTIVATION[cfg.activation or ("silu" if modern else "gelu")]
        self.up = Linear(cfg.d_model, cfg.d_ffn, bias=cfg.bias)
        self.down = Linear(cfg.d_ffn, cfg.d_model, bias=cfg.bias)
        self.gate = Linear(cfg.d_model, cfg.d_ffn, bias=cfg.bias) if modern else None
        self.joined = None if self.gate is None else Joined((self.gate,), (self.up,))

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))

    def step(self, x: Tensor) -> Tensor:
        """The same of one token, in fewer operators."""
        if self.joined is None:
            return self.forward(x)
        gate, up = self.joined(x)
        return self.down(self.activation(gate) * up)


def ffn_matrices(cfg: ModelConfig) -> int:
    """How many d_model x d_ffn matrices a feed-forward has."""
    return 3 if cfg.family == "modern" else 2
