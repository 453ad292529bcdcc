"""Gated linear attention, GLA (arXiv:2312.06635): a learned decay for every channel of the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from retnet_bench.fields import Count
from retnet_bench.kernels import KERNELS, Kernel, retention
from retnet_bench.kernels import channel_decay as kernel_costs
from retnet_bench.kernels.chunks import state_dtype
from retnet_bench.models.config import ModelConfig, Size
from retnet_bench.models.gated_heads import GatedHeads
from retnet_bench.models.joined import Joined
from retnet_bench.models.linear import Linear
from retnet_bench.models.mixers.base import Context, HeadOptions, Mixer, head_count

PAPERS_HEADS = 4
RANK = 16
"""Of the decays' projection (section 4.4)."""
TEMPERATURE = 16.0
"""tau of section 4.4: the decay is sigmoid(.)^(1/tau)."""
SPREAD = (-80.0, 8.0)
"""Biases of the decays from channel to channel, for the check of forms: from e^-5 a token to
e^-2e-5."""
FASTEST, SLOWEST = -1600.0, 30.0
"""Adversarial ones, by halves of a head: e^-100 a token, and no decay in fp32."""


@dataclass(frozen=True, kw_only=True)
class GLAOptions(HeadOptions):
    """Of the mixer `gla`."""

    execution = ("chunk",)
    chunk: Annotated[Count, Field(description="tokens of a chunk of the chunkwise form")] = 64


def _options(cfg: ModelConfig) -> GLAOptions:
    assert isinstance(cfg.options, GLAOptions)
    return cfg.options


def _chunkwise(cfg: ModelConfig) -> bool:
    """A kernel costs what its form does."""
    return KERNELS[cfg.kernel].form == "chunkwise"


class GLA(Mixer):
    """(RMSNorm(heads) * swish(X W_R + b)) W_O; S <- diag(alpha) S + k v^T, o = S^T q d_k^-1/2,
    alpha = sigmoid(X W_1 W_2 + b)^(1/16) (section 4.4).

    Four heads, keys of width d/2, values of width d; W_1 W_2 of rank 16, with a bias; one weight a
    channel of the head norm, shared by the heads; no positions and no convolution. Both maps of
    the decays start as in the authors' code, N(0, 0.02), and their bias at 0: alpha near 0.958.

    Deviations: the output gate has no bias, as in the authors' code; all other maps start as every
    mixer's do here; the feed-forward is the size's, not SwiGLU of 8/3 d.
    """

    kernels = "channel_decay"
    reference = "channel_decay_recurrent"
    Options = GLAOptions
    state_grows = False
    state_passes = 2
    rotates = False
    undecayed = ("decay_up.bias", "norm.weight")

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__(cfg, layer)
        self.query = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.key = Linear(cfg.d_model, cfg.d_key, bias=cfg.bias)
        self.value = Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.gate = Linear(cfg.d_model, cfg.d_value, bias=cfg.bias)
        self.decay_down = Linear(cfg.d_model, RANK, bias=cfg.bias)
        self.decay_up = Linear(RANK, cfg.d_key)
        self.norm = nn.RMSNorm(cfg.value_dim, eps=cfg.norm_eps)
        shape = (cfg.d_value, cfg.d_model)
        self.out = GatedHeads(*shape, bias=cfg.bias, norm="rms", eps=cfg.norm_eps)
        maps = (self.query, self.key, self.value, self.gate, self.decay_down)
        self.joined = Joined(*((map_,) for map_ in maps))

    def initialise(self, gain: float) -> None:
        super().initialise(gain)
        for map_ in (self.decay_down, self.decay_up):
            nn.init.normal_(map_.weight, std=0.02)

    @torch.no_grad()
    def move(self) -> None:
        """Decays from strong to none, over the channels of each head."""
        super().move()
        self._decay_by(torch.linspace(*SPREAD, self.cfg.key_dim))

    @torch.no_grad()
    def adversarial(self) -> None:
        """Half of each head forgets at once, half never. Without the second half the head's norm
        would leave the sign of q k alone, and rounding decide it; queries that are keys keep it."""
        super().move()
        fast = torch.arange(self.cfg.key_dim) % 2 == 0
        self._decay_by(torch.where(fast, FASTEST, SLOWEST))
        self.query.load_state_dict(self.key.state_dict())

    def _decay_by(self, biases: Tensor) -> None:
        """The same in every head: biases (d_k,)."""
        self.decay_up.bias.copy_(biases.repeat(self.cfg.n_heads))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v (B, T, H, d), and the log decay (B, T, H, d_k) in fp32 at least."""
        maps = (self.query, self.key, self.value)
        q, k, v = (f(x).unflatten(-1, (self.cfg.n_heads, -1)) for f in maps)
        return q, k, v, self._log_decay(self.decay_down(x)).view(q.shape)

    def _log_decay(self, narrow: Tensor) -> Tensor:
        """In fp32 at least."""
        logits = self.decay_up(narrow)
        return F.logsigmoid(logits.to(state_dtype(logits.dtype))) / TEMPERATURE

    def _finish(self, y: Tensor, gate: Tensor) -> Tensor:
        return self.out(y, gate, self.norm.weight)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y, _ = self.kernel.run(*self._project(x), chunk=_options(self.cfg).chunk)
        return self._finish(y, self.gate(x))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> Tensor:
        c = self.cfg
        shape = (batch, c.n_heads, c.key_dim, c.value_dim)
        return like.new_zeros(shape, dtype=state_dtype(like.dtype))

    def prefill(self, x: Tensor, context: Context, state: Tensor, start: int) -> Tensor:
        y, new = self.kernel.run(*self._project(x), chunk=_options(self.cfg).chunk, state=state)
        state.copy_(new)
        return self._finish(y, self.gate(x))

    def step(self, x: Tensor, context: Context, state: Tensor, position: int | Tensor) -> Tensor:
        q, k, v, gate, narrow = self.joined(x)
        taken = (q, k, v, self._log_decay(narrow))
        heads = (z.view(len(x), self.cfg.n_heads, -1) for z in taken)
        return self._finish(self.kernel.step(*heads, state).unsqueeze(1), gate)

    @staticmethod
    def defaults(size: Size, family: str, options: GLAOptions) -> dict[str, Any]:
        """Keys of half the width and values of the whole, in four heads or, with a head_dim, as
        many as it makes."""
        d_key = size.d_model // 2
        n_heads = head_count(d_key, options.head_dim or d_key // PAPERS_HEADS)
        return {"n_heads": n_heads, "d_key": d_key, "d_value": size.d_model}

    @staticmethod
    def chunk(cfg: ModelConfig) -> int:
        return _options(cfg).chunk

    @staticmethod
    def unread(kernel: Kernel) -> tuple[str, ...]:
        """fla's chunks are of 64 tokens whatever is asked."""
        ours = kernel.form == "chunkwise" and kernel.package is None
        return () if ours else ("chunk",)

    @staticmethod
    def matrix_parameters(cfg: ModelConfig) -> int:
        """W_Q, W_K (d x d_key), W_V, W_R, W_O (d x d_value), W_1 (d x 16), W_2 (16 x d_key)."""
        d, d_key = cfg.d_model, cfg.d_key
        return d * (2 * d_key + 3 * cfg.d_value) + RANK * (d + d_key)

    @staticmethod
    def other_parameters(cfg: ModelConfig) -> int:
        """The decays' bias, and the head norm's weights."""
        return cfg.d_key + cfg.value_dim

    @staticmethod
    def bias_count(cfg: ModelConfig) -> int:
        return 2 * (cfg.d_key + cfg.d_value) + RANK + cfg.d_model

    @staticmethod
    def mixing_flops(cfg: ModelConfig, length: int, masked: bool) -> float:
        K, V = cfg.key_dim, cfg.value_dim
        if not _chunkwise(cfg):
            return cfg.n_heads * retention.recurrent_flops(length, K, V)
        chunk = _options(cfg).chunk
        return cfg.n_heads * kernel_costs.chunkwise_flops(length, chunk, K, V, masked)

    @staticmethod
    def uncounted_flops(cfg: ModelConfig, length: int) -> float:
        """The diagonal of the chunkwise form's scores, by element."""
        if not _chunkwise(cfg):
            return 0.0
        return cfg.n_heads * kernel_costs.diagonal_flops(length, cfg.key_dim)

    @staticmethod
    def backward_flops(cfg: ModelConfig, length: int) -> float:
        """Two products for each of the forward's, but for those that no loss depends on."""
        twice = 2 * GLA.mixing_flops(cfg, length, masked=True)
        if not _chunkwise(cfg):
            return twice
        dims = (_options(cfg).chunk, cfg.key_dim, cfg.value_dim)
        return twice - cfg.n_heads * retention.unused_backward_flops(length, *dims)

    @staticmethod
    def step_flops(cfg: ModelConfig, position: int) -> float:
        """q S, 2 d_k d_v a head; the update of S is elementwise."""
        return cfg.n_heads * retention.recurrent_flops(1, cfg.key_dim, cfg.value_dim)

    @staticmethod
    def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
        """h d_k d_v numbers a sequence in fp32 (fp64 models: fp64), whatever the length."""
        return batch * cfg.n_heads * cfg.key_dim * cfg.value_dim * max(4, element_bytes)
