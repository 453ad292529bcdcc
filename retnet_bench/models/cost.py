"""What a model costs in parameters, matmul FLOPs and state bytes, in closed form."""

from __future__ import annotations

from retnet_bench.models.config import ModelConfig
from retnet_bench.models.layers import ffn_matrices, norm_parameters
from retnet_bench.models.mixers import MIXERS


def body_parameters(cfg: ModelConfig) -> int:
    """Parameters of the blocks and the last norm: all but the (tied) embedding."""
    mixer = MIXERS[cfg.mixer].parameter_count(cfg)
    ffn = ffn_matrices(cfg) * cfg.d_model * cfg.d_ffn
    layer = mixer + ffn + _biases(cfg) + 2 * norm_parameters(cfg)
    return cfg.n_layers * layer + norm_parameters(cfg)


def _biases(cfg: ModelConfig) -> int:
    """Biases of one layer: the mixer's projections and the feed-forward's."""
    if not cfg.bias:
        return 0
    mixer = MIXERS[cfg.mixer].bias_count(cfg)
    return mixer + (ffn_matrices(cfg) - 1) * cfg.d_ffn + cfg.d_model


def parameters(cfg: ModelConfig) -> int:
    """All parameters."""
    rows = cfg.vocab_size * (1 if cfg.tied else 2) + cfg.learned_positions
    return body_parameters(cfg) + rows * cfg.d_model


def forward_flops(cfg: ModelConfig, length: int, *, masked: bool = False) -> float:
    """Matmul FLOPs of a forward pass over one sequence of `length` tokens.

    2 FLOPs a multiply-add for each weight matrix and token, plus each layer's token mixing.
    `masked=True` counts scores that causality discards and then equals FlopCounterMode;
    the default leaves them out, as a good kernel does.
    """
    mixing = MIXERS[cfg.mixer].mixing_flops(cfg, length, masked)
    return _matrix_flops(cfg) * length + cfg.n_layers * mixing


def _matrix_flops(cfg: ModelConfig) -> float:
    """FLOPs of one token through every weight matrix, the head among them."""
    mixer = MIXERS[cfg.mixer].parameter_count(cfg)
    per_layer = mixer + ffn_matrices(cfg) * cfg.d_model * cfg.d_ffn
    return 2.0 * (cfg.n_layers * per_layer + cfg.vocab_size * cfg.d_model)


def prefill_flops(cfg: ModelConfig, length: int, *, masked: bool = False) -> float:
    """Matmul FLOPs of reading a prompt: a forward pass with logits of the last token only."""
    spared = 2.0 * (length - 1) * cfg.vocab_size * cfg.d_model
    return forward_flops(cfg, length, masked=masked) - spared


def step_flops(cfg: ModelConfig, position: int) -> float:
    """Matmul FLOPs of one sequence's decode step for the token at `position` (from 0)."""
    return _matrix_flops(cfg) + cfg.n_layers * MIXERS[cfg.mixer].step_flops(cfg, position)


def executed_train_flops(cfg: ModelConfig, length: int) -> float:
    """Matmul FLOPs a training step of one sequence executes, equal to FlopCounterMode with
    `kernels.flops.ADDED`: masked scores count, and what a fused backward pass computes again.
    `train_flops_per_token` is the figure for utilisation."""
    forward = forward_flops(cfg, length, masked=True)
    mixing = cfg.n_layers * MIXERS[cfg.mixer].backward_flops(cfg, length)
    return forward + 2 * _matrix_flops(cfg) * length + mixing


def train_flops_per_token(cfg: ModelConfig, length: int) -> float:
    """Model FLOPs of forward and backward (3 times forward) per token; no recomputation."""
    return 3.0 * forward_flops(cfg, length) / length


def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
    """KV cache or retention state of the whole model after `length` tokens, in bytes."""
    layer = MIXERS[cfg.mixer].state_bytes(cfg, batch, length, element_bytes)
    return cfg.n_layers * layer


def step_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
    """Least bytes one decode step must move: each weight once, and the state as often as the mixer
    has to (a KV cache is read, a recurrent state written, too)."""
    state = state_bytes(cfg, batch, length, element_bytes)
    return parameters(cfg) * element_bytes + MIXERS[cfg.mixer].state_passes * state


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
