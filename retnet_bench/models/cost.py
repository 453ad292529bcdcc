"""What a model costs in parameters, matmul FLOPs and state bytes, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from retnet_bench.models.config import ModelConfig
from retnet_bench.models.layers import ffn_matrices, norm_parameters
from retnet_bench.models.mixers import MIXERS, Mixer

Number = TypeVar("Number", int, float)


def _over_layers(cfg: ModelConfig, of: Callable[[type[Mixer], ModelConfig], Number]) -> Number:
    """The sum of what one layer costs by its mixer and config."""
    return sum(count * of(MIXERS[kind.mixer], kind) for kind, count in cfg.kinds.items())


def body_parameters(cfg: ModelConfig) -> int:
    """Parameters of the blocks and the last norm: all but the (tied) embedding."""
    mixers = _over_layers(cfg, lambda m, c: m.matrix_parameters(c) + m.other_parameters(c))
    norms = norm_parameters(cfg) * (2 if cfg.d_ffn else 1)
    layer = ffn_matrices(cfg) * cfg.d_model * cfg.d_ffn + norms
    return mixers + cfg.n_layers * layer + norm_parameters(cfg) + _biases(cfg)


def _biases(cfg: ModelConfig) -> int:
    """Biases of all layers: the mixers' projections and the feed-forwards'."""
    if not cfg.bias:
        return 0
    ffn = (ffn_matrices(cfg) - 1) * cfg.d_ffn + cfg.d_model if cfg.d_ffn else 0
    return _over_layers(cfg, lambda m, c: m.bias_count(c)) + cfg.n_layers * ffn


def parameters(cfg: ModelConfig) -> int:
    """All parameters."""
    rows = cfg.vocab_size * (1 if cfg.tied else 2) + cfg.learned_positions
    return body_parameters(cfg) + rows * cfg.d_model


def forward_flops(cfg: ModelConfig, length: int, *, masked: bool = False) -> float:
    """Matmul FLOPs of a forward pass over one sequence of `length` tokens.

    2 FLOPs a multiply-add for each weight matrix and token, plus each layer's token mixing.
    `masked=True` counts scores that causality discards and then equals FlopCounterMode;
    the default leaves them out, as a good kernel does, and adds what stands for matrix products
    and that counter does not see (`Mixer.uncounted_flops`).
    """
    mixing = _over_layers(cfg, lambda m, c: m.mixing_flops(c, length, masked))
    if not masked:
        mixing += _over_layers(cfg, lambda m, c: m.uncounted_flops(c, length))
    return _matrix_flops(cfg) * length + mixing


def _matrix_flops(cfg: ModelConfig) -> float:
    """FLOPs of one token through every weight matrix, the head among them."""
    mixers = _over_layers(cfg, lambda m, c: m.matrix_parameters(c))
    ffn = cfg.n_layers * ffn_matrices(cfg) * cfg.d_model * cfg.d_ffn
    return 2.0 * (mixers + ffn + cfg.vocab_size * cfg.d_model)


def prefill_flops(cfg: ModelConfig, length: int, *, masked: bool = False) -> float:
    """Matmul FLOPs of reading a prompt: a forward pass with logits of the last token only."""
    spared = 2.0 * (length - 1) * cfg.vocab_size * cfg.d_model
    return forward_flops(cfg, length, masked=masked) - spared


def step_flops(cfg: ModelConfig, position: int) -> float:
    """Matmul FLOPs of one sequence's decode step for the token at `position` (from 0)."""
    return _matrix_flops(cfg) + _over_layers(
        cfg, lambda m, c: m.step_flops(c, position) + m.uncounted_step_flops(c, position)
    )


def executed_train_flops(cfg: ModelConfig, length: int) -> float:
    """Matmul FLOPs a training step of one sequence executes, equal to FlopCounterMode with
    `kernels.flops.ADDED`: masked scores count, and what a fused backward pass computes again.
    `train_flops_per_token` is the figure for utilisation."""
    forward = forward_flops(cfg, length, masked=True)
    mixing = _over_layers(cfg, lambda m, c: m.backward_flops(c, length))
    return forward + 2 * _matrix_flops(cfg) * length + mixing


def uncounted_train_flops(cfg: ModelConfig, length: int) -> float:
    """What such a step executes beside those FLOPs and no counter sees: 3 times the forward pass's,
    by hand (`Mixer.uncounted_flops`)."""
    return 3.0 * _over_layers(cfg, lambda m, c: m.uncounted_flops(c, length))


def train_flops_per_token(cfg: ModelConfig, length: int) -> float:
    """Model FLOPs of forward and backward (3 times forward) per token; no recomputation."""
    return 3.0 * forward_flops(cfg, length) / length


def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
    """KV cache or recurrent state of the whole model after `length` tokens, in bytes."""
    return _over_layers(cfg, lambda m, c: m.state_bytes(c, batch, length, element_bytes))


def state_grows(cfg: ModelConfig) -> bool:
    """Whether the state of some layer, and so a step's work, grows with the position."""
    return any(MIXERS[kind.mixer].state_grows for kind in cfg.kinds)


def longest(cfg: ModelConfig) -> int | None:
    """Tokens of the longest sequence that the model is defined for; None: any."""
    limits = [MIXERS[kind.mixer].longest(kind) for kind in cfg.kinds] + [cfg.learned_positions]
    return min((limit for limit in limits if limit), default=None)


def step_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
    """Least bytes one decode step must move: each weight once, and the state as often as the mixer
    has to (a KV cache is read, a recurrent state written, too)."""
    moved = _over_layers(
        cfg, lambda m, c: m.state_passes * m.state_bytes(c, batch, length, element_bytes)
    )
    return parameters(cfg) * element_bytes + moved


def train_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
    """Least bytes a training step must move. Each fp32 weight (fp64 in an fp64 model): read in
    forward, backward and update, its gradient written and read, the weight and AdamW's two moments
    written, the moments read: 10 passes. Each block's input: written once, read once."""
    blocks = 2 * cfg.n_layers * batch * length * cfg.d_model * element_bytes
    return 10 * parameters(cfg) * max(4, element_bytes) + blocks


def prefill_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
    """Least bytes of reading a prompt: each weight once, the state written once."""
    state = state_bytes(cfg, batch, length, element_bytes)
    return parameters(cfg) * element_bytes + state
