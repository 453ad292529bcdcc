"""Gated retention, gRet (YOCO, arXiv:2405.05254, section 3.1): retention whose decay is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS, Kernel
from retnet_bench.kernels import scalar_decay as kernel_costs
from retnet_bench.kernels.chunks import state_dtype
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.gated_heads import GatedHeads
from retnet_bench.models.joined import Joined
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, HeadOptions, Mixer, head_count

PAPERS_HEAD_DIM = 128
DECAY_GAIN = 2**-2.5
"""Of the decays' projection, as in the authors' code: they start at 2^(-1/16), within 1 %."""
FASTEST = 200.0
"""Standard deviation of the adversarial logits: decays of up to e^-30 a token, at temperature 16,
on one half of the tokens, and none at all on the other."""


@dataclass(frozen=True, kw_only=True)
class GatedRetentionOptions(HeadOptions):
    """Of the mixer `gated_retention`."""

    execution = ("chunk",)
    chunk: Annotated[Count, Field(description="tokens of a chunk of the chunkwise form")] = 64
    temperature: Annotated[
        float,
        Field(
            strict=True,
            ge=1e-3,
            allow_inf_nan=False,
            description="the decay is sigmoid(x W)^(1 / temperature)",
        ),
    ] = 16.0


def _options(cfg: ModelConfig) -> GatedRetentionOptions:
    assert isinstance(cfg.options, GatedRetentionOptions)
    return cfg.options


def _costs(cfg: ModelConfig, length: int) -> tuple[str, int, int, int, int, int, int]:
    """What FLOPs depend on: a kernel costs what its form does."""
    heads = cfg.n_heads
    return (
        KERNELS[cfg.kernel].form,
        length,
        _options(cfg).chunk,
        heads,
        heads,
        cfg.key_dim,
        cfg.value_dim,
    )


class GatedRetention(Mixer):
    """(swish(X W_G) * RMSNorm(heads)) W_O; S <- gamma S + k v^T, gamma = sigmoid(x w)^(1/16).

    Deviations from the authors' code: the scale d_k^-1/2 is on q, not on k; the state is fp32, not
    of the model's dtype; pairs are rotated as in every mixer here; all maps but the decays' start
    as every mixer's do here (theirs: Xavier uniform with gain 2^-2.5, out 2^-1).
    """

    kernels = "scalar_decay"
    reference = "scalar_recurrent"
    Options = GatedRetentionOptions
    state_grows = False
    state_passes = 2
    columns = ("query", "key", "value", "gate", "decay")
    rows = ("out",)

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.options = _options(cfg)
        self.query = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.key = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.value = Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.gate = Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.decay = Linear(cfg.d_model, cfg.n_heads, bias=False)
        shape = (cfg.d_value, cfg.d_model)
        self.out = GatedHeads(*shape, bias=cfg.bias, norm="rms", eps=cfg.norm_eps)
        self.joined = Joined((self.query, self.key), (self.value,), (self.gate,), (self.decay,))

    def initialise(self, gain: float) -> None:
        super().initialise(gain)
        nn.init.xavier_uniform_(self.decay.weight, gain=DECAY_GAIN)

    @torch.no_grad()
    def move(self) -> None:
        """Logits of a standard deviation from 0.1 to 30, head by head."""
        super().move()
        self._spread(0.1, 30.0)

    @torch.no_grad()
    def adversarial(self) -> None:
        """Some heads forget all but a token itself, whose q k the head's norm then leaves but the
        sign of; so queries are keys, lest rounding decide it."""
        super().move()
        self._spread(FASTEST, 1.0)
        self.query.load_state_dict(self.key.state_dict())

    def _spread(self, first: float, last: float) -> None:
        deviations = torch.logspace(0, 1, self.cfg.n_heads, base=last / first) * first
        nn.init.normal_(self.decay.weight)
        self.decay.weight.mul_(deviations[:, None] * self.cfg.d_model**-0.5)

    def _project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v (B, T, H, d) and the log decay (B, T, H), in fp32 at least."""
        H = self.cfg.n_heads
        q, k, v = (f(x).unflatten(-1, (H, -1)) for f in (self.query, self.key, self.value))
        log_decay = self._log_decay(self.decay(x))
        return context.rotate(q) * self.cfg.key_dim**-0.5, context.rotate(k), v, log_decay

    def _log_decay(self, logits: Tensor) -> Tensor:
        """In fp32 at least."""
        return F.logsigmoid(logits.to(state_dtype(logits.dtype))) / self.options.temperature

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y, _ = self.kernel.run(*self._project(x, context), chunk=self.options.chunk)
        return self.out(y, self.gate(x))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> Tensor:
        c = self.cfg
        shape = (batch, c.n_heads, c.key_dim, c.value_dim)
        return like.new_zeros(shape, dtype=state_dtype(like.dtype))

    def prefill(self, x: Tensor, context: Context, state: Tensor, start: int) -> Tensor:
        projected = self._project(x, context)
        y, new = self.kernel.run(*projected, chunk=self.options.chunk, state=state)
        state.copy_(new)
        return self.out(y, self.gate(x))

    def step(self, x: Tensor, context: Context, state: Tensor, position: int | Tensor) -> Tensor:
        qk, v, gate, logits = self.joined(x)
        H = self.cfg.n_heads
        q, k = context.rotate(qk.view(len(x), 2 * H, -1)).chunk(2, 1)  # (B, H, d)
        log_decay = self._log_decay(logits.view(len(x), H))
        scaled = q * self.cfg.key_dim**-0.5
        y = self.kernel.step(scaled, k, v.view(len(x), H, -1), log_decay, state)
        return self.out(y.unsqueeze(1), gate)

    @staticmethod
    def defaults(size: Size, family: str, options: GatedRetentionOptions) -> dict[str, Any]:
        """Keys and values of width d in heads of 128, as in the paper; where a size's RetNet has
        smaller ones, of that dimension."""
        d = size.d_model
        head_dim = options.head_dim or min(PAPERS_HEAD_DIM, size.retention_head_dim)
        return {"n_heads": head_count(d, head_dim), "d_key": d, "d_value": d}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        return _options(cfg).chunk

    @staticmethod
    def unread(kernel: Kernel) -> tuple[str, ...]:
        return () if kernel.form == "chunkwise" else ("chunk",)

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_G, W_O (d x d_value), and a column for each head's decay."""
        return cfg.d_model * (2 * cfg.d_key + 3 * cfg.d_value + cfg.n_heads)

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return 2 * (cfg.d_key + cfg.d_value) + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        return kernel_costs.flops(*_costs(cfg, length), masked)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        return kernel_costs.backward_flops(*_costs(cfg, length))

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """q S, 2 d_k d_v a head; the update of S is elementwise."""
        return 2.0 * cfg.n_heads * cfg.key_dim * cfg.value_dim

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """h d_k d_v numbers a sequence in fp32 (fp64 models: fp64), whatever the length."""
        return batch * cfg.n_heads * cfg.key_dim * cfg.value_dim * max(4, element_bytes)
